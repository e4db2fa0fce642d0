//! The denylist service as Prometheus sees it, while calls are replayed and workers crash.
//!
//! With `GEN_REGISTRY_PICTURE=file.svg` in the environment (a path from the root of the repository), it runs longer and
//! draws the dashboard.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::grafana::dashboard::Dashboard;
use crate::grafana::end_to_end::every_panel_has_data_and_every_rule_is_computed;
use crate::grafana::paths;
use crate::grafana::picture::picture;
use crate::grafana::prometheus::{Prometheus, RATE_INTERVAL, Series, eventually};
use crate::harness::{Service, TestDir};

/// How many phones crash in turn. Each crashes so rarely that its budget is never spent.
const CRASHING: u64 = 64;

/// Numbers reserved for fiction, and different from the replayed ones: a call fails if its worker crashes.
fn phone(n: u64) -> String {
    format!("+1{}5550{}", 501 + n / 100, 100 + n % 100)
}

#[track_caller]
fn value(prometheus: &Prometheus, expression: &str) -> f64 {
    match &*prometheus.query(expression) {
        [Series { values, .. }] => values[0],
        several => panic!("{expression}: {several:?}"),
    }
}

/// The load on the service while it is observed.
struct Traffic<'s> {
    service: &'s Service,
    is_over: AtomicBool,
    crashes: AtomicU64,
}

impl Traffic<'_> {
    /// Repeats an action at this rate until the test is over.
    fn repeat(&self, per_second: f64, mut act: impl FnMut(u64)) {
        let every = Duration::from_secs_f64(1.0 / per_second);
        let mut next = Instant::now();
        for n in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            act(n);
            next += every;
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
    }

    fn crash(&self, n: u64) {
        let answer = self.service.send("POST", &format!("/v1/workers/{}/crash", phone(n % CRASHING)), "");
        assert_eq!(answer.status, 202, "{answer:?}");
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }

    /// Crashes one phone repeatedly until its restart budget is spent.
    fn spend(&self) {
        for _ in 0..8 {
            match self.service.send("POST", &format!("/v1/workers/{}/crash", phone(CRASHING)), "").status {
                202 => self.crashes.fetch_add(1, Ordering::Relaxed),
                // The worker has given up and cannot start for a while.
                503 => return,
                status => panic!("{status}"),
            };
        }
    }

    /// Uses new phones all the time, more than the limit, so that workers are evicted.
    fn ask(&self, n: u64) {
        self.service.rules(&phone(100 + n % 400));
    }

    fn stop(&self, n: u64) {
        let answer = self.service.delete(&format!("/v1/workers/{}", phone(100 + n * 7 % 400)));
        assert!([200, 404].contains(&answer.status), "{answer:?}");
    }
}

/// Ends the traffic even if an assertion fails.
struct End<'t>(&'t AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn dashboard_matches_the_live_service() {
    if paths::program("prometheus").is_none() {
        return;
    }
    // Cargo runs the tests in the directory of their package.
    let drawing = std::env::var_os("GEN_REGISTRY_PICTURE").map(|file| paths::root().join(file));
    let directory = TestDir::new();
    let callers: Vec<_> =
        (0..100).map(|n| format!("202555{:04},2021-07-07 00:{:02}:15,,,,,,", 100 + n, n % 60)).collect();
    let callers: Vec<_> = callers.iter().map(String::as_str).collect();
    directory.import("calls.csv", &callers).succeeded();
    let service = directory.serve_with(&["--no-sample", "--max-workers", "200", "--drills"]);
    let Some(prometheus) = Prometheus::scraping("denylist", service.address) else { return };

    let traffic = Traffic { service: &service, is_over: AtomicBool::new(false), crashes: AtomicU64::new(0) };
    thread::scope(|scope| {
        let _end = End(&traffic.is_over);
        scope.spawn(|| traffic.repeat(4.0, |n| traffic.crash(n)));
        scope.spawn(|| traffic.repeat(20.0, |n| traffic.ask(n)));
        scope.spawn(|| traffic.repeat(2.0, |n| traffic.stop(n)));
        scope.spawn(|| traffic.repeat(0.1, |_| traffic.spend()));
        scope.spawn(|| {
            let url = format!("http://{}", service.address);
            traffic.repeat(1.0, |seed| {
                let seed = seed.to_string();
                let args =
                    ["replay", "calls.csv", "--url", &url, "--calls", "600", "--rate", "200", "--recipients", "150"];
                let ran = directory.run(&[&args[..], &["--with-threshold", "3", "--seed", &seed]].concat());
                ran.succeeded();
            });
        });
        eventually("the registry is full, workers are evicted and workers crash", || {
            let rate = |of: &str| prometheus.query(&format!("sum(rate({of}[{RATE_INTERVAL}])) > 1"));
            !rate("gen_registry_worker_exits_total{reason=\"evicted\"}").is_empty()
                && !rate("gen_registry_worker_restarts_total").is_empty()
        });
        every_panel_has_data_and_every_rule_is_computed(&prometheus, &[]);
        if let Some(file) = &drawing {
            let seconds = 120;
            thread::sleep(Duration::from_secs(seconds));
            let drawn = picture(&Dashboard::read(), &prometheus, seconds);
            std::fs::write(file, drawn).expect("the picture is written");
        }
    });

    // At rest, Prometheus' numbers equal those of the service and those of the test.
    let crashes = traffic.crashes.load(Ordering::Relaxed) as f64;
    assert!(crashes > 0.0);
    let workers = service.get("/v1/workers").json(200);
    let expected = [&workers["denylists"], &workers["reputations"]].map(|count| count.as_f64().expect("a number"));
    let seen = |registry: &str| value(&prometheus, &format!("sum(gen_registry_workers{{registry=\"{registry}\"}})"));
    let of = |series: &str| value(&prometheus, &format!("sum({series})"));
    // Each requested crash led to a restart or to the exit of a worker whose budget was spent, or was queued when such
    // a worker exited.
    let given_up = || of("gen_registry_worker_exits_total{registry=\"denylist\", reason=\"panicked\"}");
    let unbegun = || of("gen_registry_messages_undelivered_total{registry=\"denylist\", reason=\"crashed\"}");
    let restarts =
        || value(&prometheus, "sum(gen_registry_worker_restarts_total{registry=\"denylist\", by=\"registry\"})");
    eventually("Prometheus has the numbers that the service has", || {
        [seen("denylist"), seen("reputation")] == expected && restarts() + given_up() + unbegun() == crashes
    });
    let up = value(&prometheus, "up{job=\"denylist\"}");
    let of_others = "sum(gen_registry_worker_restarts_total) - sum(gen_registry_worker_restarts_total\
                     {registry=\"denylist\", by=\"registry\", reason=\"panicked\"})";
    assert_eq!((up, value(&prometheus, of_others)), (1.0, 0.0));
    assert_eq!(given_up(), of("gen_registry_restart_limit_reached_total"));
    println!(
        "workers: {expected:?} by /v1/workers and by Prometheus; crashes: {crashes}, restarts: {}, given up: {}, behind \
         those that were given up: {}",
        restarts(),
        given_up(),
        unbegun(),
    );
    let log = service.terminate();
    println!("{}", log.join("\n"));
}
