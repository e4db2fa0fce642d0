//! `sample`: a randomly chosen worker.

use gen_registry::Registry;
use test_support::{Ask, Probe, populated, value_of, within};

/// "sample/1: empty registry returns nil"
#[tokio::test(start_paused = true)]
async fn empty_registry_has_no_sample() {
    assert!(Registry::<Probe>::new().sample().is_none());
}

/// "sample/1: returns one of the entries in the registry"
#[tokio::test(start_paused = true)]
async fn returns_a_running_worker() {
    let registry = populated(&["a", "b", "c"]).await;
    let sample = registry.sample().unwrap();
    assert_eq!(registry.lookup(sample.key()), Some(sample.clone()));
    value_of(&sample).await;
}

#[tokio::test(start_paused = true)]
async fn never_returns_an_exited_worker() {
    let registry = populated(&["a", "b", "c"]).await;
    let mut left = vec!["a", "b", "c"];
    while let Some(sample) = registry.sample() {
        let place = left.iter().position(|key| key == sample.key()).expect("the sample is a running worker");
        left.remove(place);
        sample.cast(Ask::Stop).await.unwrap();
        within(sample.closed(), "the exit of the sample").await;
    }
    assert!(left.is_empty());
}
