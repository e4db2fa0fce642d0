//! `WorkerHandle::info` in each state, with and without inspection.

use std::convert::Infallible;
use std::time::Duration;

use gen_registry::inspect::{Inspector, WorkerInfo};
use gen_registry::{Context, Eviction, ExitReason, Mailbox, Registry, Restart, Worker, WorkerState};
use test_support::{Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Step, run_in, until_idle, within};
use tokio::time::{advance, sleep};

use crate::{builder, started};

const KEY: &str = "k";

/// What is known of the only worker, which no lookup returns while it starts.
fn info_in_any_state(inspector: &Inspector) -> WorkerInfo {
    let page = crate::only(inspector).workers(&Default::default());
    page.workers[0].info.clone()
}

#[tokio::test(start_paused = true)]
async fn info_of_a_starting_worker() {
    let (inspector, gate) = (Inspector::new(), Gate::new());
    let registry = builder(&inspector).build().expect("valid options");
    let plan = Plan::init(Step::Wait(gate.clone()));
    let start = tokio::spawn({
        let registry = registry.clone();
        async move { registry.start(KEY, plan).await }
    });
    gate.reached().await;
    advance(Duration::from_secs(3)).await;
    let info = info_in_any_state(&inspector);
    assert_eq!((info.state, info.incarnation, info.age), (WorkerState::Starting, 1, Some(Duration::from_secs(3))));
    assert!(!info.is_idle && info.idle_for.is_none() && info.busy_for.is_none(), "{info:?}");

    gate.open();
    let worker = within(start, "the start").await.expect("no panic").expect("the start succeeds");
    advance(Duration::from_secs(2)).await;
    let info = worker.info();
    assert_eq!((info.state, info.age), (WorkerState::Running, Some(Duration::from_secs(2))), "since it is ready");
    assert_eq!((info.is_idle, info.idle_for), (true, Some(Duration::from_secs(2))));
    assert_eq!(info.id, worker.id());
}

#[tokio::test(start_paused = true)]
async fn info_shows_the_message_in_hand() {
    let (inspector, gate) = (Inspector::new(), Gate::new());
    let registry = builder(&inspector).mailbox_capacity(2).build().expect("valid options");
    let worker = started(&registry, KEY).await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it runs");
    gate.reached().await;
    advance(Duration::from_secs(5)).await;
    worker.try_cast(Ask::Note(1)).expect("there is room");
    worker.try_cast(Ask::Note(2)).expect("there is room");
    worker.try_cast(Ask::Note(3)).expect_err("it is full");

    let info = worker.info();
    assert_eq!((info.busy_for, info.idle_for, info.is_idle), (Some(Duration::from_secs(5)), None, false));
    assert_eq!((info.queued, info.capacity, info.handled, info.undelivered), (2, 2, 1, Some(1)));

    gate.open();
    until_idle().await;
    advance(Duration::from_secs(7)).await;
    let info = worker.info();
    assert_eq!((info.busy_for, info.queued, info.handled), (None, 0, 3));
    assert_eq!(info.idle_for.map(|idle| idle.as_secs()), Some(7));
}

#[tokio::test(start_paused = true)]
async fn info_between_runs_has_the_crash() {
    let inspector = Inspector::new();
    let registry = builder(&inspector)
        .restart(Restart::Transient)
        .restart_intensity(3, Duration::from_secs(60))
        .restart_backoff(Duration::from_secs(10), Duration::from_secs(10))
        .build()
        .expect("valid options");
    let worker = started(&registry, KEY).await;
    assert_eq!((worker.info().restarts_used, worker.info().restarts_allowed), (Some(0), Some(3)));
    worker.cast(Ask::Do(Step::Fail)).await.expect("it runs");
    until_idle().await;
    let info = worker.info();
    assert_eq!((info.state, info.restarts, info.restarts_used), (WorkerState::Restarting, 0, Some(1)), "{info:?}");
    let crash = info.last_crash.expect("it has crashed");
    assert_eq!((crash.to_string(), crash.at.is_some()), ("failed: a scripted failure".to_owned(), true));
    assert!(info.busy_for.is_none() && !info.is_idle, "the message is no longer in hand");

    sleep(Duration::from_secs(11)).await;
    let info = worker.info();
    assert_eq!((info.state, info.restarts, info.incarnation), (WorkerState::Running, 1, 2));
    assert!(info.age < Some(Duration::from_secs(7)), "since the new run is ready: {info:?}");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(worker.info().restarts_used, Some(0), "the period is over");
    assert!(worker.info().last_crash.is_some(), "it is kept");
}

#[tokio::test(start_paused = true)]
async fn info_after_a_stop() {
    let (inspector, gate) = (Inspector::new(), Gate::new());
    let registry = builder(&inspector).build().expect("valid options");
    let worker = within(registry.start(KEY, Plan::terminate(Step::Wait(gate.clone()))), "a start").await.expect("ok");
    let stop = tokio::spawn({
        let worker = worker.clone();
        async move { worker.stop().await }
    });
    gate.reached().await;
    let info = worker.info();
    assert_eq!((info.state, info.is_idle, info.exit), (WorkerState::Stopping, false, None));

    gate.open();
    within(stop, "the stop").await.expect("no panic").expect("it stops");
    let info = worker.info();
    assert_eq!((info.state, info.exit), (WorkerState::Exited, Some(ExitReason::Stopped)));
    assert_eq!((info.age, info.idle_for, info.undelivered), (None, None, None), "its record is another worker's");
    let next = started(&registry, KEY).await;
    next.try_cast(Ask::Do(Step::Hang)).expect("there is room");
    until_idle().await;
    assert!(next.info().busy_for.is_some() && worker.info().busy_for.is_none(), "a record is reused");
}

#[tokio::test(start_paused = true)]
async fn info_is_derived_without_inspection() {
    let registry =
        Registry::<Probe>::builder().max_workers(1).eviction(Eviction::LeastRecentlyActive).build().expect("valid");
    let worker = started(&registry, KEY).await;
    worker.cast(Ask::Note(1)).await.expect("it runs");
    until_idle().await;
    advance(Duration::from_secs(4)).await;
    let info = worker.info();
    assert_eq!((info.state, info.handled, info.queued, info.is_idle), (WorkerState::Running, 1, 0, true));
    assert_eq!(info.idle_for.map(|idle| idle.as_secs()), Some(4), "eviction measures it anyway");
    assert_eq!((info.age, info.busy_for, info.undelivered, info.restarts_used), (None, None, None, None));

    worker.cast(Ask::Do(Step::Panic)).await.expect("it runs");
    within(worker.closed(), "the exit").await;
    let crash = worker.info().last_crash.expect("it ended by a crash");
    assert_eq!((crash.to_string(), crash.at), ("panicked: a scripted panic".to_owned(), None));
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn info_of_a_named_registry_has_the_age() {
    let registry = Registry::<Probe>::builder().name("info_has_the_age").build().expect("valid options");
    let worker = started(&registry, KEY).await;
    advance(Duration::from_secs(9)).await;
    assert_eq!(worker.info().age, Some(Duration::from_secs(9)));
    assert!(worker.info().started_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn info_of_itself_is_busy() {
    let inspector = Inspector::new();
    let registry =
        Registry::<ClosureWorker>::builder().inspect(&inspector, ToString::to_string).build().expect("valid options");
    let worker = within(registry.start("k", ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let info = run_in(&worker, |ctx| Box::pin(async move { ctx.handle().info() })).await.expect("it runs");
    assert_eq!((info.state, info.is_idle, info.handled), (WorkerState::Running, false, 1));
    assert_eq!(info.busy_for, Some(Duration::ZERO));
}

/// Takes two messages at once, and passes a gate after each of them.
struct Pairs([Gate; 2]);

impl Worker for Pairs {
    type Key = u8;
    type Args = [Gate; 2];
    type Message = ();
    type Error = Infallible;

    async fn init(gates: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(gates))
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        unreachable!("`run` handles the messages")
    }

    async fn run(&mut self, mailbox: &mut Mailbox<()>, _: &mut Context<Self>) -> Result<(), Infallible> {
        while mailbox.recv().await.is_some() {
            self.0[0].pass().await;
            assert!(mailbox.try_recv().is_some(), "the second message is queued");
            self.0[1].pass().await;
            assert!(mailbox.try_recv().is_none(), "there are two");
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn message_taken_by_try_recv_is_in_hand() {
    let (inspector, gates) = (Inspector::new(), [Gate::new(), Gate::new()]);
    let registry =
        Registry::<Pairs>::builder().inspect(&inspector, ToString::to_string).build().expect("valid options");
    let worker = within(registry.start(&1, gates.clone()), "a start").await.expect("the start succeeds");
    for _ in 0..2 {
        worker.try_cast(()).expect("there is room");
    }
    gates[0].reached().await;
    advance(Duration::from_secs(3)).await;
    let info = worker.info();
    assert_eq!((info.handled, info.queued, info.busy_for), (1, 1, Some(Duration::from_secs(3))));

    gates[0].open();
    gates[1].reached().await;
    advance(Duration::from_secs(5)).await;
    let info = worker.info();
    assert_eq!((info.handled, info.queued, info.busy_for), (2, 0, Some(Duration::from_secs(5))), "the second one");

    gates[1].open();
    until_idle().await;
    advance(Duration::from_secs(7)).await;
    let info = worker.info();
    assert_eq!((info.busy_for, info.is_idle), (None, true));
    assert!(matches!(within(worker.stop(), "a stop").await, Ok(ExitReason::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn idle_time_is_shown_where_it_is_measured() {
    let measured = [
        (Registry::<Probe>::builder(), None),
        (Registry::<Probe>::builder().idle_timeout(Duration::from_secs(60)), Some(4)),
        (Registry::<Probe>::builder().max_workers(1).eviction(Eviction::LeastFrequentlyActive), Some(4)),
        (builder(&Inspector::new()), Some(4)),
    ];
    for (nth, (builder, expected)) in measured.into_iter().enumerate() {
        let registry = builder.build().expect("valid options");
        let (worker, gate) = (started(&registry, KEY).await, Gate::new());
        until_idle().await;
        worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it runs");
        gate.reached().await;
        advance(Duration::from_secs(9)).await;
        assert_eq!(worker.info().idle_for, None, "{nth}: it has a message in hand");
        gate.open();
        until_idle().await;
        advance(Duration::from_secs(4)).await;
        assert_eq!(worker.info().idle_for.map(|idle| idle.as_secs()), expected, "{nth}");
        within(worker.stop(), "a stop").await.expect("it stops");
        assert_eq!(worker.info().idle_for, None, "{nth}: it has exited");
    }
}

#[tokio::test(start_paused = true)]
async fn inspected_worker_is_evicted_by_its_use() {
    let registry = builder(&Inspector::new())
        .max_workers(2)
        .eviction(Eviction::LeastFrequentlyActive)
        .build()
        .expect("valid options");
    // Its messages come before it is first idle.
    let often = started(&registry, "often").await;
    (0..10).for_each(|note| often.try_cast(Ask::Note(note)).expect("there is room"));
    let seldom = started(&registry, "seldom").await;
    until_idle().await;
    for note in 0..3 {
        seldom.cast(Ask::Note(note)).await.expect("it runs");
        until_idle().await;
    }
    started(&registry, "next").await;
    assert!(registry.lookup("seldom").is_none() && registry.lookup("often").is_some());
}
