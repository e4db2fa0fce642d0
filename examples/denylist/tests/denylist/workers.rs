//! Listing and stopping workers, and metrics.

use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

use gen_registry::metrics::ALL;

use crate::harness::{Service, TestDir, eventually};
use test_support::exposition::Exposition;

fn page(service: &Service, path: &str) -> (Vec<String>, Option<String>) {
    let page = service.get(path).json(200);
    let workers = page["workers"].as_array().expect("a list");
    let name = |worker: &serde_json::Value| format!("{} {}", worker["registry"], worker["number"]).replace('"', "");
    (workers.iter().map(name).collect(), page["next"].as_str().map(str::to_owned))
}

#[test]
fn pages_list_each_worker_once() {
    let service = TestDir::new().serve();
    let mut all = BTreeSet::new();
    for last in 0..7 {
        service.rules(&format!("+1202555010{last}"));
        all.insert(format!("denylist +1202555010{last}"));
        service.get(&format!("/v1/reputations/+1303555010{last}")).json(200);
        all.insert(format!("reputation +1303555010{last}"));
    }
    let mut listed = Vec::new();
    let mut next = Some(String::from("/v1/workers?limit=3"));
    while let Some(path) = next {
        let (workers, following) = page(&service, &path);
        assert!(workers.len() <= 3, "{workers:?}");
        listed.extend(workers);
        next = following;
    }
    assert_eq!(listed, all.into_iter().collect::<Vec<_>>());
    let whole = service.get("/v1/workers").json(200);
    assert_eq!((&whole["denylists"], &whole["reputations"]), (&7.into(), &7.into()));
    assert!(whole["next"].is_null());
}

#[test]
fn stopped_worker_keeps_its_rules() {
    let service = TestDir::new().serve();
    let number = "+12025550100";
    service.put(&format!("/v1/denylists/{number}/rules/anonymous")).json(201);
    service.get(&format!("/v1/reputations/{number}")).json(200);
    let stopped = service.delete(&format!("/v1/workers/{number}")).json(200);
    assert_eq!(stopped["stopped"].as_array().map(Vec::len), Some(2), "{stopped}");
    assert_eq!(stopped["stopped"][0]["reason"], "stopped");
    assert_eq!(page(&service, "/v1/workers").0, Vec::<String>::new());
    service.delete(&format!("/v1/workers/{number}")).problem(404);

    assert_eq!(service.call(None, number).as_deref(), Some("anonymous"));
    assert_eq!(page(&service, "/v1/workers").0, [format!("denylist {number}")]);
}

#[test]
fn stops_lose_no_calls_or_writes() {
    let service = TestDir::new().serve();
    let number = "+12025550100";
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let service = &service;
            scope.spawn(move || {
                for n in 0..40 {
                    let rule = format!("complaints:{}", thread * 1_000 + n + 10);
                    service.put(&format!("/v1/denylists/{number}/rules/{rule}")).json(201);
                    // The caller has twelve complaints, so a threshold of ten rejects the call.
                    let decided = service.call(Some("+12025550123"), number);
                    assert!(thread > 0 || decided.as_deref() == Some("complaints:10"), "{decided:?}");
                }
            });
        }
        let service = &service;
        scope.spawn(move || {
            for _ in 0..60 {
                let stopped = service.delete(&format!("/v1/workers/{number}"));
                assert!([200, 404].contains(&stopped.status), "{stopped:?}");
            }
        });
    });
    assert_eq!(service.rules(number).len(), 120);
}

#[test]
fn metrics_count_calls_and_workers() {
    let service = TestDir::new().serve();
    service.call(Some("+12025550123"), "+12025550199");
    service.call(Some("+12025550123"), "+12025550100");
    service.call(None, "+12025550199");
    service.get("/nowhere/+12025550199").problem(404);
    let metrics = service.get("/metrics");
    assert_eq!(metrics.status, 200);
    for line in [
        r#"denylist_calls_total{decision="place",rule="none"} 1"#,
        r#"denylist_calls_total{decision="reject",rule="complaints"} 1"#,
        r#"denylist_calls_total{decision="reject",rule="anonymous"} 1"#,
        r#"denylist_calls_total{decision="reject",rule="prefix"} 0"#,
        r#"denylist_workers{registry="denylist"} 2"#,
        r#"denylist_workers{registry="reputation"} 1"#,
        r#"denylist_http_request_duration_seconds_count{method="POST",route="/v1/calls",status="200"} 3"#,
        r#"denylist_http_request_duration_seconds_count{method="GET",route="other",status="404"} 1"#,
        r#"denylist_http_request_duration_seconds_bucket{method="POST",route="/v1/calls",status="200",le="+Inf"} 3"#,
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "no {line} in\n{}", metrics.body);
    }
    assert!(!metrics.body.contains("2025550"), "a number is in a label");
}

#[test]
fn all_library_metrics_are_served() {
    let service = TestDir::new().serve_with(&["--max-workers", "100"]);
    service.rules("+12025550100");
    let scrape = || Exposition::parse(&service.get("/metrics").body);
    let assert_complete = |exposition: &Exposition| {
        for metric in ALL {
            for registry in ["denylist", "reputation"] {
                exposition.assert_complete(metric, registry);
            }
        }
    };
    // Each registry makes its first report in a task of its own, perhaps after the first request is served.
    eventually("both registries have reported", || {
        let now = scrape();
        catch_unwind(AssertUnwindSafe(|| assert_complete(&now))).is_ok()
    });
    let exposition = scrape();
    assert_complete(&exposition);
    assert!(exposition.0.values().all(|family| family.help.is_some()), "a family without a help text: {exposition:?}");
    // The metrics are updated every few seconds.
    eventually("the worker is in the metrics", || {
        scrape().value("gen_registry_workers", &[("registry", "denylist"), ("state", "running")]) == 1.0
    });
}

/// Uses the program of Debian's package `prometheus` if it is installed.
#[test]
fn promtool_accepts_the_metrics() {
    let service = TestDir::new().serve_with(&["--max-workers", "100"]);
    service.call(Some("+12025550123"), "+12025550199");
    let metrics = service.get("/metrics").body;
    let spawned =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = spawned else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "promtool is not installed: apt-get install prometheus");
        println!("SKIPPED: promtool is not installed (Debian: apt-get install prometheus)");
        return;
    };
    let mut pipe = promtool.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || pipe.write_all(metrics.as_bytes()));
    let output = promtool.wait_with_output().expect("promtool ends");
    writer.join().expect("writing does not panic").expect("promtool reads everything");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn crashed_worker_restarts_from_disk() {
    let dir = TestDir::new();
    let service = dir.serve_with(&["--drills"]);
    let number = "+12025550100";
    service.put(&format!("/v1/denylists/{number}/rules/anonymous")).json(201);
    assert_eq!(service.send("POST", &format!("/v1/workers/{number}/crash"), "").status, 202);
    assert_eq!(service.rules(number), ["anonymous"]);
    service.terminate();
    // The route exists only with the flag.
    let service = dir.serve();
    service.send("POST", &format!("/v1/workers/{number}/crash"), "").problem(404);
}
