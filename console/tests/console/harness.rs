//! A service with a console, and a client.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Request, StatusCode};
use gen_registry::inspect::Inspector;
use gen_registry::{Builder, Context, Registry, Restart, Worker};
use gen_registry_console::{ClusterView, Console, json};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use test_support::{Plan, Probe, within};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A service whose workers a test controls.
pub(crate) struct Service {
    pub(crate) inspector: Inspector,
    /// The name of the registry of rooms.
    pub(crate) name: String,
    pub(crate) rooms: Registry<Probe>,
    pub(crate) console: Console,
    /// Where the console is, without a slash at the end.
    pub(crate) url: String,
    /// Begins the graceful shutdown.
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) server: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::of(Inspector::new(), |rooms| rooms).await
    }

    pub(crate) async fn with_actions() -> Self {
        Self::of(Inspector::new().allow_actions(), |rooms| rooms.restart(Restart::Transient)).await
    }

    pub(crate) async fn of(inspector: Inspector, options: impl FnOnce(Builder<Probe>) -> Builder<Probe>) -> Self {
        Self::at("127.0.0.1:0", inspector, options).await
    }

    pub(crate) async fn at(
        address: &str,
        inspector: Inspector,
        options: impl FnOnce(Builder<Probe>) -> Builder<Probe>,
    ) -> Self {
        // Two registries of one name cannot report to one recorder, and the tests of a process share it.
        static SERVICES: AtomicU32 = AtomicU32::new(0);
        let name = format!("rooms {}", SERVICES.fetch_add(1, Ordering::Relaxed));
        let rooms = Registry::<Probe>::builder().name(&name).inspect(&inspector, Clone::clone);
        let rooms = options(rooms).build().expect("the registry is built");
        let console = Console::new(&inspector);
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = TcpListener::bind(address).await.expect("a port");
        let url = format!("http://{}/ops/console", listener.local_addr().expect("its address"));
        let app = Router::new().nest("/ops/console", console.router());
        let served = axum::serve(listener, app).with_graceful_shutdown(async move {
            let _ = stopped.await; // Dropped with the test.
        });
        let server = tokio::spawn(async move { served.await.expect("the server runs") });
        Self { inspector, name, rooms, console, url, stop, server }
    }

    pub(crate) async fn room(&self, key: &str) -> gen_registry::WorkerHandle<Probe> {
        self.rooms.start(key, Plan::default()).await.expect("the worker starts")
    }

    /// The id of the registry of rooms.
    pub(crate) fn id(&self) -> u64 {
        self.inspector.registries()[0].id()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        request("GET", &format!("{}{path}", self.url), &[], String::new()).await
    }

    /// A successful answer.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    pub(crate) async fn act(&self, action: &str, worker: &str, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}/api/registries/{}/actions", self.url, self.id());
        let body = serde_json::json!({"action": action, "worker": worker}).to_string();
        request("POST", &url, headers, body).await
    }

    /// The reference of the worker of a key.
    pub(crate) async fn reference(&self, key: &str) -> String {
        let worker = self.read(&format!("/api/registries/{}/worker?key={key}", self.id())).await;
        worker["worker"].as_str().expect("a reference").to_owned()
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: String) -> axum::http::Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into()).expect("a request");
    within(client.request(request), "an answer").await.expect("the service answers")
}

pub(crate) async fn request(method: &str, url: &str, headers: &[(&str, &str)], body: String) -> Answer {
    let response = send(method, url, headers, body).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = within(response.into_body().collect(), "the body of an answer").await.expect("a body");
    let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    Answer { status, headers, text }
}

/// An open stream of server-sent events.
pub(crate) struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    pub(crate) async fn open(service: &Service, parameters: &str) -> Result<Self, StatusCode> {
        let response = send("GET", &format!("{}/api/stream{parameters}", service.url), &[], String::new()).await;
        if response.status() != 200 {
            return Err(response.status());
        }
        Ok(Self { body: response.into_body(), text: String::new() })
    }

    /// The next event, or `None` at the end of the stream.
    pub(crate) async fn any(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let found = field("event:").zip(field("data:"));
                let found = found.map(|(name, data)| (name.to_owned(), serde_json::from_str(data).expect("JSON")));
                self.text = rest.to_owned();
                // A comment keeps the connection alive.
                let Some(found) = found else { continue };
                return Some(found);
            }
            let frame = self.body.frame().await?.expect("the connection holds");
            if let Ok(data) = frame.into_data() {
                self.text += std::str::from_utf8(&data).expect("text");
            }
        }
    }

    /// The next event of a name.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        let next = async {
            loop {
                let (found, data) = self.any().await.expect("the stream goes on");
                if found == name {
                    return data;
                }
            }
        };
        within(next, &format!("the event {name} of a stream")).await
    }

    /// Reads events of a name until one of them is as expected, and returns that.
    pub(crate) async fn until(&mut self, name: &str, lost: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let event = self.next(name).await;
                if is_expected(&event) {
                    return event;
                }
            }
        };
        within(found, lost).await
    }

    /// Reads until the stream ends.
    pub(crate) async fn end(mut self) {
        within(async { while self.any().await.is_some() {} }, "the end of a stream").await;
    }
}

/// A cluster of two nodes, of which one is leaving.
pub(crate) struct TwoNodes;

impl ClusterView for TwoNodes {
    fn view(&self) -> json::Cluster {
        let member = |id: &str, leaving| json::Member {
            id: id.to_owned(),
            address: "10.0.0.7:4000".to_owned(),
            leaving,
            connected: true,
            seen: 1_500,
            ..json::Member::default()
        };
        json::Cluster {
            name: "<b>chat</b>".to_owned(),
            node: "a-1".to_owned(),
            valid: 7_400,
            shards: json::Shards { here: 40, moving: 3, ..json::Shards::default() },
            nodes: vec![member("a-1", false), member("b-1", true)],
            moved: 12,
            fences: 1,
            ..json::Cluster::default()
        }
    }
}

/// Owns a registry of its own.
pub(crate) struct Owner;

impl Worker for Owner {
    type Key = u32;
    type Args = Inspector;
    type Message = Infallible;
    type Error = gen_registry::BuildError;

    async fn init(inspector: Inspector, ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        let owned = Registry::<Probe>::builder().name("owned").inspect(&inspector, Clone::clone).build()?;
        ctx.own(&owned);
        Ok(Self)
    }

    async fn handle(&mut self, message: Infallible, _: &mut Context<Self>) -> Result<(), Self::Error> {
        match message {}
    }
}
