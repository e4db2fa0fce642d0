//! What the routes answer.

use axum::Router;
use gen_registry::Registry;
use gen_registry::inspect::Inspector;
use serde_json::{Value, json};
use test_support::{Ask, Gate, Step};

use crate::harness::{Owner, Service, request};

fn keys(page: &Value) -> Vec<&str> {
    page["rows"].as_array().expect("rows").iter().map(|row| row["key"].as_str().expect("a key")).collect()
}

#[tokio::test]
async fn list_is_searched_sorted_and_paged() {
    let service = Service::start().await;
    for number in 0..25 {
        service.room(&format!("room {number:02}")).await;
    }
    let list = format!("/api/registries/{}/workers", service.id());
    let page = service.read(&format!("{list}?sort=key&limit=10")).await;
    assert_eq!(
        (page["matched"].clone(), page["next"].clone(), page["complete"].clone()),
        (json!(25), json!(10), json!(true))
    );
    assert_eq!(keys(&page)[..3], ["room 00", "room 01", "room 02"]);
    let page = service.read(&format!("{list}?sort=key&limit=10&offset=20")).await;
    assert_eq!((keys(&page).len(), page["next"].clone()), (5, Value::Null));
    let page = service.read(&format!("{list}?sort=key&order=descending&limit=2")).await;
    assert_eq!(keys(&page), ["room 24", "room 23"]);
    let page = service.read(&format!("{list}?filter=ROOM%201&sort=key")).await;
    assert_eq!((page["matched"].clone(), keys(&page)[0]), (json!(10), "room 10"));

    let gate = Gate::new();
    let busy = service.rooms.lookup("room 07").expect("it runs");
    busy.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it is sent");
    gate.reached().await;
    for note in 0..3 {
        busy.cast(Ask::Note(note)).await.expect("it is sent");
    }
    let page = service.read(&format!("{list}?sort=queued&order=descending&limit=1")).await;
    assert_eq!((keys(&page), page["rows"][0]["queued"].clone()), (vec!["room 07"], json!(3)));
    gate.open();
}

#[tokio::test]
async fn parameters_are_bounded_and_named() {
    let service = Service::start().await;
    let id = service.id();
    let list = format!("/api/registries/{id}/workers");
    let long = "x".repeat(5_000);
    let bad = [
        (format!("{list}?limit=0"), "limit must be a whole number from 1 to 200"),
        (format!("{list}?limit=201"), "limit must be"),
        (format!("{list}?limit=ten"), "limit must be"),
        (format!("{list}?offset=10001"), "offset must be a whole number from 0 to 10000"),
        (format!("{list}?sort=colour"), "sort must be one of id, key, state"),
        (format!("{list}?order=up"), "order must be one of ascending, descending"),
        (format!("{list}?state=asleep"), "state must be one of any, starting"),
        (format!("{list}?limit=5&limit=6"), "there twice"),
        (format!("{list}?page=2"), "\\\"page\\\" is not a parameter"),
        (format!("{list}?filter={long}"), "filter is longer than 4096 bytes"),
        (format!("{list}?{}", "a=1&".repeat(17)), "more than 16 parameters"),
        (format!("/api/registries/{id}/worker"), "either ref or key"),
        (format!("/api/registries/{id}/worker?ref=x"), "ref is not a reference"),
        ("/api/registries?points=0".to_owned(), "points must be a whole number from 1 to 600"),
        ("/api/registries/x".to_owned(), "a number"),
        ("/api/registries/%ff/workers".to_owned(), "a number"),
        ("/api/events?after=-1".to_owned(), "after must be"),
        ("/api/stream?ref=1-0".to_owned(), "ref needs a registry"),
    ];
    for (path, message) in bad {
        let answer = service.get(&path).await;
        assert_eq!(answer.status, 400, "{path:.80}: {}", answer.text);
        assert_eq!(answer.json()["code"], "bad_parameter", "{path:.80}");
        assert!(answer.text.contains(message), "{path:.80}: {}", answer.text);
    }
}

#[tokio::test]
async fn worker_is_found_by_reference_and_by_key() {
    let service = Service::start().await;
    for key in ["a", "ab", "<script>alert(1)</script>", "ä/ö?&="] {
        service.room(key).await;
    }
    let path = format!("/api/registries/{}/worker", service.id());
    let by_key = service.read(&format!("{path}?key=a")).await;
    assert_eq!(
        (by_key["key"].clone(), by_key["state"].clone(), by_key["incarnation"].clone()),
        (json!("a"), json!("running"), json!(1))
    );
    let reference = by_key["worker"].as_str().expect("a reference");
    assert_eq!(service.read(&format!("{path}?ref={reference}")).await["key"], "a");
    let odd = service.read(&format!("{path}?key=%3Cscript%3Ealert(1)%3C/script%3E")).await;
    assert_eq!(odd["key"], "<script>alert(1)</script>");
    assert_eq!(service.read(&format!("{path}?key=%C3%A4/%C3%B6?%26%3D")).await["key"], "ä/ö?&=");
    // The key says which worker is meant, where the two differ.
    assert_eq!(service.read(&format!("{path}?ref={reference}&key=ab")).await["key"], "ab");
    // A reference of another process, whose key has a worker here.
    assert_eq!(service.read(&format!("{path}?ref=999-00000000000000ff&key=ab")).await["key"], "ab");

    service.rooms.stop("a").await.expect("it stops");
    let answer = service.get(&format!("{path}?ref={reference}&key=a")).await;
    assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (404, Some("no_worker")));
    service.room("a").await;
    let next = service.read(&format!("{path}?ref={reference}")).await;
    assert_ne!(next["worker"], by_key["worker"]);
}

#[tokio::test]
async fn registry_has_its_options_and_totals() {
    let service = Service::of(Inspector::new(), |rooms| rooms.max_workers(9).mailbox_capacity(7)).await;
    service.room("a").await;
    service.rooms.stop("a").await.expect("it stops");
    let registry = service.read(&format!("/api/registries/{}?points=10", service.id())).await;
    assert_eq!((registry["limit"].clone(), registry["capacity"].clone()), (json!(9), json!(7)));
    assert_eq!((registry["starts"]["ok"].clone(), registry["exits"]["stopped"].clone()), (json!(1), json!(1)));
    let options = registry["options"].as_array().expect("options");
    assert!(options.contains(&json!(["mailbox_capacity", "7"])), "{options:?}");
    let gone = service.get("/api/registries/18446744073709551615").await;
    assert_eq!((gone.status.as_u16(), gone.json()["code"].as_str()), (404, Some("no_registry")));
}

#[tokio::test]
async fn tree_has_owned_registries_below_their_owner() {
    let service = Service::start().await;
    let owners = Registry::<Owner>::builder().name("owners").inspect(&service.inspector, u32::to_string);
    let owners = owners.build().expect("the registry is built");
    owners.start(&7, service.inspector.clone()).await.expect("the owner starts");
    // The next sample has it.
    let mut stream = crate::harness::Events::open(&service, "").await.expect("it opens");
    let has_three = |sample: &Value| sample["registries"].as_array().is_some_and(|registries| registries.len() == 3);
    stream.until("registries", "the owned registry in a sample", has_three).await;
    let tree = service.read("/api/tree").await;
    let roots = tree["roots"].as_array().expect("roots");
    assert_eq!(
        roots.iter().map(|root| root["name"].as_str().expect("a name")).collect::<Vec<_>>(),
        [&*service.name, "owners"]
    );
    assert_eq!(
        (roots[1]["owners"][0]["key"].clone(), roots[1]["owners"][0]["registries"][0]["name"].clone()),
        (json!("7"), json!("owned"))
    );

    let owner = service.read(&format!("/api/registries/{}/worker?key=7", roots[1]["registry"])).await;
    assert_eq!(owner["children"][0]["name"], "owned");
}

#[tokio::test]
async fn router_works_at_any_path() {
    let inspector = Inspector::new();
    let router = || gen_registry_console::router(&inspector);
    let app = Router::new()
        .nest("/a/b", router())
        .nest_service("/slash", router())
        .nest("/{tenant}/console", router())
        .merge(Router::new().fallback_service(router()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("its address"));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    for (path, below) in
        [("/a/b", "./b/"), ("/slash", "./slash/"), ("/slash/", "./"), ("/t/console", "./console/"), ("/", "./")]
    {
        let page = request("GET", &format!("{base}{path}"), &[], String::new()).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.text.contains(&format!("src=\"{below}console.js\"")), "{path}: {}", page.text);
        let parent = &path[..=path.rfind('/').expect("a slash")];
        let script = format!("{base}{parent}{}", below.trim_start_matches("./"));
        assert_eq!(request("GET", &format!("{script}console.js"), &[], String::new()).await.status, 200, "{script}");
        assert_eq!(
            request("GET", &format!("{script}api/registries"), &[], String::new()).await.status,
            200,
            "{script}"
        );
    }
    server.abort();
}

#[test]
fn router_may_be_made_without_a_runtime() {
    let inspector = Inspector::new();
    let app = Router::new().nest("/console", gen_registry_console::router(&inspector));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/console/api/registries", listener.local_addr().expect("its address"));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        assert_eq!(request("GET", &url, &[], String::new()).await.json()["version"], 1);
        server.abort();
    });
}

/// A view of a cluster that panics.
struct Panics;

impl gen_registry_console::ClusterView for Panics {
    fn view(&self) -> gen_registry_console::json::Cluster {
        panic!("a view that panics")
    }
}

#[tokio::test]
async fn view_that_panics_costs_its_request() {
    let service = Service::start().await;
    drop(service.console.clone().cluster(Panics));
    for _ in 0..3 {
        let answer = service.get("/api/cluster").await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (500, Some("panicked")));
        assert!(answer.headers.contains_key("content-security-policy"));
    }
    service.read("/api/registries").await;
}

#[tokio::test]
async fn ended_registry_is_found_nowhere() {
    let service = Service::start().await;
    service.room("a").await;
    let id = service.id();
    let mut stream = crate::harness::Events::open(&service, &format!("?registry={id}")).await.expect("it opens");
    stream.next("workers").await;
    let _ = service.rooms.shutdown().await; // Nothing is stuck.
    let is_gone = |sample: &Value| sample["registries"].as_array().is_some_and(Vec::is_empty);
    stream.until("registries", "a sample without the registry", is_gone).await;
    for path in ["", "/workers", "/worker?key=a"] {
        let answer = service.get(&format!("/api/registries/{id}{path}")).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (404, Some("no_registry")), "{path}");
    }
}
