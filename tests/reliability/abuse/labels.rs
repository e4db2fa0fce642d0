//! Names and keys that try to leave their place in Prometheus's text.

use std::sync::Arc;
use std::time::Duration;

use gen_registry::Registry;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::exposition::Exposition;
use test_support::{Ask, Plan, Probe, Step};

const NASTY: [&str; 6] = [
    "a\"} 1\ngen_registry_workers{registry=\"forged\"} 99\n# ",
    "back\\slash\\",
    "line\nbreak",
    "\r\n\r\nHTTP/1.1 200 OK",
    "{}, \"\"",
    "💥\u{202e}\u{0}",
];

/// The exposition of a registry with this name and these keys.
async fn exposition(name: &str, keys: &[&str]) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let registry = Registry::<Probe>::builder().name(name).recorder(Arc::new(recorder)).build().unwrap();
    for key in keys {
        let worker = registry.start(*key, Plan::default()).await.unwrap();
        worker.cast(Ask::Do(Step::Panic)).await.unwrap();
        worker.closed().await;
        registry.start(*key, Plan::default()).await.unwrap();
    }
    // The time of a report.
    tokio::time::sleep(Duration::from_secs(30)).await;
    handle.render()
}

#[tokio::test(start_paused = true)]
async fn exposition_survives_any_registry_name() {
    let plain = exposition("plain", &["key"]).await;
    for name in NASTY {
        let text = exposition(name, &["key"]).await;
        // The same lines, apart from the name: nothing became a line, a label or a series of its own.
        assert_eq!(text.lines().count(), plain.lines().count(), "{name:?} in\n{text}");
        let families: Vec<_> = Exposition::parse(&text).0.into_keys().collect();
        let expected: Vec<_> = Exposition::parse(&plain).0.into_keys().collect();
        assert_eq!(families, expected, "{name:?}");
        assert!(!text.contains("registry=\"forged\""), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_series_has_a_key() {
    let keys = ["secret-key-1", "secret-key-2", NASTY[0]];
    let text = exposition("plain", &keys).await;
    assert!(!text.contains("secret-key") && !text.contains("forged"), "{text}");
    // As many series for three keys as for one.
    assert_eq!(text.lines().count(), exposition("plain", &["key"]).await.lines().count());
}
