//! Requests that are generated from the OpenAPI description, most of them invalid. Each response must be described, none
//! may be a server error, and no worker may crash.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use test_support::Random;

use crate::clients::Raw;
use crate::description::Description;
use crate::harness::{Response, Service, TestDir};
use crate::scaled;

/// Texts for numbers, rules and everything else that is text.
const TEXTS: [&str; 34] = [
    "+12025550123",
    "(202) 555-0123",
    "tel:+1-202-555-0123",
    "+442079460123",
    "anonymous",
    "ANONYMOUS",
    "+1900*",
    "complaints:5",
    "complaints:0",
    "complaints:99999999999999999999",
    "complaints:-1",
    "*",
    "+*",
    "+0*",
    "",
    " ",
    "+",
    "0",
    "-1",
    "00000000000",
    "+999999999999999999999999",
    "1e3",
    "null",
    "true",
    "{}",
    "[]",
    "../../etc/passwd",
    "a\u{0}b",
    "\u{feff}+12025550123",
    "٢٠٢٥٥٥٠١٢٣",
    "\u{1f600}",
    "\r\nX-Injected: 1",
    "%",
    "'; DROP TABLE rules; --",
];

/// A request, and whether it is well-formed HTTP, so that its response must be described.
struct Generated {
    method: String,
    path: String,
    content_type: String,
    body: Option<Vec<u8>>,
}

fn text(random: &mut Random) -> String {
    match random.index(8) {
        0 => random.pick(&TEXTS).repeat(1 + random.index(40)),
        1 => (0..random.index(24)).map(|_| char::from_u32(random.index(0x3000) as u32).unwrap_or('?')).collect(),
        2 => (0..random.index(24))
            .map(|_| *random.pick(&['0', '1', '2', '9', '+', '-', '.', ' ', '(', ')', '*', ':']))
            .collect(),
        _ => (*random.pick(&TEXTS)).to_owned(),
    }
}

/// A text as a part of a path or a query: mostly percent-encoded, and sometimes raw or not UTF-8.
fn encoded(random: &mut Random, text: &str) -> String {
    match random.index(16) {
        0 => String::from("%ff%fe"),
        1 => String::from("%zz%"),
        2 => text.chars().filter(|char| char.is_ascii_graphic() && !"/?#".contains(*char)).collect(),
        _ => text.bytes().map(|byte| format!("%{byte:02X}")).collect(),
    }
}

/// Any JSON.
fn value(random: &mut Random, depth: usize) -> Value {
    match random.index(if depth > 3 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.index(2) == 0),
        2 => json!(random.number()),
        3 => json!(-(random.index(1_000_000) as i64)),
        4 => json!(random.number() as f64 / 3.0),
        5 => json!(text(random)),
        6 => (0..random.index(4)).map(|_| value(random, depth + 1)).collect(),
        _ => (0..random.index(4)).map(|_| (text(random), value(random, depth + 1))).collect::<Map<_, _>>().into(),
    }
}

/// A value that a schema describes, or one that it does not.
fn of_schema(random: &mut Random, description: &Value, schema: &Value) -> Value {
    if random.index(6) == 0 {
        return value(random, 0);
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return of_schema(random, description, &description["components"]["schemas"][name].clone());
    }
    if let Some(any) = ["oneOf", "anyOf"].iter().find_map(|name| schema[*name].as_array()) {
        let one = random.pick(any).clone();
        return of_schema(random, description, &one);
    }
    if let Some(properties) = schema["properties"].as_object() {
        let mut object = Map::new();
        for (name, inner) in properties {
            // Sometimes a field is missing, or has another name.
            match random.index(10) {
                0 => {}
                1 => drop(object.insert(format!("{name} "), value(random, 1))),
                _ => drop(object.insert(name.clone(), of_schema(random, description, inner))),
            }
        }
        return object.into();
    }
    match schema["type"].as_str() {
        Some("array") => (0..random.index(5)).map(|_| of_schema(random, description, &schema["items"])).collect(),
        Some("string") => json!(text(random)),
        _ => value(random, 0),
    }
}

/// A body: mostly JSON, and sometimes something that begins like it.
fn body(random: &mut Random, description: &Value, operation: &Value) -> Vec<u8> {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let mut bytes = of_schema(random, description, schema).to_string().into_bytes();
    match random.index(12) {
        0 => bytes.truncate(random.index(bytes.len() + 1)),
        1 => bytes.insert(random.index(bytes.len() + 1), random.number() as u8),
        2 => bytes.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
        3 => bytes = (0..random.index(64)).map(|_| random.number() as u8).collect(),
        _ => {}
    }
    bytes
}

fn generate(random: &mut Random, description: &Description) -> Generated {
    let document = description.document();
    // A drill crashes a worker, which is what may not happen here.
    let paths: Vec<&String> = description.paths().keys().filter(|path| !path.ends_with("/crash")).collect();
    let template = *random.pick(&paths);
    let methods: Vec<String> = description.methods(template).into_iter().collect();
    let method = match random.index(12) {
        0 => (*random.pick(&["PATCH", "OPTIONS", "TRACE", "MADEUP", "get"])).to_owned(),
        _ => random.pick(&methods).clone(),
    };
    let operation = document["paths"][template][method.to_lowercase()].clone();
    let mut path: Vec<String> = Vec::new();
    for segment in template.split('/') {
        path.push(if segment.starts_with('{') {
            let text = text(random);
            let segment = encoded(random, &text);
            // The description has no path with an empty segment.
            if segment.is_empty() { String::from("%20") } else { segment }
        } else {
            segment.to_owned()
        });
    }
    let mut path = path.join("/");
    if random.index(3) == 0 || template.ends_with("workers") || template.ends_with("denylists") {
        let mut pairs = Vec::new();
        for _ in 0..random.index(4) {
            let name = (*random.pick(&["limit", "after", "limit", "after", "other", "", "%00"])).to_owned();
            let text = match random.index(3) {
                0 => random.index(2_000).to_string(),
                1 => format!("denylist:{}", random.number()),
                _ => text(random),
            };
            pairs.push(format!("{name}={}", encoded(random, &text)));
        }
        path += &format!("?{}", pairs.join("&"));
    }
    let content_type = match random.index(8) {
        0 => {
            *random.pick(&["", "text/plain", "application/x-www-form-urlencoded", "application/json/x", ";", "\u{e9}"])
        }
        1 => "Application/JSON ; charset=utf-8",
        _ => "application/json",
    };
    let has_body = !operation["requestBody"].is_null() || random.index(8) == 0;
    let body = has_body.then(|| body(random, document, &operation));
    Generated { method, path, content_type: content_type.to_owned(), body }
}

fn send(to: SocketAddr, request: &Generated) -> Option<Response> {
    let Generated { method, path, content_type, body } = request;
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n").into_bytes();
    if let Some(body) = body {
        bytes.extend(format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
        bytes.extend(body);
    } else {
        bytes.extend(b"\r\n");
    }
    let mut client = Raw::connect(to);
    client.send(bytes);
    client.response()
}

/// What is wrong with a response, if anything.
fn check(description: &Description, request: &Generated, response: &Response) {
    let shown = || format!("{} {} {:?}: {response:?}", request.method, request.path, request.body);
    assert!(response.status < 500 || response.status == 503, "a server error for {}", shown());
    assert!(!response.head.contains("X-Injected"), "a header was injected by {}", shown());
    // The server below answers what is not HTTP, without a body.
    if response.body.is_empty() && matches!(response.status, 400 | 431) {
        return;
    }
    let body = request.body.as_deref().and_then(|body| std::str::from_utf8(body).ok());
    description.check(&request.method, &request.path, body, response);
}

#[test]
fn generated_requests_get_described_responses() {
    let dir = TestDir::new();
    let log = std::fs::File::create(dir.path("log")).expect("a file");
    let mut command = dir.command();
    let service = Service::start(command.args(["--listen", "127.0.0.1:0"]).stderr(log));
    let description = Description::of(service.address);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    let seed = std::env::var("GEN_REGISTRY_SERVICE_SEED").map_or(1, |seed| seed.parse().expect("a seed is a number"));
    let mut random = Random::new(seed);
    let count = scaled(400, 10_000);
    for n in 0..count {
        let request = generate(&mut random, description);
        let response = send(service.address, &request).unwrap_or_else(|| {
            panic!("no response to request {n} of seed {seed}: {} {}", request.method, request.path)
        });
        check(description, &request, &response);
        *statuses.entry(response.status).or_default() += 1;
    }
    println!("{count} requests of seed {seed}, responses by status: {statuses:?}");
    for status in [200, 400, 404, 405, 415, 422] {
        assert!(statuses.contains_key(&status), "no response {status} of {count}: {statuses:?}");
    }
    let counted = service.get("/v1/workers").json(200)["registries"].clone();
    for registry in ["denylist", "reputation"] {
        assert_eq!(counted[registry]["restarts"], 0, "a worker crashed: {counted}");
    }
    assert_eq!(service.call(Some("+12025550123"), "+12025550188"), None, "it still decides");
    service.terminate();
    let log = std::fs::read_to_string(dir.path("log")).expect("the log is text");
    assert_eq!(log, "", "a malformed request is logged");
}
