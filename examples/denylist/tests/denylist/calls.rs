//! Decisions on calls.

use std::process::Command;

use crate::harness::{Service, TestDir, text};

const TO: &str = "+12025550100";

#[test]
fn printed_curl_command_is_rejected() {
    let service = TestDir::new().serve();
    let log = service.log();
    let line = log.iter().find(|line| line.trim_start().starts_with("curl ")).expect("a curl line");
    let Ok(output) = Command::new("sh").args(["-c", line]).output() else { panic!("no shell") };
    if output.status.code() == Some(127) {
        eprintln!("skipped: there is no curl here");
        return;
    }
    let answer: serde_json::Value = serde_json::from_str(&text(&output)).expect("JSON");
    assert_eq!(answer["decision"], "reject", "{answer}");
    assert_eq!(answer["rule"], "complaints:5", "{answer}");
}

#[test]
fn printed_urls_respond() {
    let service = TestDir::new().serve();
    let base = format!("http://{}", service.address);
    let log = service.log();
    let paths: Vec<_> = log.iter().filter_map(|line| line.trim_start().strip_prefix(&base)).collect();
    assert!(paths.len() >= 4, "{log:?}");
    for path in paths {
        let path = path.split_whitespace().next().expect("a path");
        assert_eq!(service.get(path).status, 200, "{path}");
    }
}

#[test]
fn phone_without_rules_takes_all_calls() {
    let service = TestDir::new().serve_with(&["--no-sample"]);
    assert_eq!(service.call(Some("+12025550123"), TO), None);
    assert_eq!(service.call(None, TO), None);
    assert!(service.rules(TO).is_empty());
}

#[test]
fn each_rule_rejects_only_its_callers() {
    let dir = TestDir::new();
    let rows = [
        "2025550123,2021-07-07 00:00:01,,,,,,",
        "2025550123,2021-07-07 00:00:02,,,,,,",
        "3035550147,2021-07-07 00:00:01,,,,,,",
    ];
    dir.import("two.csv", &rows).succeeded();
    let service = dir.serve_with(&["--no-sample"]);
    for rule in ["+14045550162", "+1900*", "anonymous", "complaints:2"] {
        service.put(&format!("/v1/denylists/{TO}/rules/{rule}")).json(201);
    }
    let rejected = |from| service.call(from, TO);
    assert_eq!(rejected(Some("+14045550162")).as_deref(), Some("+14045550162"));
    assert_eq!(rejected(Some("+14045550163")), None);
    assert_eq!(rejected(Some("+19005550100")).as_deref(), Some("+1900*"));
    assert_eq!(rejected(Some("+19015550100")), None);
    assert_eq!(rejected(Some("anonymous")).as_deref(), Some("anonymous"));
    assert_eq!(rejected(None).as_deref(), Some("anonymous"));
    assert_eq!(rejected(Some("+12025550123")).as_deref(), Some("complaints:2"));
    assert_eq!(rejected(Some("+13035550147")), None);

    // The rules belong to this phone only.
    assert_eq!(service.call(Some("+14045550162"), "+12025550101"), None);

    service.delete(&format!("/v1/denylists/{TO}/rules/anonymous"));
    assert_eq!(rejected(None), None);
    assert_eq!(service.delete(&format!("/v1/denylists/{TO}")).status, 204);
    assert_eq!(rejected(Some("+14045550162")), None);
}

#[test]
fn call_without_from_is_anonymous() {
    let service = TestDir::new().serve_with(&["--no-sample"]);
    service.put(&format!("/v1/denylists/{TO}/rules/anonymous")).json(201);
    let answer = service.send("POST", "/v1/calls", &format!(r#"{{"to":"{TO}"}}"#)).json(200);
    assert_eq!(answer["decision"], "reject");
    assert_eq!(answer["from"], "anonymous");
}

#[test]
fn rules_can_be_set_read_and_deleted() {
    let service = TestDir::new().serve_with(&["--no-sample"]);
    let path = format!("/v1/denylists/{TO}");
    let answer =
        service.send("PUT", &path, r#"{"rules":["anonymous","+1 900*","(202) 555-0123","anonymous"]}"#).json(200);
    assert_eq!(answer["rules"], serde_json::json!(["+12025550123", "+1900*", "anonymous"]));
    // The rule is the same whether percent-encoded or not.
    for rule in ["+1900*", "%2B1900%2A", "%2b1900*"] {
        assert_eq!(service.get(&format!("{path}/rules/{rule}")).json(200)["rule"], "+1900*");
        assert_eq!(service.put(&format!("{path}/rules/{rule}")).json(200)["rule"], "+1900*", "the rule existed");
    }
    assert_eq!(service.delete(&format!("{path}/rules/+1900*")).status, 204);
    service.delete(&format!("{path}/rules/+1900*")).problem(404);
    service.get(&format!("{path}/rules/+1900*")).problem(404);
    assert_eq!(service.rules(TO), ["+12025550123", "anonymous"]);
}

#[test]
fn all_notations_reach_one_worker() {
    let service = TestDir::new().serve_with(&["--no-sample"]);
    service.put("/v1/denylists/%28202%29%20555-0100/rules/1-303-555-0147").json(201);
    for (from, to) in [
        ("+13035550147", "2025550100"),
        ("303.555.0147", "+1 202 555 0100"),
        ("tel:+1-303-555-0147", "1 (202) 555 0100"),
    ] {
        assert_eq!(service.call(Some(from), to).as_deref(), Some("+13035550147"));
    }
    assert_eq!(service.get("/v1/workers").json(200)["denylists"], 1);
}

fn page(service: &Service, path: &str) -> (Vec<String>, Option<String>) {
    let page = service.get(path).json(200);
    let denylists = serde_json::from_value(page["denylists"].clone()).expect("a list of numbers");
    (denylists, page["next"].as_str().map(str::to_owned))
}

#[test]
fn pages_list_each_phone_with_rules_once() {
    let dir = TestDir::new();
    let service = dir.serve_with(&["--no-sample"]);
    assert_eq!(page(&service, "/v1/denylists"), (Vec::new(), None));
    // Numbers of several lengths, added in another order, each with several rules.
    let numbers = ["+493023125000", "+12025550101", "+442079460123", "+12025550103", "+12025550102"];
    for number in numbers {
        let path = format!("/v1/denylists/{number}");
        service.send("PUT", &path, r#"{"rules":["anonymous","+1900*","complaints:5"]}"#).json(200);
    }
    let expected = ["+12025550101", "+12025550102", "+12025550103", "+442079460123", "+493023125000"];
    assert_eq!(page(&service, "/v1/denylists").0, expected);
    let mut listed = Vec::new();
    let mut next = Some(String::from("/v1/denylists?limit=2"));
    while let Some(path) = next {
        let (numbers, following) = page(&service, &path);
        assert!(numbers.len() <= 2, "{numbers:?}");
        listed.extend(numbers);
        next = following;
    }
    assert_eq!(listed, expected);
    // `after` need not have rules. A plus sign may be written.
    assert_eq!(page(&service, "/v1/denylists?after=+12025550199").0, expected[3..]);

    // The list is that of the disk: it needs no workers, and a phone without rules is not in it.
    service.delete("/v1/denylists/+442079460123");
    service.terminate();
    let service = dir.serve_with(&["--no-sample"]);
    assert_eq!(page(&service, "/v1/denylists?limit=10").0, [&expected[..3], &expected[4..]].concat());
    assert_eq!(service.get("/v1/workers").json(200)["denylists"], 0);
}

#[test]
fn sample_is_imported_only_once() {
    let dir = TestDir::new();
    let service = dir.serve();
    assert!(service.log().iter().any(|line| line.contains("imported the sample")));
    let complaints = service.get("/v1/reputations/+12025550123").json(200)["complaints"].clone();
    assert_eq!(service.delete("/v1/denylists/+12025550199").status, 204);
    service.terminate();

    let service = dir.serve();
    assert!(service.log().iter().any(|line| line.contains("the sample was imported before")));
    assert_eq!(service.get("/v1/reputations/+12025550123").json(200)["complaints"], complaints);
    assert!(service.rules("+12025550199").is_empty());
}

#[test]
fn reputation_lists_complaint_subjects() {
    let service = TestDir::new().serve();
    let known = service.get("/v1/reputations/+12025550123").json(200);
    assert_eq!(known["complaints"], 12);
    assert!(known["subjects"][0]["complaints"].as_u64() >= known["subjects"][1]["complaints"].as_u64(), "{known}");
    let unknown = service.get("/v1/reputations/+12025550177").json(200);
    assert_eq!(unknown["complaints"], 0);
    assert!(unknown["last"].is_null());
}
