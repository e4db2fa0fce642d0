//! Workers in the state of an axum router, and a shutdown that loses no request.
//!
//! ```sh
//! cargo run -p axum-state                        # plays the session below
//! cargo run -p axum-state -- 127.0.0.1:3000 data # serves until Ctrl-C or SIGTERM, with its files in `data`
//! curl -d tea http://127.0.0.1:3000/carts/ada
//! curl http://127.0.0.1:3000/carts/ada
//! ```
//!
//! Each cart is a worker, which writes its file at the end. In the session the service stops while it receives a
//! request:
//!
//! ```text
//! POST /carts/ada tea -> 200 tea
//! POST /carts/ada mug -> 200 tea, mug
//! GET /carts/ada      -> 200 tea, mug
//! POST /carts/bob ... the service has read the head of the request
//! the service stops: new connections are refused
//! POST /carts/bob pen -> 200 pen
//! drained 2, aborted 0, stuck 0
//! the service starts again
//! GET /carts/ada      -> 200 tea, mug
//! GET /carts/bob      -> 200 pen
//! drained 2, aborted 0, stuck 0
//! ```
//!
//! A shutdown has two steps, and their order matters:
//!
//! 1. axum accepts no more connections, and completes the requests that it has. They need the workers, and may start
//!    more of them. A time limit bounds this step, because a client may send or read slowly.
//! 2. [`Registry::shutdown`] lets each worker handle what its mailbox has accepted, and
//!    [`terminate`](Worker::terminate).
//!
//! In the other order, the requests of the first step would get `503`. Without the second step, the process would exit
//! before the workers have written their files.

use std::error::Error;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use gen_registry::{CallError, Context, ExitReason, Registry, Reply, ShutdownReport, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

type BoxError = Box<dyn Error + Send + Sync>;

/// How long requests may take during a shutdown.
const GRACE: Duration = Duration::from_secs(10);
/// How long a call of a worker may take, its start included.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_ITEM: usize = 64;

/// The items that one customer wants.
struct Cart {
    items: Vec<String>,
    is_changed: bool,
    file: PathBuf,
}

enum Message {
    Add(String, Reply<String>),
    List(Reply<String>),
}

impl Worker for Cart {
    type Key = String;
    type Args = PathBuf;
    type Message = Message;
    type Error = BoxError;

    async fn init(directory: PathBuf, ctx: &mut Context<Self>) -> Result<Self, BoxError> {
        let file = directory.join(ctx.key());
        let path = file.clone();
        let items = match ctx.spawn_blocking(move || fs::read_to_string(path)).await? {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text?.lines().map(String::from).collect(),
        };
        Ok(Cart { items, is_changed: false, file })
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), BoxError> {
        match message {
            Message::Add(item, reply) => {
                self.items.push(item);
                self.is_changed = true;
                reply.send(self.items.join(", "));
            }
            Message::List(reply) => reply.send(self.items.join(", ")),
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        let Cart { items, is_changed, file } = self;
        if is_changed {
            // The worker has not ended before this has, so a shutdown waits for it.
            ctx.spawn_blocking(move || {
                let new = file.with_extension("new");
                let written = fs::write(&new, items.join("\n")).and_then(|()| fs::rename(new, &file));
                if let Err(error) = written {
                    eprintln!("could not write {}: {error}", file.display());
                }
            });
        }
    }
}

/// What every handler has. A registry is cheap to clone.
#[derive(Debug, Clone)]
struct App {
    carts: Registry<Cart>,
    directory: PathBuf,
}

impl App {
    /// Calls the worker of a cart.
    async fn call(&self, name: &str, message: impl FnOnce(Reply<String>) -> Message) -> Result<String, StatusCode> {
        // The name becomes the name of a file.
        if name.len() > 32 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(StatusCode::NOT_FOUND);
        }
        let cart = self.carts.via_or_start(name, self.directory.clone());
        cart.call_timeout(PATIENCE, message).await.map_err(|error| {
            eprintln!("cart {name}: {error}");
            status(&error)
        })
    }
}

/// The response to a failed call. A client may repeat a request that gets `503`: nothing was changed.
fn status<W: Worker>(error: &CallError<W>) -> StatusCode {
    match error {
        CallError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        error if error.may_have_run() => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn router(app: App) -> Router {
    Router::new().route("/carts/{name}", get(list).post(add)).layer(DefaultBodyLimit::max(LONGEST_ITEM)).with_state(app)
}

async fn list(State(app): State<App>, Path(name): Path<String>) -> Result<String, StatusCode> {
    app.call(&name, Message::List).await
}

async fn add(State(app): State<App>, Path(name): Path<String>, item: String) -> Result<String, StatusCode> {
    if item.is_empty() || item.contains(char::is_control) {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    app.call(&name, |reply| Message::Add(item, reply)).await
}

/// Serves until `stop` completes. Then shuts down in order.
async fn serve(
    listener: TcpListener,
    app: App,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<ShutdownReport> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(app.clone())).with_graceful_shutdown(async move {
        stop.await;
        drop(stopping);
    });
    let late = async {
        // The sender sends nothing. Dropping it is the signal.
        drop(stopped.await);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => served?,
        () = late => eprintln!("some requests did not complete in time"),
    }
    Ok(app.carts.shutdown().await)
}

async fn interrupt() {
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => pending().await, // the signal then ends the process at once
        }
    };
    #[cfg(not(unix))]
    let terminate = pending::<()>();
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            pending().await
        }
    };
    tokio::select! {
        () = terminate => {}
        () = interrupt => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else {
        session().await?.iter().for_each(|line| println!("{line}"));
        return Ok(());
    };
    let directory = PathBuf::from(arguments.next().ok_or("usage: axum-state [ADDRESS DIRECTORY]")?);
    fs::create_dir_all(&directory)?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let report = serve(listener, App { carts: Registry::new(), directory }, interrupt()).await?;
    println!("{}", in_words(report));
    Ok(())
}

fn in_words(report: ShutdownReport) -> String {
    format!("drained {}, aborted {}, stuck {}", report.drained, report.aborted, report.stuck)
}

/// A service that runs in a task.
struct Service {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<ShutdownReport>>,
}

impl Service {
    async fn start(app: App) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, app, async { drop(stopped.await) }));
        Ok(Self { address, stop, served })
    }
}

/// A request in the session.
struct Request {
    connection: TcpStream,
    line: String,
    item: &'static str,
}

impl Request {
    /// Sends the head of a request. Returns when the service waits for the body.
    async fn begin(address: SocketAddr, line: &str, item: &'static str) -> Result<Self, BoxError> {
        let mut connection = TcpStream::connect(address).await?;
        let mut head = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        if item.is_empty() {
            connection.write_all(format!("{head}\r\n").as_bytes()).await?;
        } else {
            head += &format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", item.len());
            connection.write_all(head.as_bytes()).await?;
            let mut answer = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
            connection.read_exact(&mut answer).await?;
        }
        Ok(Self { connection, line: format!("{line} {item}"), item })
    }

    /// Sends the body and receives the response. Returns both as a line.
    async fn finish(mut self) -> Result<String, BoxError> {
        self.connection.write_all(self.item.as_bytes()).await?;
        let mut response = String::new();
        self.connection.read_to_string(&mut response).await?;
        let status = response.split(' ').nth(1).ok_or("the response has no status")?;
        let (_, body) = response.split_once("\r\n\r\n").ok_or("the response has no body")?;
        Ok(format!("{:<19} -> {status} {body}", self.line).trim_end().into())
    }
}

async fn request(address: SocketAddr, line: &str, item: &'static str) -> Result<String, BoxError> {
    Request::begin(address, line, item).await?.finish().await
}

/// Plays the session of the documentation, and returns what it prints.
async fn session() -> Result<Vec<String>, BoxError> {
    let directory = tempfile::tempdir()?;
    let app = || App { carts: Registry::new(), directory: directory.path().into() };
    let mut printed = Vec::new();

    let Service { address, stop, served } = Service::start(app()).await?;
    for (line, item) in [("POST /carts/ada", "tea"), ("POST /carts/ada", "mug"), ("GET /carts/ada", "")] {
        printed.push(request(address, line, item).await?);
    }
    let bob = Request::begin(address, "POST /carts/bob", "pen").await?;
    printed.push("POST /carts/bob ... the service has read the head of the request".into());
    drop(stop);
    // A connection that the system accepts before the listener is closed ends with it.
    while TcpStream::connect(address).await.is_ok() {}
    printed.push("the service stops: new connections are refused".into());
    printed.push(bob.finish().await?);
    printed.push(in_words(served.await??));

    printed.push("the service starts again".into());
    let service = Service::start(app()).await?;
    for line in ["GET /carts/ada", "GET /carts/bob"] {
        printed.push(request(service.address, line, "").await?);
    }
    drop(service.stop);
    printed.push(in_words(service.served.await??));
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    /// The session in the documentation above.
    fn documented() -> Vec<&'static str> {
        let (_, block) = include_str!("main.rs").split_once("//! ```text\n").expect("there is a session");
        block.lines().take_while(|line| *line != "//! ```").map(|line| &line[4..]).collect()
    }

    #[tokio::test]
    async fn session_prints_the_documented_lines() {
        let printed = within(session(), "the session").await.expect("the session has no errors");
        assert_eq!(printed, documented());
    }

    #[tokio::test]
    async fn bad_names_and_items_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let app = App { carts: Registry::new(), directory: directory.path().into() };
        let service = Service::start(app.clone()).await.expect("the service starts");
        for (line, item, status) in [
            ("GET /carts/..%2Fpasswd", "", "404"),
            ("POST /carts/ada", "two\nlines", "422"),
            ("POST /carts/ada", "pen", "200"),
        ] {
            let answer = within(request(service.address, line, item), "an answer").await.expect("a response");
            assert!(answer.contains(&format!("-> {status}")), "{answer}");
        }
        assert_eq!(app.carts.count(), 1);
    }

    #[tokio::test]
    async fn requests_after_the_shutdown_get_503() {
        let directory = tempfile::tempdir().expect("a directory");
        let app = App { carts: Registry::new(), directory: directory.path().into() };
        let service = Service::start(app.clone()).await.expect("the service starts");
        assert_eq!(within(app.carts.shutdown(), "the shutdown").await.stuck, 0); // the wrong order
        let answer = within(request(service.address, "POST /carts/ada", "tea"), "an answer").await;
        assert_eq!(answer.expect("a response"), "POST /carts/ada tea -> 503");
    }
}
