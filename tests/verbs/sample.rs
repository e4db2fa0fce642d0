//! `sample`: one of the workers.

use gen_registry::Registry;
use test_support::{Ask, Probe, populated, value_of, within};

/// "sample/1: empty registry returns nil"
#[tokio::test(start_paused = true)]
async fn an_empty_registry_has_none_to_show() {
    assert!(Registry::<Probe>::new().sample().is_none());
}

/// "sample/1: returns one of the entries in the registry"
#[tokio::test(start_paused = true)]
async fn it_is_one_of_the_workers() {
    let registry = populated(&["a", "b", "c"]).await;
    let sample = registry.sample().unwrap();
    assert_eq!(registry.lookup(sample.key()), Some(sample.clone()));
    value_of(&sample).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_never_one_that_has_ended() {
    let registry = populated(&["a", "b", "c"]).await;
    let mut left = vec!["a", "b", "c"];
    while let Some(sample) = registry.sample() {
        let place = left.iter().position(|key| key == sample.key()).expect("a sample that still runs");
        left.remove(place);
        sample.cast(Ask::Stop).await.unwrap();
        within(sample.closed(), "the end of the sample").await;
    }
    assert!(left.is_empty());
}
