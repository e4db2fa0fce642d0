//! Slow clients, and many of them.

use std::thread;
use std::time::{Duration, Instant};

use crate::clients::{Raw, resident};
use crate::harness::{Service, TestDir, binary};
use crate::scaled;

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn slow_clients_are_cut_off() {
    let service = TestDir::new().serve_with(&["--connection-timeout", "1"]);
    let head = "POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n";
    let cases = [
        ("sends nothing", String::new(), None, 1),
        ("sends a head byte by byte", String::from("GET /healthz HTTP/1.1\r\nX: "), Some(b'x'), 1),
        ("sends headers without end", format!("{head}X: "), Some(b'x'), 1),
        ("sends no second request", String::from(HEALTH), None, 1),
        // A body has the ten seconds of a request.
        ("sends a body byte by byte", format!("{head}\r\n"), Some(b' '), 10),
    ];
    thread::scope(|scope| {
        let clients = cases.map(|(what, begin, byte, least)| {
            let service = &service;
            let trickled = scope.spawn(move || {
                let mut client = Raw::connect(service.address);
                client.send(begin);
                client.trickle(byte)
            });
            (what, least, trickled)
        });
        // Meanwhile others are served.
        for _ in 0..20 {
            assert_eq!(service.get("/healthz").status, 200);
        }
        for (what, least, client) in clients {
            let (took, answer) = client.join().unwrap_or_else(|_| panic!("a client that {what} is never cut off"));
            // The clocks of the two processes differ a little.
            let least = Duration::from_millis(least * 1_000 - 100);
            assert!(took >= least, "a client that {what} was cut off after {took:?}, before its time: {answer}");
            if what.contains("body") {
                assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            }
        }
    });
}

#[test]
fn client_that_reads_nothing_is_cut_off() {
    let service = TestDir::new().serve_with(&["--connection-timeout", "1", "--max-connections", "1"]);
    let mut deaf = Raw::connect(service.address);
    // More responses than all buffers hold.
    deaf.stuff("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100).as_bytes());
    // The only place is free once the client is cut off.
    let mut next = Raw::connect(service.address);
    next.send(HEALTH);
    let response = next.response().expect("a client that reads nothing keeps its place");
    assert_eq!(response.status, 200, "{response:?}");
}

#[test]
fn connection_beyond_limit_waits_for_a_place() {
    let service = TestDir::new().serve_with(&["--connection-timeout", "3600", "--max-connections", "2"]);
    let mut clients = [Raw::connect(service.address), Raw::connect(service.address)];
    for client in &mut clients {
        client.send(HEALTH);
        assert_eq!(client.response().expect("a place is free").status, 200);
    }
    let mut waiting = Raw::connect(service.address);
    waiting.send(HEALTH);
    assert!(waiting.is_silent(Duration::from_millis(300)), "a third connection is served");
    let [first, mut second] = clients;
    drop(first);
    assert_eq!(waiting.response().expect("the place of a closed connection is free").status, 200);
    second.send(HEALTH);
    assert_eq!(second.response().expect("a served connection keeps its place").status, 200);
}

#[test]
fn silent_clients_lock_out_no_other_for_long() {
    let service = TestDir::new().serve_with(&["--connection-timeout", "1", "--max-connections", "4"]);
    let silent: Vec<_> = (0..12).map(|_| Raw::connect(service.address)).collect();
    let began = Instant::now();
    assert_eq!(service.get("/healthz").status, 200);
    println!("{} silent clients, 4 places: served after {:?}", silent.len(), began.elapsed());
}

/// How many files this process may open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux has it");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit of files");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).expect("a number")
}

#[test]
fn many_idle_connections_cost_little() {
    let count = scaled(500, 10_000);
    assert!(open_files() > count + 100, "{count} connections need a higher limit of open files: see ulimit -n");
    let dir = TestDir::new();
    let limit = (count + 16).to_string();
    let service = dir.serve_with(&["--connection-timeout", "3600", "--max-connections", &limit]);
    service.call(Some("+12025550123"), "+12025550199");
    let before = resident(service.pid());
    let mut idle: Vec<_> = (0..count).map(|_| Raw::connect(service.address)).collect();
    // One half has sent a request, and the other half nothing.
    for client in idle.iter_mut().step_by(2) {
        client.send(HEALTH);
        assert_eq!(client.response().expect("a place is free").status, 200);
    }
    let each = resident(service.pid()).saturating_sub(before) * 1_024 / count as u64;
    let began = Instant::now();
    let calls = 100;
    for _ in 0..calls {
        assert!(service.call(Some("+12025550123"), "+12025550199").is_some());
    }
    println!("{count} idle connections: {each} bytes each, a call takes {:?}", began.elapsed() / calls);
    assert!(each < 32 << 10, "an idle connection takes {each} bytes");
    // None of them delays the exit.
    let log = service.terminate();
    assert!(!log.iter().any(|line| line.contains("did not close in time")), "{log:?}");
}

#[test]
fn invalid_limits_are_usage_errors() {
    let dir = TestDir::new();
    for args in [["--max-connections", "0"], ["--connection-timeout", "0"], ["--connection-timeout", "-1"]] {
        let ran = dir.run(&args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
    }
}

#[test]
fn reached_limit_is_logged_once() {
    let dir = TestDir::new();
    let log = std::fs::File::create(dir.path("log")).expect("a file");
    let mut command = std::process::Command::new(binary());
    command.current_dir(dir.path(".")).stderr(log);
    let args = ["--listen", "127.0.0.1:0", "--no-sample", "--max-connections", "1"];
    let service = Service::start(command.args(args));
    for _ in 0..5 {
        assert_eq!(service.get("/healthz").status, 200);
    }
    service.terminate();
    let log = std::fs::read_to_string(dir.path("log")).expect("the log is text");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("the limit of connections is reached")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("limit=1"), "{log}");
}
