//! Limits that several registries have together ([`SharedLimits`]).

mod owners;
mod storm;
mod stuck;

use std::time::Duration;

use gen_registry::{
    BuildError, Builder, Eviction, ExitReason, Registry, SharedLimits, StartError, Worker, WorkerHandle,
};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Record, Step, assert_at_rest, block_until, until, until_idle,
    value_of, within,
};
use tokio::time::{Instant, sleep};

use crate::capacity::{Starting, ask, full, started};

fn limit(workers: usize) -> SharedLimits {
    SharedLimits::new().max_workers(workers)
}

fn evicting(workers: usize) -> SharedLimits {
    limit(workers).eviction(Eviction::LeastRecentlyActive)
}

fn builder<W: Worker>(limits: &SharedLimits) -> Builder<W> {
    Registry::builder().shared_limits(limits)
}

fn sharing<const N: usize>(limits: &SharedLimits) -> [Registry<Probe>; N] {
    std::array::from_fn(|_| builder(limits).build().expect("the limits can work"))
}

async fn succeeds(starting: Starting) -> WorkerHandle<Probe> {
    within(starting, "the start").await.expect("it does not panic").expect("the start succeeds")
}

#[tokio::test(start_paused = true)]
async fn g11_limit_is_that_of_all_registries_together() {
    let limits = limit(3);
    let [one, two, three] = sharing(&limits);
    for (registry, key) in [(&one, "a"), (&two, "b"), (&three, "c")] {
        started(registry, key, Plan::default()).await;
    }
    for registry in [&one, &two, &three] {
        full(registry, "d").await;
        assert_eq!(registry.stats().limit, Some(3));
    }
    within(two.stop("b"), "a stop").await.unwrap();
    within(one.start("d", Plan::default()), "a start").await.expect("the place is free (G3)");
    full(&two, "b").await;
    // A failed start returns its place, and so does one that is killed.
    within(one.stop("d"), "a stop").await.unwrap();
    let failed = within(three.start("e", Plan::init(Step::Fail)), "a start").await;
    assert!(matches!(failed, Err(StartError::Init(_))), "{failed:?}");
    let hanging = ask(&two, "f", Plan::init(Step::Hang)).await;
    full(&one, "g").await;
    within(two.kill("f"), "a kill").await.unwrap();
    assert!(matches!(within(hanging, "its start").await.unwrap(), Err(StartError::Cancelled)));
    started(&one, "g", Plan::default()).await;
    for registry in [&one, &two, &three] {
        assert_at_rest(registry);
    }
}

#[tokio::test(start_paused = true)]
async fn evicts_the_longest_at_rest_of_all_registries() {
    let (record, limits) = (Record::default(), evicting(6));
    let [one, two] = sharing(&limits);
    let mut workers = Vec::new();
    for (registry, key) in [(&one, "a"), (&two, "b")] {
        workers.push(started(registry, key, Plan::default().recorded(&record)).await);
    }
    // Its clock began with those of the others.
    let [three] = sharing(&limits);
    for (registry, key) in [(&three, "c"), (&one, "d"), (&two, "e"), (&three, "f")] {
        workers.push(started(registry, key, Plan::default().recorded(&record)).await);
    }
    for active in [0, 2] {
        value_of(&workers[active]).await;
        sleep(Duration::from_secs(1)).await;
    }
    // From a start in any registry, the victims are b, d, e, f, a, c.
    for (registry, key, victim) in [(&one, "g", "b"), (&one, "h", "d"), (&three, "i", "e"), (&two, "j", "f")] {
        started(registry, key, Plan::default()).await;
        assert_eq!(record.terminated(victim), ["evicted"], "for the start of {key}");
        assert_eq!(one.count() + two.count() + three.count(), 6);
    }
    assert_eq!([record.terminated("a"), record.terminated("c")].concat(), Vec::<String>::new());
    let evicted = [&one, &two, &three].map(|registry| registry.stats().exits.evicted);
    assert_eq!(evicted, [1, 2, 1], "each is counted where it was");
    assert!(matches!(within(workers[1].closed(), "its exit").await, ExitReason::Evicted));
    for registry in [&one, &two, &three] {
        assert_at_rest(registry);
    }
}

#[tokio::test(start_paused = true)]
async fn busy_worker_of_another_registry_is_not_evicted() {
    let (gate, limits) = (Gate::new(), evicting(1));
    let [one, two] = sharing(&limits);
    let busy = started(&one, "busy", Plan::default()).await;
    busy.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    until_idle().await;
    full(&two, "b").await;
    gate.open();
    until_idle().await;
    started(&two, "b", Plan::default()).await;
    assert_eq!((one.count(), two.count()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn victim_has_the_stop_timeout_of_its_own_registry() {
    let limits = evicting(1);
    let one = builder::<Probe>(&limits).stop_timeout(Duration::from_secs(20)).build().unwrap();
    let two = builder::<Probe>(&limits).stop_timeout(Duration::from_secs(1)).build().unwrap();
    let victim = started(&one, "a", Plan::terminate(Step::Hang)).await;
    let began = Instant::now();
    let waiting = ask(&two, "b", Plan::default()).await;
    assert_eq!((two.stats().waiting_for_room, two.stats().workers()), (1, 0));
    succeeds(waiting).await;
    assert_eq!(began.elapsed().as_secs(), 20);
    assert!(matches!(within(victim.closed(), "its exit").await, ExitReason::Killed));
    assert_at_rest(&one);
}

#[tokio::test(start_paused = true)]
async fn places_are_given_in_the_order_of_the_starts() {
    let limits = evicting(2);
    let [one, two, three] = sharing(&limits);
    let (first_end, second_end) = (Gate::new(), Gate::new());
    started(&one, "a", Plan::terminate(Step::Wait(first_end.clone()))).await;
    started(&two, "b", Plan::terminate(Step::Wait(second_end.clone()))).await;
    let first = ask(&three, "c", Plan::default()).await;
    let second = ask(&one, "d", Plan::default()).await;
    full(&two, "e").await;
    // The victim of the second start ends first. Its place is for the first start.
    second_end.open();
    succeeds(first).await;
    assert!(!second.is_finished());
    first_end.open();
    succeeds(second).await;
    assert_eq!((one.count(), two.count(), three.count()), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn start_that_gives_up_passes_its_place_on() {
    for by in ["a stop of its key", "its caller", "its registry"] {
        let limits = evicting(2);
        let [one, two, three] = sharing(&limits);
        let (first_end, second_end) = (Gate::new(), Gate::new());
        started(&one, "a", Plan::terminate(Step::Wait(first_end.clone()))).await;
        started(&one, "b", Plan::terminate(Step::Wait(second_end.clone()))).await;
        let first = ask(&two, "c", Plan::default()).await;
        let second = ask(&three, "d", Plan::default()).await;
        match by {
            "a stop of its key" => drop(within(two.stop("c"), "the stop").await.unwrap()),
            "its caller" => first.abort(),
            _ => assert_eq!(within(two.shutdown(), "the shutdown").await.cancelled, 1),
        }
        until_idle().await;
        // One place becomes free. The first start would have it.
        second_end.open();
        succeeds(second).await;
        full(&one, "e").await;
        first_end.open();
        until_idle().await;
        started(&one, "e", Plan::default()).await;
        assert_eq!((one.count(), two.count(), three.count()), (1, 0, 1), "given up by {by}");
        full_or_evicts(&one, &three, "f").await;
    }
}

/// A place is passed to a registry whose runtime is not driven, and then dropped.
#[test]
fn place_on_its_way_to_a_dropped_runtime_is_returned() {
    let limits = evicting(1);
    let driven = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dropped = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let one = driven.block_on(async { builder::<Probe>(&limits).build().unwrap() });
    let two = dropped.block_on(async { builder::<Probe>(&limits).build().unwrap() });
    let end = Gate::new();
    let worker = driven.block_on(async { one.start("a", Plan::terminate(Step::Wait(end.clone()))).await.unwrap() });
    let waits = async {
        while two.stats().waiting_for_room == 0 {
            let two = two.clone();
            // A busy worker is not evicted: then it is refused, and tries again.
            tokio::spawn(async move { two.start("b", Plan::default()).await });
            tokio::task::yield_now().await;
        }
    };
    dropped.block_on(within(waits, "a start that waits"));
    driven.block_on(async {
        end.open();
        within(worker.closed(), "its exit").await;
        until("the removal of the worker", || one.stats().workers() == 0).await;
    });
    let start = |key: &'static str| driven.block_on(async { within(one.start(key, Plan::default()), "a start").await });
    assert!(matches!(start("c"), Err(StartError::AtCapacity)), "the place is on its way");
    drop(dropped);
    start("c").unwrap();
}

/// All places are taken: a further start evicts a worker.
async fn full_or_evicts(one: &Registry<Probe>, other: &Registry<Probe>, key: &str) {
    let before = one.count() + other.count();
    started(one, key, Plan::default()).await;
    assert_eq!(one.count() + other.count(), before);
}

#[tokio::test(start_paused = true)]
async fn ended_registry_returns_its_share() {
    for end in ["shutdown", "abort", "drop"] {
        let limits = limit(3);
        let [one, two] = sharing(&limits);
        for key in ["a", "b"] {
            started(&one, key, Plan::default()).await;
        }
        started(&two, "c", Plan::default()).await;
        full(&two, "d").await;
        match end {
            "shutdown" => assert_eq!(within(one.shutdown(), "the shutdown").await.drained, 2),
            "abort" => assert_eq!(within(one.abort(), "the end").await.aborted, 2),
            _ => drop(one),
        }
        until_idle().await;
        for key in ["d", "e"] {
            started(&two, key, Plan::default()).await;
        }
        full(&two, "f").await;
        let [three] = sharing(&limits);
        full(&three, "g").await;
    }
}

#[test]
fn share_is_returned_when_a_runtime_is_dropped() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second, limits) = (runtime(), runtime(), limit(2));
    let one = first.block_on(async { builder::<Probe>(&limits).build().unwrap() });
    let two = second.block_on(async { builder::<Probe>(&limits).build().unwrap() });
    let start = |key: &'static str| second.block_on(async { within(two.start(key, Plan::default()), "a start").await });
    first.block_on(async { within(one.start("a", Plan::default()), "a start").await }).unwrap();
    first.spawn({
        let one = one.clone();
        async move { one.start("b", Plan::init(Step::Hang)).await }
    });
    block_until("a start", || one.stats().starting > 0);
    assert!(matches!(start("c"), Err(StartError::AtCapacity)));
    drop(first);
    start("c").unwrap();
    start("d").unwrap();
    assert!(matches!(start("e"), Err(StartError::AtCapacity)));
}

#[tokio::test(start_paused = true)]
async fn one_init_at_a_time_over_two_registries() {
    let limits = SharedLimits::new().max_concurrent_starts(1);
    let [one, two] = sharing(&limits);
    let gates: [Gate; 3] = std::array::from_fn(|_| Gate::new());
    let plan = |gate: &Gate| Plan::init(Step::Wait(gate.clone()));
    let first = ask(&one, "a", plan(&gates[0])).await;
    let second = ask(&two, "b", plan(&gates[1])).await;
    let third = ask(&one, "c", plan(&gates[2])).await;
    gates[0].reached().await;
    assert_eq!((one.stats().waiting_for_turn, two.stats().waiting_for_turn), (1, 1), "each counts its own");
    // The second gives its turn up while it waits, in another registry than the next one.
    within(two.kill("b"), "a kill").await.unwrap();
    assert!(matches!(within(second, "its start").await.unwrap(), Err(StartError::Cancelled)));
    gates[0].open();
    succeeds(first).await;
    gates[2].reached().await;
    // The third is ended in its init: its registry shuts down.
    let last = ask(&two, "d", Plan::default()).await;
    assert!(!last.is_finished());
    assert_eq!(within(one.shutdown(), "the shutdown").await.cancelled, 1);
    assert!(matches!(within(third, "its start").await.unwrap(), Err(StartError::Shutdown)));
    succeeds(last).await;
    assert_at_rest(&two);
}

/// An `init` in one registry, which holds the only permit, needs a worker of the other one.
#[tokio::test(start_paused = true)]
async fn worker_waits_for_no_permit_and_no_room_of_another_registry() {
    let limits = evicting(2).max_concurrent_starts(1);
    let one = builder::<ClosureWorker>(&limits).build().unwrap();
    let [two] = sharing(&limits);
    let began = Instant::now();
    let other = two.clone();
    let needs = move |key: &'static str| {
        let other = other.clone();
        ClosureArgs::init(move |_| {
            Box::pin(async move {
                let started = other.lookup_or_start(key, Plan::default()).await;
                assert_eq!(started.is_err(), key == "no room", "{started:?}");
            })
        })
    };
    within(one.start("a", needs("b")), "a start whose init starts another").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "it waited for a timeout");
    assert_eq!((one.count(), two.count()), (1, 1));
    until_idle().await;
    // The place of a is for c, so that c finds none. It does not wait for that of b.
    within(one.start("c", needs("no room")), "a start whose init finds no room").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "it waited for a timeout");
    // A caller that is no worker waits.
    started(&two, "d", Plan::default()).await;
}

#[tokio::test(start_paused = true)]
async fn failed_starts_are_remembered_within_a_common_bound() {
    const KEYS: u64 = 16_384;
    let limits = SharedLimits::new().remember_failed_starts(Duration::from_secs(60));
    let registries = sharing::<64>(&limits);
    let fails = || Plan::init(Step::Fail);
    for key in 0..KEYS / 64 + 10 {
        drop(within(registries[0].start(&key.to_string(), fails()), "a failing start").await);
    }
    assert!(matches!(within(registries[0].start("7", fails()), "a refusal").await, Err(StartError::RecentlyFailed(_))));
    assert!(matches!(within(registries[1].start("7", fails()), "a start").await, Err(StartError::Init(_))));
    // Beyond its part it fails open.
    for _ in 0..2 {
        let beyond = within(registries[0].start("one more", fails()), "a start").await;
        assert!(matches!(beyond, Err(StartError::Init(_))), "{beyond:?}");
    }
    sleep(Duration::from_secs(61)).await;
    assert!(matches!(within(registries[0].start("7", fails()), "a start").await, Err(StartError::Init(_))));
}

#[tokio::test(start_paused = true)]
async fn limits_are_refused_beside_shared_ones() {
    let shared = SharedLimits::new;
    let second = Duration::from_secs(1);
    let refused = |builder: Builder<Probe>, expected: &str| match builder.build() {
        Err(BuildError::InvalidOption { option, .. }) => assert_eq!(option, expected),
        other => panic!("{expected}: {other:?}"),
    };
    refused(builder(&shared()).max_workers(1), "max_workers");
    refused(builder(&shared()).eviction(Eviction::LeastRecentlyActive), "eviction");
    refused(builder(&shared()).max_concurrent_starts(1), "max_concurrent_starts");
    refused(builder(&shared()).remember_failed_starts(second), "remember_failed_starts");
    refused(builder(&shared().max_workers(0)), "max_workers");
    refused(builder(&shared().max_concurrent_starts(0)), "max_concurrent_starts");
    refused(builder(&shared().max_concurrent_starts(usize::MAX)), "max_concurrent_starts");
    refused(builder(&shared().remember_failed_starts(Duration::ZERO)), "remember_failed_starts");
    // An option makes new limits, and the former ones are as they were.
    let (first, second) = (limit(1), limit(1).max_concurrent_starts(1));
    let ([one], [two]) = (sharing(&first), sharing(&second));
    started(&one, "a", Plan::default()).await;
    started(&two, "b", Plan::default()).await;
    full(&one, "c").await;
}

#[tokio::test(start_paused = true)]
async fn g11_only_idle_worker_of_many_makes_room() {
    let limits = evicting(500);
    let [busy, idle] = sharing(&limits);
    for key in 0..499 {
        let worker = started(&busy, &key.to_string(), Plan::default()).await;
        worker.try_cast(Ask::Do(Step::Hang)).expect("there is room");
    }
    // A sample of 64 seldom has the one that is idle.
    for key in 0..10 {
        started(&idle, &key.to_string(), Plan::default()).await;
        until_idle().await;
    }
    assert_eq!((busy.count(), idle.count()), (499, 1));
}
