//! Requests that are larger than any honest one.

use std::fmt::Write;

use crate::clients::{Raw, resident};
use crate::harness::TestDir;
use crate::scaled;

const POST: &str = "POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";

/// A request, and the status of its response. Where the server gives up, it may close the connection instead.
fn requests() -> Vec<(&'static str, String, u16)> {
    let with_body = |body: &str| format!("{POST}Content-Length: {}\r\n\r\n{body}", body.len());
    let mut headers = String::from("GET /healthz HTTP/1.1\r\nHost: x\r\n");
    for n in 0..200 {
        write!(headers, "X-{n}: y\r\n").expect("a string grows");
    }
    let fields: Vec<String> = (0..4_000).map(|n| format!("\"f{n}\":1")).collect();
    let rules: Vec<String> = (0..1_001).map(|n| format!("\"complaints:{}\"", n + 1)).collect();
    let many_rules = format!("{{\"rules\":[{}]}}", rules.join(","));
    let put = "PUT /v1/denylists/+12025550100 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    vec![
        ("a long header", format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)), 431),
        ("a long path", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100 << 10)), 431),
        ("a long query", format!("GET /v1/workers?after={} HTTP/1.1\r\nHost: x\r\n\r\n", "9".repeat(20 << 10)), 422),
        ("many headers", format!("{headers}\r\n"), 431),
        ("a body of a gigabyte", format!("{POST}Content-Length: 1073741824\r\n\r\n{{"), 413),
        ("a body that is too long", with_body(&"9".repeat(65 << 10)), 413),
        ("a length beyond all integers", format!("{POST}Content-Length: {}\r\n\r\n", "9".repeat(40)), 400),
        ("a deep list", with_body(&format!("{{\"to\":{}", "[".repeat(60 << 10))), 400),
        ("a deep object", with_body(&"{\"to\":".repeat(10 << 10)), 400),
        ("many fields", with_body(&format!("{{{}}}", fields.join(","))), 422),
        ("a long number", with_body(&format!("{{\"to\":{}}}", "9".repeat(60 << 10))), 400),
        ("a long name", with_body(&format!("{{\"{}\":1}}", "n".repeat(60 << 10))), 422),
        ("a long phone number", with_body(&format!("{{\"to\":\"{}\"}}", "1".repeat(60 << 10))), 422),
        ("too many rules", format!("{put}Content-Length: {}\r\n\r\n{many_rules}", many_rules.len()), 422),
    ]
}

#[test]
fn oversized_requests_are_refused_in_bounded_memory() {
    let dir = TestDir::new();
    let log = std::fs::File::create(dir.path("log")).expect("a file");
    let mut command = dir.command();
    let service = crate::harness::Service::start(command.args(["--listen", "127.0.0.1:0"]).stderr(log));
    let requests = requests();
    let mut before = 0;
    let rounds = scaled(8, 200);
    for round in 0..rounds {
        for (what, request, status) in &requests {
            let mut client = Raw::connect(service.address);
            let is_read = client.send(request);
            match client.response() {
                Some(response) => assert_eq!(response.status, *status, "{what}: {response:?}"),
                // The response is lost if the rest of the request meets a closed connection.
                None => assert!(!is_read || request.len() > 32 << 10, "{what}: no response"),
            }
        }
        let mut endless = Raw::connect(service.address);
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        endless.send(format!("{POST}Transfer-Encoding: chunked\r\n\r\n"));
        let sent = (0..10_000).take_while(|_| endless.send(&chunk)).count();
        assert!(sent < 10_000, "a body without end is read without end");
        if round == 1 {
            before = resident(service.pid());
        }
    }
    let grown = resident(service.pid()).saturating_sub(before);
    println!("{} oversized requests: {grown} KiB more", rounds * (requests.len() + 1));
    assert!(grown < 16 << 10, "the memory grew by {grown} KiB");
    assert_eq!(service.call(Some("+12025550123"), "+12025550199").as_deref(), Some("complaints:5"));
    service.terminate();
    let log = std::fs::read_to_string(dir.path("log")).expect("the log is text");
    assert_eq!(log, "", "a refused request is logged");
}
