//! The feature `prometheus`: it installs the exporter with the buckets of the catalogue.
//!
//! A process has one recorder for its whole life, so each way of installing one is tested in its own process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use gen_registry::Registry;
use gen_registry::metrics::prometheus::{self, InstallError};
use gen_registry::metrics::{ALL, Presence};

use test_support::exposition::Exposition;
use test_support::{Plan, Probe, in_own_process, within};

#[track_caller]
fn is_whole(text: &str) {
    let exposition = Exposition::parse(text);
    let expected = ALL.iter().filter(|metric| metric.presence == Presence::Always);
    assert_eq!(exposition.0.len(), expected.clone().count(), "{:?}", exposition.0.keys());
    expected.for_each(|metric| exposition.assert_complete(metric, "rooms"));
}

#[tokio::test(start_paused = true)]
async fn install_renders_the_whole_catalogue() {
    if !in_own_process(module_path!(), "install_renders_the_whole_catalogue") {
        return;
    }
    let scrape = prometheus::install().unwrap();
    assert!(matches!(prometheus::install(), Err(InstallError::AlreadyInstalled)));
    assert!(matches!(prometheus::listen(([127, 0, 0, 1], 0)), Err(InstallError::AlreadyInstalled)));
    let registry = Registry::<Probe>::builder().name("rooms").build().unwrap();
    within(registry.start("a", Plan::default()), "a start").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    is_whole(&scrape.render());
}

/// Without scrapes, recorded values must not accumulate.
#[tokio::test(start_paused = true)]
async fn upkeep_runs_without_scrapes() {
    if !in_own_process(module_path!(), "upkeep_runs_without_scrapes") {
        return;
    }
    let scrape = prometheus::install().unwrap();
    let histogram = metrics::histogram!("gen_registry_worker_start_duration_seconds", "registry" => "rooms");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1, "the upkeep");
    let record = || {
        for _ in 0..100_000 {
            histogram.record(0.001);
        }
    };
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4_096
    };
    record();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = resident();
    for _ in 0..40 {
        record();
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let grown = resident().saturating_sub(before);
    // Four million values of 16 bytes would be 64 MB.
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    let text = scrape.render();
    assert!(text.contains("gen_registry_worker_start_duration_seconds_count{registry=\"rooms\"} 4100000"), "{text}");
    drop(scrape);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(tasks(), 0, "upkeep ends with the last handle");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listen_serves_on_given_address() {
    if !in_own_process(module_path!(), "listen_serves_on_given_address") {
        return;
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    assert!(matches!(prometheus::listen(address), Err(InstallError::Listen(_))), "the address is in use");
    drop(taken);
    prometheus::listen(address).unwrap();
    let registry = Registry::<Probe>::builder().name("rooms").build().unwrap();
    within(registry.start("a", Plan::default()), "a start").await.unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = get(address);
            if text.contains("gen_registry_worker_starts_total{registry=\"rooms\",outcome=\"ok\"} 1") {
                return text;
            }
            assert!(Instant::now() < deadline, "the start was not reported: {text}");
        }
    });
    is_whole(&within(text, "the metrics").await.unwrap());
}

fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("the exporter listens");
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the worker replies");
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}

#[test]
fn install_needs_a_runtime() {
    assert!(matches!(prometheus::install(), Err(InstallError::NoRuntime)));
    assert!(matches!(prometheus::listen(([127, 0, 0, 1], 0)), Err(InstallError::NoRuntime)));
}
