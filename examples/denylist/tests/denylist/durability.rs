//! Acknowledged changes are on disk.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::{Service, TestDir, eventually, request};

#[test]
fn acknowledged_rule_survives_sigkill() {
    let dir = TestDir::new();
    // Each round kills the service at another moment, with writes of eight clients in flight, and the next round
    // continues with the same database.
    let mut acknowledged = BTreeMap::<String, Vec<String>>::new();
    for round in 0..5 {
        let service = dir.serve_with(&["--no-sample"]);
        check(&service, &acknowledged);
        let address = service.address;
        let written = Mutex::new(Vec::new());
        let count = AtomicUsize::new(0);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for client in 0..8 {
                let (written, count, is_over) = (&written, &count, &is_over);
                scope.spawn(move || {
                    // Two clients per phone, so its worker has more than one write in its mailbox.
                    let number = format!("+1202555010{}", client / 2);
                    for n in 1.. {
                        let rule = format!("complaints:{}", round * 10_000_000 + client * 1_000_000 + n);
                        match request(address, "PUT", &format!("/v1/denylists/{number}/rules/{rule}"), None) {
                            Some(response) if response.status == 201 => {
                                written
                                    .lock()
                                    .expect("no code panics while holding the lock")
                                    .push((number.clone(), rule));
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                            Some(response) => panic!("{response:?}"),
                            // The service was killed before it responded.
                            None => {
                                assert!(
                                    is_over.load(Ordering::Relaxed),
                                    "no response from a service that was not killed"
                                );
                                return;
                            }
                        }
                    }
                });
            }
            // Few enough that no phone reaches the maximum number of rules.
            eventually("some writes are acknowledged", || count.load(Ordering::Relaxed) >= 100 + round * 17);
            is_over.store(true, Ordering::Relaxed);
            service.kill();
        });
        for (number, rule) in written.into_inner().expect("no code panics while holding the lock") {
            acknowledged.entry(number).or_default().push(rule);
        }
    }
    check(&dir.serve_with(&["--no-sample"]), &acknowledged);
}

fn check(service: &Service, acknowledged: &BTreeMap<String, Vec<String>>) {
    for (number, rules) in acknowledged {
        let found = service.rules(number);
        let lost: Vec<_> = rules.iter().filter(|rule| !found.contains(rule)).collect();
        assert!(lost.is_empty(), "{number} lost {lost:?} of {}", rules.len());
    }
}

#[test]
fn acknowledged_removal_survives_sigkill() {
    let dir = TestDir::new();
    let service = dir.serve();
    service.put("/v1/denylists/+12025550100/rules/anonymous").json(201);
    service.put("/v1/denylists/+12025550100/rules/+1900*").json(201);
    assert_eq!(service.delete("/v1/denylists/+12025550100/rules/anonymous").status, 204);
    assert_eq!(service.delete("/v1/denylists/+12025550199").status, 204);
    service.kill();
    let service = dir.serve();
    assert_eq!(service.rules("+12025550100"), ["+1900*"]);
    assert!(service.rules("+12025550199").is_empty());
}

#[test]
fn failed_write_is_reported_and_loses_nothing() {
    let dir = TestDir::new();
    dir.serve().terminate();
    let length = std::fs::metadata(dir.path("denylist.redb")).expect("a database").len();

    // The file may not grow, so a write fails as on a full disk. The limit is in units of 512 bytes. Its signal must be
    // ignored, or it would end the process.
    let limit = length / 512;
    let program = crate::harness::binary().display();
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec '{program}' --listen 127.0.0.1:0");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(dir.path("."));
    let service = Service::start(&mut shell);

    let path = |n: usize| format!("/v1/denylists/+1303555{:04}", 100 + n);
    let mut acknowledged = 0;
    let mut failure = None;
    for n in 0..100 {
        // Forty kilobytes each.
        let rules: Vec<String> = (0..1_000).map(|k| format!("complaints:{}", 900_000_000 + k)).collect();
        let response = service.send("PUT", &path(n), &serde_json::json!({ "rules": rules }).to_string());
        if response.status == 200 {
            acknowledged += 1;
        } else {
            failure = Some(response);
            break;
        }
    }
    let detail = failure.expect("the limit was reached").problem(500);
    assert!(detail.contains("database"), "{detail}");

    // All workers continue with the acknowledged rules, including the one whose write failed, and new workers start.
    assert_eq!(service.call(Some("+12025550123"), "+12025550177"), None);
    for n in 0..acknowledged {
        assert_eq!(service.get(&path(n)).json(200)["rules"].as_array().map(Vec::len), Some(1_000));
    }
    assert_eq!(service.get(&path(acknowledged)).json(200)["rules"].as_array().map(Vec::len), Some(0));
    // Nothing is acknowledged any more unless it is on disk: where the write failed, not even an empty list of rules.
    service.delete(&path(acknowledged)).problem(500);
    assert_eq!(service.put(&format!("{}/rules/complaints:900000007", path(0))).status, 200);
    service.kill();

    let service = dir.serve();
    for n in 0..acknowledged {
        assert_eq!(service.get(&path(n)).json(200)["rules"].as_array().map(Vec::len), Some(1_000));
    }
    service.put("/v1/denylists/+12025550100/rules/anonymous").json(201);
}
