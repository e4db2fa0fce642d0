//! Workers that idle, are evicted, crash and restart.

use crate::harness::{Service, TestDir, eventually};

const NUMBERS: [&str; 3] = ["+12025550100", "+12025550101", "+12025550102"];

fn listing(service: &Service) -> serde_json::Value {
    service.get("/v1/workers").json(200)
}

#[test]
fn passivated_denylist_keeps_its_rules() {
    let service = TestDir::new().serve_with(&["--idle-timeout", "1"]);
    service.put(&format!("/v1/denylists/{}/rules/anonymous", NUMBERS[0])).json(201);
    eventually("the denylist idles", || listing(&service)["registries"]["denylist"]["idled"] == 1);
    assert_eq!(listing(&service)["denylists"], 0);
    assert_eq!(service.call(None, NUMBERS[0]).as_deref(), Some("anonymous"));
    assert_eq!(listing(&service)["registries"]["denylist"]["started"], 2);
}

#[test]
fn zero_disables_timeout_and_limit() {
    let service = TestDir::new().serve_with(&["--idle-timeout", "0", "--max-workers", "0"]);
    service.rules(NUMBERS[0]);
    let listing = listing(&service);
    assert!(listing["registries"]["denylist"]["limit"].is_null(), "{listing}");
    assert_eq!(listing["workers"][0]["state"], "running");
    assert_eq!(listing["workers"][0]["run"], 1);
}

#[test]
fn least_recently_used_is_evicted() {
    let service = TestDir::new().serve_with(&["--max-workers", "2"]);
    for number in [NUMBERS[0], NUMBERS[1], NUMBERS[0], NUMBERS[2]] {
        service.rules(number);
    }
    let listing = listing(&service);
    let awake: Vec<&str> =
        listing["workers"].as_array().expect("a list").iter().filter_map(|worker| worker["number"].as_str()).collect();
    assert_eq!(awake, [NUMBERS[0], NUMBERS[2]], "{listing}");
    assert_eq!(listing["registries"]["denylist"]["evicted"], 1);
    assert_eq!(listing["registries"]["denylist"]["limit"], 2);
}

#[test]
fn full_service_without_eviction_is_503() {
    let service = TestDir::new().serve_with(&["--max-workers", "1", "--eviction", "none"]);
    service.rules(NUMBERS[0]);
    let response = service.get(&format!("/v1/denylists/{}", NUMBERS[1]));
    assert!(response.header("retry-after").is_some(), "{response:?}");
    assert!(response.problem(503).contains("limit of workers"));
    service.rules(NUMBERS[0]);
    service.delete(&format!("/v1/workers/{}", NUMBERS[0])).json(200);
    service.rules(NUMBERS[1]);
}

#[test]
fn crashed_denylist_restarts_within_budget() {
    let service = TestDir::new().serve_with(&["--drills"]);
    let crash = format!("/v1/workers/{}/crash", NUMBERS[0]);
    service.put(&format!("/v1/denylists/{}/rules/anonymous", NUMBERS[0])).json(201);
    service.rules(NUMBERS[1]);

    for run in 2..=4 {
        assert_eq!(service.send("POST", &crash, "{}").status, 202);
        // The next run replies, from what is on disk.
        assert_eq!(service.call(None, NUMBERS[0]).as_deref(), Some("anonymous"));
        let listing = listing(&service);
        assert_eq!(listing["workers"][0]["run"], run, "{listing}");
        assert_eq!(listing["workers"][0]["state"], "running", "{listing}");
    }
    // The budget is three in five seconds. On a machine that pauses that long between two crashes, it is more.
    let mut crashes = 3;
    eventually("the number is given up", || {
        crashes += u64::from(service.send("POST", &crash, "{}").status == 202);
        listing(&service)["registries"]["denylist"]["gave_up"] == 1
    });
    let response = service.get(&format!("/v1/denylists/{}", NUMBERS[0]));
    if response.status != 200 {
        assert!(response.header("retry-after").is_some(), "{response:?}");
        assert!(response.problem(503).contains("crashed too often"));
    }
    service.rules(NUMBERS[1]);
    eventually("it may start again", || service.get(&format!("/v1/denylists/{}", NUMBERS[0])).status == 200);
    assert_eq!(listing(&service)["drills"], crashes);
}

#[test]
fn crash_route_needs_the_drills_flag() {
    let service = TestDir::new().serve();
    service.rules(NUMBERS[0]);
    service.send("POST", &format!("/v1/workers/{}/crash", NUMBERS[0]), "{}").problem(404);
}
