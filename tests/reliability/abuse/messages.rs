//! A flood of messages.

use std::time::Duration;

use gen_registry::{CallError, Registry, SendError};
use test_support::{Ask, Gate, Plan, Probe, Record, Step, value_of, within};

#[tokio::test(start_paused = true)]
async fn flooded_mailbox_holds_its_capacity_and_no_more() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(32).build().unwrap();
    let (record, gate) = (Record::default(), Gate::new());
    let victim = registry.start("victim", Plan::default().recorded(&record)).await.unwrap();
    let other = registry.start("other", Plan::value(7)).await.unwrap();
    victim.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    let mut refused = 0;
    for note in 0..10_000 {
        match victim.try_cast(Ask::Note(note)) {
            Ok(()) => {}
            Err(SendError::Full(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((registry.stats().queued, refused), (32, 9_968));
    // A caller that waits for room has a time limit of its own.
    let late = victim.call_timeout(Duration::from_secs(1), Ask::Value).await;
    assert!(matches!(late, Err(CallError::NotSent)), "{late:?}");
    assert_eq!(value_of(&other).await, 7, "the other key is served");
    gate.open();
    within(victim.call(Ask::Notes), "the notes").await.unwrap();
    assert_eq!(record.noted("victim"), (0..32).collect::<Vec<_>>(), "what was accepted is handled");
}
