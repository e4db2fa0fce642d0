//! Every kind of bad request returns a problem.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{PATIENCE, TestDir, request};

#[test]
fn missing_resource_is_404() {
    let service = TestDir::new().serve();
    service.get("/").problem(404);
    service.get("/v2/calls").problem(404);
    service.get("/v1/denylists/").problem(404);
    service.delete("/v1/workers/+12025550177").problem(404);
    service.get("/v1/denylists/+12025550100/rules/anonymous").problem(404);
}

#[test]
fn wrong_method_is_405_with_allow() {
    let service = TestDir::new().serve();
    for (method, path, allowed) in [
        ("GET", "/v1/calls", ["POST"].as_slice()),
        ("PATCH", "/v1/denylists/+12025550100", &["GET", "PUT", "DELETE"]),
        ("POST", "/v1/denylists/+12025550100/rules/anonymous", &["GET", "PUT", "DELETE"]),
        ("DELETE", "/metrics", &["GET"]),
        ("MADEUP", "/v1/workers", &["GET"]),
    ] {
        let response = request(service.address, method, path, None).expect("a reply");
        let allow = response.header("allow").expect("Allow").to_owned();
        for method in allowed {
            assert!(allow.contains(method), "{path}: {allow}");
        }
        response.problem(405);
    }
}

#[test]
fn malformed_body_is_400_or_422() {
    let service = TestDir::new().serve();
    let call = |body| service.send("POST", "/v1/calls", body);
    for (bad, detail) in [
        ("", "the body is empty; it must be a JSON object"),
        ("{", "the body is not valid JSON (line 1, column 1)"),
        ("no", "the body is not valid JSON (line 1, column 2)"),
        (r#"{"to":"+12025550100"} x"#, "the body is not valid JSON (line 1, column 23)"),
        ("{\"to\":\n\"\u{1}\"}", "the body is not valid JSON (line 2, column 2)"),
    ] {
        assert_eq!(call(bad).problem(400), detail);
    }
    for (bad, why) in [
        (r#"{"to":"+12025550100","form":"x"}"#, "unknown field `form`"),
        (r#"{"from":"+12025550100"}"#, "missing field `to`"),
        (r#"{"to":null}"#, "`to` must be a string, and is null"),
        (r#"{"to":12025550100}"#, "`to` must be a string, and is a number"),
        (r#"{"to":"+12025550100","from":{}}"#, "`from` must be a string, and is an object"),
        (r#"{"to":"+12025550100","to":"+12025550101"}"#, "the field `to` is given twice"),
        (r#"{"to":"12345"}"#, "`to`: phone number too short"),
        (r#"{"to":"+12025550100","from":"no number"}"#, "`from`: not a phone number"),
        (r#"{"to":"+12025550100","from":""}"#, "`from`: no number"),
        (r#"{"to":"anonymous"}"#, "`to`: not a phone number"),
        ("[]", "the body must be a JSON object"),
        ("7", "the body must be a JSON object"),
    ] {
        let detail = call(bad).problem(422);
        assert!(detail.contains(why), "{bad}: {detail}");
        // Neither Rust's types nor serde's.
        for foreign in ["expected", "deserialize", "struct", "sequence", "map", "::", "String"] {
            assert!(!detail.contains(foreign), "{bad}: {detail}");
        }
    }
    let long = "x".repeat(1_000);
    let detail = call(&format!(r#"{{"{long}":1}}"#)).problem(422);
    assert!(detail.len() < 150, "{detail}");
    let denylist = |body| service.send("PUT", "/v1/denylists/+12025550100", body);
    let detail = denylist(r#"{"rules":["anonymous","nonsense"]}"#).problem(422);
    assert!(detail.starts_with("`rules[1]`: not a phone number; a rule is"), "{detail}");
    let detail = denylist(r#"{"rules":["anonymous",null]}"#).problem(422);
    assert_eq!(detail, "`rules[1]` must be a string, and is null");
    let detail = denylist(r#"{"rules":"anonymous"}"#).problem(422);
    assert_eq!(detail, "`rules` must be a list, and is a string");
    denylist(r#"{"rules":["anonymous"],"more":1}"#).problem(422);
    denylist("{}").problem(422);
    assert!(service.rules("+12025550100").is_empty(), "half a list was taken");
}

#[test]
fn oversized_body_is_413() {
    let service = TestDir::new().serve();
    let body = format!(r#"{{"to":"{}"}}"#, "1".repeat(65 << 10));
    assert_eq!(service.send("POST", "/v1/calls", &body).problem(413), "the body exceeds 64 KiB");
}

#[test]
fn wrong_content_type_is_415() {
    let service = TestDir::new().serve();
    let call = r#"{"to":"+12025550100"}"#;
    request(service.address, "POST", "/v1/calls", Some(("text/plain", call))).expect("a reply").problem(415);
    request(service.address, "POST", "/v1/calls", None).expect("a reply").problem(415);
    request(service.address, "PUT", "/v1/denylists/+12025550100", None).expect("a reply").problem(415);
}

#[test]
fn invalid_path_segment_is_400_or_422() {
    let service = TestDir::new().serve();
    for path in [
        "/v1/denylists/x",
        "/v1/denylists/12345",
        "/v1/reputations/+99999999999999999999",
        "/v1/denylists/+1/rules/anonymous",
    ] {
        service.get(path).problem(422);
    }
    for rule in ["nonsense", "complaints:0", "complaints:", "1900*", "*", "+1900**"] {
        service.put(&format!("/v1/denylists/+12025550100/rules/{rule}")).problem(422);
    }
    service.delete("/v1/workers/x").problem(422);
    assert_eq!(service.get("/v1/denylists/%ff").problem(400), "the path is not percent-encoded UTF-8");
    assert_eq!(service.get("/v1/denylists/12345").problem(422), "`number`: phone number too short");
}

#[test]
fn invalid_paging_is_400_or_422() {
    let service = TestDir::new().serve();
    for list in ["/v1/workers", "/v1/denylists"] {
        service.get(&format!("{list}?limit=0")).problem(422);
        service.get(&format!("{list}?limit=1001")).problem(422);
        service.get(&format!("{list}?after=nowhere")).problem(422);
        service.get(&format!("{list}?after=denylist:x")).problem(422);
        service.get(&format!("{list}?after=denylist:0")).problem(422);
        service.get(&format!("{list}?after=")).problem(422);
        let detail = service.get(&format!("{list}?limit=x")).problem(400);
        assert_eq!(detail, "`limit` is a number from 1 to 1000");
        let detail = service.get(&format!("{list}?offset=3")).problem(400);
        assert_eq!(detail, "unknown parameter `offset`; this request takes `limit` and `after`");
        let detail = service.get(&format!("{list}?limit=3&limit=4")).problem(400);
        assert_eq!(detail, "the parameter `limit` is given twice");
    }
}

#[test]
fn rule_over_the_limit_changes_nothing() {
    let service = TestDir::new().serve();
    let rules: Vec<String> = (1..=1_001).map(|count| format!("complaints:{count}")).collect();
    let path = "/v1/denylists/+12025550100";
    let put = |rules: &[String]| service.send("PUT", path, &serde_json::json!({ "rules": rules }).to_string());
    let detail = put(&rules).problem(422);
    assert!(detail.contains("1000"), "{detail}");
    assert!(service.rules("+12025550100").is_empty());
    put(&rules[..1_000]).json(200);
    service.put(&format!("{path}/rules/anonymous")).problem(422);
    assert_eq!(service.rules("+12025550100").len(), 1_000);
}

#[test]
fn missing_body_times_out_with_408() {
    let service = TestDir::new().serve();
    let mut stream = TcpStream::connect(service.address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = "POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).expect("the service reads the request");
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).expect("a reply");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}
