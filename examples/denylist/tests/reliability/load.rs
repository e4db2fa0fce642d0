//! SIGTERM under load: each response is complete, and what was acknowledged is on disk.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::clients::Raw;
use crate::harness::{Service, TestDir, eventually};
use crate::scaled;

const CLIENTS: usize = 16;

/// What a client has seen.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: BTreeMap<String, Vec<String>>,
    decided: usize,
    /// Requests without any response.
    unanswered: usize,
}

/// Adds rules and requests decisions until the service stops. Every other client uses a new connection each time.
fn press(client: usize, service: &Service, count: &AtomicUsize, seen: &Mutex<Seen>) {
    let number = format!("+1202555{:04}", 100 + client);
    let call = r#"{"from":"+12025550123","to":"+12025550199"}"#;
    let decide = format!(
        "POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{call}",
        call.len()
    );
    let mut connection = None;
    for n in 0..1_000 {
        if connection.is_none() {
            connection = Raw::try_connect(service.address);
        }
        // Refused: it listens no more.
        let Some(open) = &mut connection else { return };
        let is_write = n % 4 == 0;
        let rule = format!("complaints:{}", n + 1);
        let put = format!("PUT /v1/denylists/{number}/rules/{rule} HTTP/1.1\r\nHost: x\r\n\r\n");
        open.send(if is_write { &put } else { &decide });
        let response = open.response();
        let is_cut_off = open.is_cut_off();
        let mut seen = seen.lock().expect("no code panics while holding the lock");
        match response {
            Some(response) if is_write => {
                assert_eq!(response.status, 201, "{response:?}");
                seen.acknowledged.entry(number.clone()).or_default().push(rule);
            }
            Some(response) => {
                assert_eq!(response.status, 200, "{response:?}");
                seen.decided += 1;
            }
            None => {
                assert!(!is_cut_off, "a response was cut off");
                seen.unanswered += 1;
                connection = None;
                continue;
            }
        }
        count.fetch_add(1, Ordering::SeqCst);
        if client.is_multiple_of(2) {
            connection = None;
        }
    }
}

#[test]
fn sigterm_under_load_drops_nothing_acknowledged() {
    let rounds = scaled(2, 20);
    let mut total = Seen::default();
    for round in 0..rounds {
        let dir = TestDir::new();
        let service = dir.serve();
        let (count, seen) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (service, count, seen) = (&service, &count, &seen);
                scope.spawn(move || press(client, service, count, seen));
            }
            eventually("some requests are answered", || count.load(Ordering::SeqCst) > 300 + round * 37);
            service.signal("TERM");
        });
        let (code, log) = service.ended();
        assert_eq!((code, log.last().map(String::as_str)), (Some(0), Some("closed the database")), "{log:?}");
        let seen = seen.into_inner().expect("no client panicked");
        let service = dir.serve();
        for (number, rules) in &seen.acknowledged {
            let found = service.rules(number);
            let lost: Vec<_> = rules.iter().filter(|rule| !found.contains(rule)).collect();
            assert!(lost.is_empty(), "{number} lost the acknowledged rules {lost:?} of {}", rules.len());
        }
        total.unanswered += seen.unanswered;
        total.decided += seen.decided;
        total.acknowledged.extend([(round.to_string(), seen.acknowledged.into_values().flatten().collect())]);
    }
    let written: usize = total.acknowledged.values().map(Vec::len).sum();
    println!("{rounds} times SIGTERM: {written} writes and {} decisions acknowledged, none lost", total.decided);
    println!("{} requests met a connection that was closing, and got no part of a response", total.unanswered);
}

#[test]
fn request_begun_before_sigterm_is_answered() {
    let dir = TestDir::new();
    let service = dir.serve();
    let body = r#"{"rules":["anonymous"]}"#;
    let path = "/v1/denylists/+12025550100";
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut half_sent: Vec<_> = (0..4).map(|_| Raw::connect(service.address)).collect();
    for client in &mut half_sent {
        client.send(format!("{head}{}", &body[..9]));
    }
    // A later request on another connection is answered, so these have been read as far as they go.
    assert_eq!(service.get("/readyz").status, 200);
    service.signal("TERM");
    eventually("it accepts no connection", || std::net::TcpStream::connect(service.address).is_err());
    for client in &mut half_sent {
        client.send(&body[9..]);
        let response = client.response().expect("a request whose head was read is dropped at a shutdown");
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("connection"), Some("close"), "{response:?}");
    }
    let (code, log) = service.ended();
    assert_eq!((code, log.last().map(String::as_str)), (Some(0), Some("closed the database")), "{log:?}");
    assert_eq!(dir.serve().rules("+12025550100"), ["anonymous"]);
}
