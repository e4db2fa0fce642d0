//! The console beside the API: what a browser gets, what clients keep, actions, and the demo.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{PATIENCE, Service, TestDir, eventually};

const NUMBER: &str = "+12025550100";

/// The head and the body of a response. Not by the harness, which knows the described API only.
fn fetch(service: &Service, request: &str, headers: &[&str], body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(service.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut text = format!("{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", service.address);
    headers.iter().for_each(|header| text += &format!("{header}\r\n"));
    text += &format!("content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

#[track_caller]
fn json(service: &Service, path: &str) -> Value {
    let (head, body) = fetch(service, &format!("GET /console/api/{path}"), &[], "");
    assert!(head.starts_with("http/1.1 200"), "{path}: {head} {body}");
    serde_json::from_str(&body).expect("JSON")
}

fn registry(service: &Service, name: &str) -> Value {
    let all = json(service, "registries");
    let list = all["registries"].as_array().expect("a list").clone();
    list.into_iter().find(|registry| registry["name"] == name).expect("the registry is inspected")
}

#[test]
fn browsers_are_sent_to_the_console() {
    let service = TestDir::new().serve();
    let (head, _) = fetch(&service, "GET /", &["accept: text/html,application/xhtml+xml"], "");
    assert!(head.starts_with("http/1.1 307") && head.contains("location: /console"), "{head}");
    // What no browser asks for stays as it is.
    for (request, headers) in
        [("GET /", &[][..]), ("GET /", &["accept: application/json"]), ("POST /", &["accept: text/html"])]
    {
        let (head, body) = fetch(&service, request, headers, "");
        assert!(head.starts_with("http/1.1 404") && body.contains("there is nothing at this path"), "{head} {body}");
    }
    for path in ["/console", "/console/"] {
        let (head, body) = fetch(&service, &format!("GET {path}"), &["accept: text/html"], "");
        assert!(head.starts_with("http/1.1 200") && body.contains("<html"), "{path}: {head}");
    }
    service.terminate();
}

/// Asks for the rules of the number, which starts its worker, and returns the worker in the console.
fn listed_worker(service: &Service) -> (u64, Value) {
    assert!(service.rules(NUMBER).is_empty());
    let id = registry(service, "denylist")["id"].as_u64().expect("a number");
    let page = json(service, &format!("registries/{id}/workers?filter=0100&sort=key"));
    assert_eq!(page["rows"][0]["key"], NUMBER, "{page}");
    (id, page["rows"][0].clone())
}

fn act(service: &Service, id: u64, worker: &Value) -> String {
    let body = serde_json::json!({ "worker": worker["worker"], "action": "stop" }).to_string();
    let headers = ["content-type: application/json", "gen-registry-console: 1"];
    let origin = format!("origin: http://{}", service.address);
    let headers: Vec<&str> = headers.into_iter().chain([&*origin, "sec-fetch-site: same-origin"]).collect();
    let (head, body) = fetch(service, &format!("POST /console/api/registries/{id}/actions"), &headers, &body);
    format!("{} {body}", &head[9..12])
}

#[test]
fn console_acts_only_with_the_option() {
    let service = TestDir::new().serve();
    let (id, worker) = listed_worker(&service);
    let answer = act(&service, id, &worker);
    assert!(answer.starts_with("403") && answer.contains("not_allowed"), "{answer}");
    assert_eq!(listed_worker(&service).1["worker"], worker["worker"], "it still runs");
    service.terminate();

    let service = TestDir::new().serve_with(&["--console-actions"]);
    let (id, worker) = listed_worker(&service);
    let answer = act(&service, id, &worker);
    assert!(answer.starts_with("200"), "{answer}");
    let page = json(&service, &format!("registries/{id}/workers?filter=0100"));
    assert_eq!(page["rows"].as_array().map(Vec::len), Some(0), "{page}");
    service.terminate();
}

#[test]
fn open_pages_do_not_delay_the_end() {
    let service = TestDir::new().serve();
    let mut stream = TcpStream::connect(service.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET /console/api/stream HTTP/1.1\r\nhost: {}\r\n\r\n", service.address).expect("it reads");
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.any(|line| line.expect("it sends").starts_with("event:")), "the stream has an event");
    let began = Instant::now();
    let log = service.terminate();
    assert!(!log.iter().any(|line| line.contains("did not close in time")), "{log:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn demo_moves_within_a_minute() {
    let service = TestDir::new().serve_with(&["--demo", "--log", "off"]);
    let mut seen = Vec::new();
    let mut after = 0;
    eventually("crashes, restarts, evictions and slow messages are shown", || {
        let feed = json(&service, &format!("events?after={after}"));
        after = feed["latest"].as_u64().unwrap_or(after);
        let events = feed["events"].as_array().expect("a list").clone();
        seen.extend(events.iter().map(|event| event["kind"].as_str().unwrap_or_default().to_owned()));
        ["crashed", "restarted", "evicted", "slow"].iter().all(|kind| seen.iter().any(|other| other == kind))
    });
    let page = registry(&service, "denylist");
    assert!(page.to_string().contains("400"), "it has the limit of the demo: {page}");
    service.terminate();
}
