//! Acknowledged changes are on disk. `tests/reliability` has the same with writes in flight.

use crate::harness::{Service, TestDir};

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
