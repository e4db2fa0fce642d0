//! `Builder`: which options it accepts, and that registries with different names are separate.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{BuildError, Registry, SendError, StartError};
use test_support::{Ask, Plan, Probe, value_of, within};

/// "custom name: multiple GenRegistries can be started for the same module with custom names"
#[tokio::test(start_paused = true)]
async fn named_registries_share_one_worker_type() {
    let named = |name: &str| Registry::<Probe>::builder().name(name).build().unwrap();
    let registries = ["probes.read", "probes.write", "probes.admin"].map(named);
    assert_eq!(registries.each_ref().map(|registry| registry.name()), ["probes.read", "probes.write", "probes.admin"]);
    for (n, registry) in (1..).zip(&registries) {
        within(registry.start("a", Plan::value(n)), "a start").await.unwrap();
    }
    for (n, registry) in (1..).zip(&registries) {
        assert_eq!((registry.count(), value_of(&registry.lookup("a").unwrap()).await), (1, n));
    }
}

/// "pre-1.5 specs: valid spec": the short form is `Registry::new`.
#[tokio::test(start_paused = true)]
async fn defaults_work() {
    let registry = Registry::<Probe>::new();
    assert_eq!(registry.name(), "");
    within(registry.start("a", Plan::default()), "the start").await.unwrap();
}

/// "pre-1.5 specs: can customize the name and run multiple registries for the same module": one named, one not.
#[tokio::test(start_paused = true)]
async fn named_and_unnamed_share_no_keys() {
    let (unnamed, named) = (Registry::<Probe>::new(), Registry::<Probe>::builder().name("named").build().unwrap());
    within(unnamed.start("a", Plan::default()), "the start").await.unwrap();
    assert_eq!((unnamed.count(), named.count()), (1, 0));
    assert!(named.lookup("a").is_none());
    within(named.start("a", Plan::default()), "the start of the same key elsewhere").await.unwrap();
}

/// "modern specs: invalid spec, no arguments": here the one requirement is a runtime.
#[test]
fn build_outside_runtime_fails() {
    assert!(matches!(Registry::<Probe>::builder().build(), Err(BuildError::NoRuntime)));
}

/// "modern specs: invalid spec, no :worker_module argument": the type system checks that. What a user can forget here
/// is the runtime's timer.
#[test]
fn build_without_timer_fails() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let built = runtime.block_on(async { Registry::<Probe>::builder().build() });
    assert!(matches!(built, Err(BuildError::NoTimer)));
}

/// "modern specs: valid spec"
#[tokio::test(start_paused = true)]
async fn all_options_work() {
    let registry = Registry::<Probe>::builder()
        .name("everything")
        .mailbox_capacity(1)
        .init_timeout(Duration::from_secs(1))
        .stop_timeout(Duration::MAX)
        .on_undelivered(|_, _| {})
        .build()
        .unwrap();
    let worker = within(registry.start("a", Plan::value(3)), "the start").await.unwrap();
    assert_eq!((registry.name(), value_of(&worker).await), ("everything", 3));
    within(registry.stop("a"), "the stop").await.unwrap();
}

/// "modern specs: can customize the name and run multiple registries for the same module"
#[tokio::test(start_paused = true)]
async fn shutdown_leaves_other_registries_running() {
    let read = Registry::<Probe>::builder().name("read").build().unwrap();
    let write = Registry::<Probe>::builder().name("write").build().unwrap();
    for registry in [&read, &write] {
        within(registry.start("a", Plan::default()), "a start").await.unwrap();
    }
    let _ = within(read.shutdown(), "the shutdown").await;
    assert_eq!((read.count(), write.count()), (0, 1));
    value_of(&write.lookup("a").unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn zero_mailbox_capacity_fails() {
    let error = Registry::<Probe>::builder().mailbox_capacity(0).build().unwrap_err();
    assert!(matches!(error, BuildError::InvalidOption { option: "mailbox_capacity", .. }), "{error:?}");
}

/// The deadline could expire before the worker's task is first polled.
#[tokio::test(start_paused = true)]
async fn zero_init_timeout_fails() {
    let error = Registry::<Probe>::builder().init_timeout(Duration::ZERO).build().unwrap_err();
    assert!(matches!(error, BuildError::InvalidOption { option: "init_timeout", .. }), "{error:?}");
}

#[test]
#[should_panic(expected = "tokio runtime")]
fn new_outside_a_runtime_panics() {
    let _ = Registry::<Probe>::new();
}

#[tokio::test(start_paused = true)]
async fn timeouts_may_be_infinite() {
    let registry =
        Registry::<Probe>::builder().init_timeout(Duration::MAX).stop_timeout(Duration::MAX).build().unwrap();
    within(registry.start("a", Plan::default()), "the start").await.unwrap();
    within(registry.stop("a"), "the stop").await.unwrap();
}

/// Each path to a start: by each verb, through an address, and by a worker through its own registry.
#[tokio::test(start_paused = true)]
async fn refused_key_is_started_by_no_verb() {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&asked);
    let accepts = move |key: &String| {
        log.lock().unwrap().push(key.clone());
        key.starts_with("shard 1/")
    };
    let registry = Registry::<Probe>::builder().accepts(accepts).build().unwrap();
    let (mine, other) = ("shard 1/a", "shard 2/a");
    let plan = Plan::default();
    let refused = |result| matches!(result, Err(StartError::Refused));
    assert!(refused(within(registry.start(other, plan.clone()), "a start").await));
    assert!(refused(within(registry.lookup_or_start(other, plan.clone()), "a start").await));
    assert!(refused(within(registry.lookup_or_start_with(other, || unreachable!("refused before")), "a start").await));
    let sent = within(registry.via_or_start(other, plan.clone()).cast(Ask::Note(1)), "a cast").await;
    assert!(
        matches!(&sent, Err(SendError::NotStarted { source, .. }) if matches!(**source, StartError::Refused)),
        "{sent:?}"
    );
    assert_eq!((registry.count(), asked.lock().unwrap().len()), (0, 4));

    within(registry.start(mine, plan.clone()), "the start of an accepted key").await.unwrap();
    within(registry.lookup_or_start(mine, plan), "a lookup").await.unwrap();
    assert!(registry.lookup(other).is_none());
    assert_eq!(asked.lock().unwrap().len(), 5, "a hit or a lookup asked");
}

#[tokio::test(start_paused = true)]
async fn panic_in_accepts_fails_only_its_own_start() {
    let accepts = |key: &String| if key == "b" { panic!("as scripted") } else { true };
    let registry = Registry::<Probe>::builder().accepts(accepts).build().unwrap();
    let panics = registry.clone();
    let joined = tokio::spawn(async move { panics.start("b", Plan::default()).await.map(drop) });
    assert!(within(joined, "the panic").await.unwrap_err().is_panic());
    within(registry.start("a", Plan::default()), "a start after the panic").await.unwrap();
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, registry.stats().starting), (1, 0));
}
