//! `denylist replay` against a running service.

use crate::harness::{HEADER, Ran, TestDir};

const ROWS: [&str; 4] = [
    "2025550123,2021-07-07 00:01:15,,,,,,",
    "2025550123,2021-07-07 00:02:15,,,,,,",
    "2025550123,2021-07-07 00:03:15,,,,,,",
    "3035550147,2021-07-07 00:03:15,,,,,,",
];

fn replay(dir: &TestDir, address: impl ToString, more: &[&str]) -> Ran {
    let url = format!("http://{}", address.to_string());
    dir.run(&[["replay", "calls.csv", "--url", &url].as_slice(), more].concat())
}

fn prepared() -> TestDir {
    let dir = TestDir::new();
    dir.import("calls.csv", &ROWS).succeeded();
    dir
}

fn number_after(report: &str, prefix: &str) -> u64 {
    let line =
        report.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_else(|| panic!("no {prefix} in {report}"));
    line.split(' ').next().and_then(|number| number.replace(',', "").parse().ok()).expect("a number")
}

#[test]
fn makes_and_reports_every_call() {
    let dir = prepared();
    let service = dir.serve_with(&["--no-sample"]);
    let args = ["--calls", "2000", "--concurrency", "8", "--recipients", "50", "--with-threshold", "3"];
    let ran = replay(&dir, service.address, &args);
    assert_eq!(ran.stderr, "", "a pipe shows no progress bar");
    let report = ran.succeeded();
    let (placed, rejected) = (number_after(&report, "placed "), number_after(&report, "rejected "));
    assert_eq!(placed + rejected, 2_000, "{report}");
    assert_eq!(number_after(&report, "errors "), 0);
    // Three of four rows are from the caller with three complaints, so it calls most often.
    assert!((1_350..1_650).contains(&rejected), "{report}");
    let latencies = report.lines().last().expect("a line").split(", ");
    for (latency, name) in latencies.zip(["p50 ", "p99 ", "p99.9 ", "max "]) {
        let figure = latency.strip_prefix(name).unwrap_or_else(|| panic!("{latency} is not {name}"));
        // At most three digits, and a unit.
        assert!(figure.len() <= "1.25 µs".len() && figure.ends_with('s'), "{figure}");
    }
    for figure in ["per second", "p50 ", "p99 ", "p99.9 "] {
        assert!(report.contains(figure), "no {figure} in {report}");
    }
    let workers = service.get("/v1/workers").json(200);
    assert_eq!((&workers["denylists"], &workers["reputations"]), (&50.into(), &2.into()));
    let metrics = service.get("/metrics").body;
    assert!(metrics.contains(&format!("denylist_calls_total{{decision=\"reject\",rule=\"complaints\"}} {rejected}\n")));

    // The same seed produces the same calls, whatever the concurrency. Another seed produces others.
    let again = replay(&dir, service.address, &["--calls", "2000", "--concurrency", "1", "--recipients", "50"]);
    assert_eq!(number_after(&again.succeeded(), "rejected "), rejected);
    let other = replay(&dir, service.address, &["--calls", "2000", "--recipients", "50", "--seed", "2"]);
    assert_ne!(number_after(&other.succeeded(), "rejected "), rejected);
}

#[test]
fn rate_limit_is_kept() {
    let dir = prepared();
    let service = dir.serve_with(&["--no-sample"]);
    let report = replay(&dir, service.address, &["--calls", "100", "--rate", "200"]).succeeded();
    let per_second = number_after(report.split(": ").nth(1).expect("a rate"), "");
    assert!(per_second <= 205, "{report}");
}

#[test]
fn missing_service_or_file_is_an_error() {
    let dir = prepared();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port");
    replay(&dir, free, &[]).failed(69, "cannot reach http://127.0.0.1:");
    dir.run(&["replay", "nowhere.csv"]).failed(66, "cannot read nowhere.csv");
    dir.file("callerless.csv", format!("{HEADER}\n,2021-07-07 00:01:15,,,,,,\n"));
    dir.run(&["replay", "callerless.csv"]).failed(65, "no row with a caller");
}

#[test]
fn failed_calls_are_counted_and_fail_the_run() {
    let dir = prepared();
    let service = dir.serve_with(&["--no-sample"]);
    let address = service.address;
    let ran = std::thread::scope(|scope| {
        let replay = scope.spawn(|| replay(&dir, address, &["--calls", "400", "--rate", "400"]));
        crate::harness::eventually("some calls are made", || {
            !service.get("/metrics").body.contains("denylist_calls_total{decision=\"place\",rule=\"none\"} 0\n")
        });
        service.terminate();
        replay.join().expect("the replay does not panic")
    });
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(number_after(&ran.stdout, "errors ") > 0, "{ran:?}");
    assert!(ran.stderr.contains("of 400 calls failed"), "{ran:?}");
}

#[test]
fn refused_rule_is_reported_in_words() {
    let dir = prepared();
    // The first phone takes the only place, and the second is refused.
    let service = dir.serve_with(&["--no-sample", "--max-workers", "1", "--eviction", "none"]);
    let args = ["--recipients", "2", "--with-threshold", "3"];
    let reason = "cannot add a rule for +12015550101: status 503: the limit of workers is reached";
    replay(&dir, service.address, &args).failed(1, reason);
    // So are calls: by status and reason.
    let ran = replay(&dir, service.address, &["--recipients", "2", "--calls", "50"]);
    assert!(ran.stdout.contains(": status 503: the limit of workers is reached"), "{ran:?}");
    assert_eq!(ran.code, Some(1), "{ran:?}");
}
