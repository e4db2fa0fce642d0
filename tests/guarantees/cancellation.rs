//! A caller that is dropped at any await of any public future cancels nothing for other callers and leaks nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use gen_registry::{Registry, WorkerHandle};

use crate::rig::{Act, Book, Message, Plan, Probe, gate, poll_times, settle, within};

/// The registry that a future runs on. Worker 1 has a full mailbox, and worker 2 is idle.
struct Fixture {
    book: Arc<Book>,
    registry: Registry<Probe>,
    full: WorkerHandle<Probe>,
    idle: WorkerHandle<Probe>,
    hold: Arc<tokio::sync::Semaphore>,
}

type Tried<'s> = Pin<Box<dyn Future<Output = ()> + 's>>;

type Try = fn(&Fixture) -> Tried<'_>;

const MOST_POLLS: usize = 12;

#[tokio::test(start_paused = true)]
async fn any_future_can_be_dropped_at_any_await() {
    let futures: &[(&str, Try)] = &[
        ("lookup_or_start", |s| Box::pin(async { drop(s.registry.lookup_or_start(&5, s.plan()).await) })),
        ("start", |s| Box::pin(async { drop(s.registry.start(&5, s.plan()).await) })),
        ("start that fails", |s| Box::pin(async { drop(s.registry.start(&5, s.plan().init(Act::Fail)).await) })),
        ("slow start", |s| Box::pin(async { drop(s.registry.start(&5, s.slow()).await) })),
        ("stop", |s| Box::pin(async { drop(s.registry.stop(&2).await) })),
        ("kill", |s| Box::pin(async { drop(s.registry.kill(&2).await) })),
        ("handle.stop", |s| Box::pin(async { drop(s.idle.stop().await) })),
        ("closed", |s| Box::pin(async { drop(s.idle.closed().await) })),
        ("cast", |s| Box::pin(async { drop(s.full.cast(Message::Note(1)).await) })),
        ("call", |s| Box::pin(async { drop(s.idle.call(Message::Ask).await) })),
        ("call of a full one", |s| Box::pin(async { drop(s.full.call(Message::Ask).await) })),
        ("call_timeout", |s| Box::pin(async { drop(s.full.call_timeout(Duration::from_secs(1), Message::Ask).await) })),
        ("via cast", |s| Box::pin(async { drop(s.registry.via(&1).cast(Message::Note(1)).await) })),
        ("via start", |s| Box::pin(async { drop(s.registry.via_or_start(&5, s.plan()).cast(Message::Note(1)).await) })),
        ("via call", |s| Box::pin(async { drop(s.registry.via_or_start(&5, s.plan()).call(Message::Ask).await) })),
        ("two starts and a stop", |s| {
            Box::pin(async {
                let starts = async { tokio::join!(s.registry.start(&5, s.slow()), s.registry.start(&5, s.slow())) };
                let stop = async {
                    tokio::task::yield_now().await;
                    s.registry.stop(&5).await
                };
                drop(tokio::join!(starts, stop));
            })
        }),
    ];
    for (name, future) in futures {
        let mut ended_at = None;
        for polls in 0..=MOST_POLLS {
            let fixture = Fixture::set().await;
            let ended = poll_times(future(&fixture), polls).await.is_some();
            ended_at = ended_at.or(ended.then_some(polls));
            fixture.check(name, polls).await;
        }
        assert_ne!(ended_at, Some(0), "{name} was ready without a poll");
    }
}

impl Fixture {
    async fn set() -> Self {
        let (book, hold) = (Arc::<Book>::default(), gate());
        let registry = Registry::builder().mailbox_capacity(1).build().unwrap();
        let full = registry.start(&1, Plan::new(&book)).await.unwrap();
        full.cast(Message::Do(Act::Wait(Arc::clone(&hold)))).await.unwrap();
        settle().await;
        full.cast(Message::Note(0)).await.unwrap();
        let idle = registry.start(&2, Plan::new(&book)).await.unwrap();
        Self { book, registry, full, idle, hold }
    }

    fn plan(&self) -> Plan {
        Plan::new(&self.book)
    }

    fn slow(&self) -> Plan {
        self.plan().init(Act::Sleep(Duration::from_secs(1)))
    }

    async fn check(self, name: &str, polls: usize) {
        let lost = format!("{name} dropped after {polls} polls");
        // Another caller of each verb still gets its result.
        let started = within(self.registry.lookup_or_start(&5, self.plan()), &lost).await;
        if started.is_err() {
            // It joined the failing start. Its own start succeeds.
            within(self.registry.lookup_or_start(&5, self.plan()), &lost).await.unwrap();
        }
        let five = self.registry.lookup(&5).expect(&lost);
        assert!(within(five.call(Message::Ask), &lost).await.is_ok(), "{lost}");
        self.hold.add_permits(1);
        assert!(within(self.full.call(Message::Ask), &lost).await.is_ok(), "{lost}");
        within(self.registry.lookup_or_start(&2, self.plan()), &lost).await.unwrap();
        settle().await;
        assert_eq!(self.registry.count(), 3, "{lost}");
        assert_eq!(self.book.most_live(), 1, "{lost}");
        let report = within(self.registry.shutdown(), &lost).await;
        assert_eq!((report.drained, report.aborted, report.cancelled, report.stuck), (3, 0, 0, 0), "{lost}");
        assert_eq!(self.book.live(), 0, "{lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_outlives_its_caller() {
    for polls in 1..4 {
        let fixture = Fixture::set().await;
        fixture.hold.add_permits(1);
        let _ = poll_times(fixture.registry.shutdown(), polls).await;
        settle().await;
        assert_eq!((fixture.registry.count(), fixture.book.live()), (0, 0));
        assert_eq!(within(fixture.registry.shutdown(), "the report").await.drained, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_retries_do_not_accumulate() {
    let fixture = Fixture::set().await;
    let hold = gate();
    let first = tokio::spawn({
        let (registry, plan) = (fixture.registry.clone(), fixture.plan().init(Act::Wait(Arc::clone(&hold))));
        async move { registry.start(&5, plan).await.map(drop) }
    });
    settle().await;
    // Each request gives its arguments to the owner and is dropped. The arguments must not be kept while the start
    // hangs.
    for _ in 0..20_000 {
        drop(poll_times(fixture.registry.start(&5, fixture.plan()), 2).await);
        tokio::task::yield_now().await;
    }
    assert!(Arc::strong_count(&fixture.book) < 3_000, "{} plans are kept", Arc::strong_count(&fixture.book));
    hold.add_permits(1);
    within(first, "the first caller").await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn stop_polled_once_takes_effect() {
    for kills in [false, true] {
        let fixture = Fixture::set().await;
        // Also with the cooperative budget spent.
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        if kills {
            assert!(poll_times(fixture.registry.kill(&2), 1).await.is_none());
        } else {
            assert!(poll_times(fixture.registry.stop(&2), 1).await.is_none());
        }
        within(fixture.idle.closed(), "the exit of a worker whose stop was dropped").await;
    }
}
