//! The OpenAPI description and the service agree, in both directions. That each response of these tests is described is
//! checked in [`crate::description`].

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::description::{Described, Description};
use crate::harness::{PATIENCE, Response, Service, TestDir, eventually, exchange};

const NUMBER: &str = "+12025550100";
/// A number whose rules and whose record on disk cannot be read.
const CORRUPT: &str = "+12025550144";

/// What no test here can provoke: a disk that does not respond, and a worker that does not stop.
const NOT_PROVOKED: [(&str, &str, u16); 2] = [("GET", "/v1/denylists", 503), ("DELETE", "/v1/workers/{number}", 503)];

fn filled_in(path: &str, number: &str) -> String {
    path.replace("{number}", number).replace("{rule}", "anonymous")
}

#[test]
fn router_supports_the_described_methods() {
    let service = TestDir::new().serve_with(&["--drills"]);
    let description = Description::of(service.address);
    for path in description.paths().keys() {
        let requested = filled_in(path, NUMBER);
        let response = exchange(service.address, "MADEUP", &requested, None).expect("a reply");
        let allow = response.header("allow").expect("Allow").to_owned();
        response.problem(405);
        // axum adds HEAD to GET, as HTTP wants it.
        let allowed: BTreeSet<_> = allow.split(',').map(String::from).filter(|method| method != "HEAD").collect();
        assert_eq!(allowed, description.methods(path), "{path}");
    }
}

#[test]
fn document_is_complete() {
    let service = TestDir::new().serve();
    let document = Description::of(service.address).document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for operation in item.as_object().expect("operations").values() {
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{path}: a duplicate id");
            assert!(operation["summary"].is_string(), "{path}: no summary");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let in_path = parameters.filter(|parameter| parameter["in"] == "path");
            let names: Vec<_> = in_path.filter_map(|parameter| parameter["name"].as_str()).collect();
            let expected: Vec<_> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(names, expected, "{path}");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document["components"]["schemas"][reference].is_object(), "{reference} is not described");
    }
}

/// The responses that were given.
#[derive(Default)]
struct Seen(BTreeSet<Described>);

impl Seen {
    /// Sends a request, and checks and remembers the response.
    #[track_caller]
    fn send(&mut self, to: &Service, method: &str, path: &str, body: Option<&Value>) -> Response {
        let body = body.map(Value::to_string);
        let body = body.as_deref().map(|body| ("application/json", body));
        self.send_raw(to.address, method, path, body)
    }

    #[track_caller]
    fn send_raw(&mut self, to: SocketAddr, method: &str, path: &str, body: Option<(&str, &str)>) -> Response {
        let response = exchange(to, method, path, body).expect("a reply");
        let described = Description::of(to).check(method, path, body.map(|(_, body)| body), &response);
        self.0.insert(described.expect("a path and a method of the description"));
        response
    }

    /// Every operation for a number that no worker can be started for.
    fn all_for(&mut self, service: &Service, number: &str, expected: u16) {
        let path = format!("/v1/denylists/{number}");
        let rule = format!("{path}/rules/anonymous");
        for (method, path, body) in [
            ("POST", "/v1/calls", Some(json!({ "to": number }))),
            ("GET", &path, None),
            ("PUT", &path, Some(json!({ "rules": [] }))),
            ("DELETE", &path, None),
            ("GET", &rule, None),
            ("PUT", &rule, None),
            ("DELETE", &rule, None),
            ("GET", &format!("/v1/reputations/{number}"), None),
            ("POST", &format!("/v1/workers/{number}/crash"), None),
        ] {
            let response = self.send(service, method, path, body.as_ref());
            assert_eq!(response.status, expected, "{method} {path}: {response:?}");
        }
    }
}

fn succeed(seen: &mut Seen, service: &Service) {
    let path = format!("/v1/denylists/{NUMBER}");
    let rule = format!("{path}/rules/anonymous");
    let number = format!("/v1/reputations/{NUMBER}");
    for (method, path, body, status) in [
        ("PUT", path.as_str(), Some(json!({ "rules": ["+1900*", "complaints:5"] })), 200),
        ("PUT", &rule, None, 201),
        ("PUT", &rule, None, 200),
        ("GET", &rule, None, 200),
        ("GET", &path, None, 200),
        ("POST", "/v1/calls", Some(json!({ "from": null, "to": NUMBER })), 200),
        ("POST", "/v1/calls", Some(json!({ "from": "+13035550147", "to": NUMBER })), 200),
        ("GET", &number, None, 200),
        ("GET", "/v1/denylists?limit=1", None, 200),
        ("GET", "/v1/workers?limit=1", None, 200),
        ("GET", "/v1/workers", None, 200),
        ("DELETE", &rule, None, 204),
        ("DELETE", &rule, None, 404),
        ("GET", &rule, None, 404),
        ("DELETE", &path, None, 204),
        ("DELETE", &format!("/v1/workers/{NUMBER}"), None, 200),
        ("DELETE", &format!("/v1/workers/{NUMBER}"), None, 404),
        ("POST", &format!("/v1/workers/{NUMBER}/crash"), None, 202),
        ("GET", "/metrics", None, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/openapi.json", None, 200),
    ] {
        let response = seen.send(service, method, path, body.as_ref());
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
    }
}

fn be_refused(seen: &mut Seen, service: &Service) {
    let description = Description::of(service.address);
    for path in description.paths().keys() {
        for method in description.methods(path) {
            // A path that is not UTF-8, and one that is no number.
            if path.contains("{number}") {
                for (number, status) in [("%ff", 400), ("x", 422)] {
                    let response = seen.send(service, &method, &filled_in(path, number), Some(&json!({ "rules": [] })));
                    assert_eq!(response.status, status, "{method} {path}: {response:?}");
                }
            }
        }
    }
    for list in ["/v1/denylists", "/v1/workers"] {
        for (query, status) in [("limit=x", 400), ("limit=0", 422), ("after=x", 422)] {
            let response = seen.send(service, "GET", &format!("{list}?{query}"), None);
            assert_eq!(response.status, status, "{list}?{query}: {response:?}");
        }
    }
    let long = format!("\"{}\"", "1".repeat(65 << 10));
    for (method, path) in [("POST", "/v1/calls"), ("PUT", &format!("/v1/denylists/{NUMBER}"))] {
        for (content_type, body, status) in [
            ("application/json", "{", 400),
            ("application/json", &long, 413),
            ("text/plain", "{}", 415),
            ("application/json; charset=utf-8", "{}", 422),
        ] {
            let response = seen.send_raw(service.address, method, path, Some((content_type, body)));
            assert_eq!(response.status, status, "{method} {path} {body:.9}: {response:?}");
        }
    }
}

/// Sends the heads of requests, and waits until the service no longer waits for their bodies.
fn be_late(seen: &mut Seen, service: &Service) {
    let requests = [("POST", String::from("/v1/calls")), ("PUT", format!("/v1/denylists/{NUMBER}"))];
    let streams = requests.map(|(method, path)| {
        let mut stream = TcpStream::connect(service.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let head = "Host: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 9";
        stream
            .write_all(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n{{").as_bytes())
            .expect("it reads the head");
        (method, path, stream)
    });
    for (method, path, mut stream) in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a reply");
        let response = Response::parse(&answer).expect("a response");
        assert_eq!(response.status, 408, "{response:?}");
        let described = Description::of(service.address).check(method, &path, None, &response);
        seen.0.insert(described.expect("a described response"));
    }
}

/// Writes what cannot be read: a rule that is none, a date that is none, and a number that is none.
fn corrupt(directory: &TestDir) {
    const RULES: redb::TableDefinition<'_, (u64, &str), ()> = redb::TableDefinition::new("rules");
    const REPUTATIONS: redb::TableDefinition<'_, u64, (u64, u64, u64)> = redb::TableDefinition::new("reputations");
    directory.serve_with(&["--no-sample"]).terminate();
    let number: u64 = CORRUPT[1..].parse().expect("digits");
    let database = redb::Database::create(directory.path("denylist.redb")).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    let mut rules = transaction.open_table(RULES).expect("the table");
    rules.insert((number, "nonsense"), ()).expect("room");
    rules.insert((u64::MAX, "anonymous"), ()).expect("room");
    let mut reputations = transaction.open_table(REPUTATIONS).expect("the table");
    reputations.insert(number, (1, 1, u64::MAX)).expect("room");
    drop((rules, reputations));
    transaction.commit().expect("a commit");
}

#[test]
fn every_described_answer_is_given() {
    let mut seen = Seen::default();
    let service = TestDir::new().serve_with(&["--drills"]);
    succeed(&mut seen, &service);
    be_refused(&mut seen, &service);
    be_late(&mut seen, &service);
    drop(service);

    let service = TestDir::new().serve();
    // Without --drills there is nothing at this path.
    let response = seen.send(&service, "POST", &format!("/v1/workers/{NUMBER}/crash"), None);
    assert_eq!(response.status, 404);
    drop(service);

    let directory = TestDir::new();
    corrupt(&directory);
    let service = directory.serve_with(&["--no-sample", "--drills"]);
    seen.all_for(&service, CORRUPT, 500);
    assert_eq!(seen.send(&service, "GET", "/v1/denylists?limit=1", None).status, 200);
    assert_eq!(seen.send(&service, "GET", "/v1/denylists", None).status, 500);
    drop(service);

    let service = TestDir::new().serve_with(&["--drills", "--max-workers", "1", "--eviction", "none"]);
    service.rules("+12025550101");
    service.get("/v1/reputations/+12025550101").json(200);
    seen.all_for(&service, NUMBER, 503);
    drop(service);

    let service = TestDir::new().serve_with(&["--drain-delay", "3600"]);
    service.signal("TERM");
    eventually("it is not ready", || seen.send(&service, "GET", "/readyz", None).status == 503);
    drop(service);

    let mut described = Description::of(SocketAddr::from(([127, 0, 0, 1], 0))).all();
    for (method, path, status) in NOT_PROVOKED {
        assert!(described.remove(&(method.to_owned(), path.to_owned(), status)), "{method} {path} {status}");
    }
    assert_eq!(seen.0, described);
}
