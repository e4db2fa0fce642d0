//! Each public function that takes a duration gets the shortest and the longest ones. None panics, and each verb returns:
//! at once where no time is given, and never before its event where there is no end.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use gen_registry::inspect::Inspector;
use gen_registry::{
    Aliases, Builder, CallError, NotRegistered, Registry, Restart, Retry, SendError, SharedLimits, WorkerHandle,
};
use test_support::public_futures::public_durations;
use test_support::{
    Ask, Plan, Probe, RestartableArgs, RestartableWorker, Step, assert_at_rest, fallible_job, run_in_restartable,
    until, within,
};
use tokio::time::timeout;

const EXTREMES: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(1),
    // Milliseconds that no u64 holds, and seconds that no clock reaches.
    Duration::from_secs(u64::MAX / 1_000),
    Duration::from_secs(u64::MAX / 2),
    Duration::new(u64::MAX, 0),
    Duration::MAX,
];

/// Longer than any wait of the code under test that has an end.
const LONG: Duration = Duration::from_secs(1_000_000);

fn is_short(duration: Duration) -> bool {
    duration <= Duration::from_millis(1)
}

/// Options of a registry of restartable workers.
type Set = fn(Builder<RestartableWorker>, Duration) -> Builder<RestartableWorker>;

const OPTIONS: &[(&str, Set)] = &[
    ("Builder::init_timeout", |builder, time| builder.init_timeout(time)),
    ("Builder::stop_timeout", |builder, time| builder.stop_timeout(time)),
    ("Builder::idle_timeout", |builder, time| builder.idle_timeout(time)),
    ("Builder::restart_intensity", |builder, time| builder.restart_intensity(3, time)),
    ("Builder::restart_backoff", |builder, time| builder.restart_backoff(time, time)),
    ("Builder::restart_backoff_reset", |builder, time| {
        builder.restart_backoff(Duration::from_nanos(1), Duration::from_millis(5)).restart_backoff_reset(time)
    }),
    ("Builder::remember_failed_starts", |builder, time| builder.remember_failed_starts(time)),
    ("SharedLimits::remember_failed_starts", |builder, time| {
        builder.shared_limits(&SharedLimits::new().remember_failed_starts(time))
    }),
    ("Inspector::slow_after", |builder, time| builder.inspect(&Inspector::new().slow_after(time), String::clone)),
];

const VERBS: &[&str] = &[
    "Aliases::await_registration",
    "Aliases::call_timeout",
    "Aliases::cast_timeout",
    "Context::send_after",
    "Context::send_interval",
    "Context::set_idle_timeout",
    "Retry::attempt_timeout",
    "Retry::backoff",
    "Via::call_timeout",
    "Via::cast_timeout",
    "WorkerHandle::call_timeout",
    "WorkerHandle::cast_timeout",
];

#[test]
fn every_function_with_a_duration_is_tried() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let tried: BTreeSet<_> = OPTIONS.iter().map(|(name, _)| *name).chain(VERBS.iter().copied()).collect();
    let public = public_durations(&src);
    assert_eq!(tried, public.iter().map(String::as_str).collect());
}

#[tokio::test(start_paused = true)]
async fn options_take_extreme_durations() {
    for &(option, set) in OPTIONS {
        for time in EXTREMES {
            let cell = format!("{option}({time:?})");
            let builder = Registry::<RestartableWorker>::builder().restart(Restart::Transient);
            // Values that cannot work are refused.
            let Ok(registry) = set(builder, time).build() else {
                assert!(is_short(time) || option.contains("restart"), "{cell} is refused");
                continue;
            };
            use_registry(&registry, &cell).await;
            let report = within(registry.shutdown(), &cell).await;
            assert_eq!((report.stuck, registry.count()), (0, 0), "{cell}: {report:?}");
            assert_at_rest(&registry);
        }
    }
}

/// Starts, calls, crashes and stops workers. Whatever the option says, each verb returns.
async fn use_registry(registry: &Registry<RestartableWorker>, cell: &str) {
    let fails = RestartableArgs::init(|_| Box::pin(async { Err(test_support::Scripted) }));
    for _ in 0..2 {
        assert!(within(registry.start("fails", fails.clone()), cell).await.is_err(), "{cell}");
    }
    for _ in 0..2 {
        let started = within(registry.lookup_or_start("works", RestartableArgs::default()), cell).await;
        // With an `init_timeout` of nothing, it depends on the order of polls.
        let Ok(worker) = started else { continue };
        // It may idle first.
        let _ = within(run_in_restartable(&worker, |_| Box::pin(async {})), cell).await;
        let crash = fallible_job(|_| Box::pin(async { Err(test_support::Scripted) }));
        let _ = within(worker.cast(crash), cell).await;
        // A backoff without an end is a wait without an end.
        let answered = worker.call_timeout(Duration::from_secs(1), |reply| {
            fallible_job(move |_| {
                Box::pin(async move {
                    reply.send(());
                    Ok(())
                })
            })
        });
        let _ = within(answered, cell).await;
        let _ = within(registry.stop("works"), cell).await;
    }
}

async fn hung(registry: &Registry<Probe>, key: &str) -> WorkerHandle<Probe> {
    let worker = within(registry.start(key, Plan::default()), "a start").await.expect("the key is vacant");
    worker.cast(Ask::Do(Step::Hang)).await.expect("it runs");
    // Its handler takes the first message.
    until("the message that hangs", || registry.stats().queued == 0).await;
    while worker.try_cast(Ask::Note(0)).is_ok() {}
    worker
}

/// A verb whose event never comes ends with `time`: at once, or never.
async fn ends_with_its_time<T>(verb: &str, time: Duration, future: impl Future<Output = T>, is_late: fn(&T) -> bool) {
    match timeout(LONG, future).await {
        Ok(output) => assert!(is_short(time) && is_late(&output), "{verb}({time:?}) is over"),
        Err(_) => assert!(!is_short(time), "{verb}({time:?}) does not end"),
    }
}

#[tokio::test(start_paused = true)]
async fn verbs_take_extreme_durations() {
    for time in EXTREMES {
        let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
        let names = Aliases::<&str, Probe>::new();
        let idle = registry.start("idle", Plan::value(7)).await.unwrap();
        let full = hung(&registry, "full").await;
        names.register("idle", &idle).unwrap();
        names.register("full", &full).unwrap();
        let (via_idle, via_full) = (registry.via("idle"), registry.via("full"));

        let called = |result: &Result<u32, CallError<Probe>>| {
            matches!(result, Err(CallError::NotSent | CallError::TimedOut | CallError::NotDelivered))
        };
        let sent = |result: &Result<(), SendError<Probe>>| matches!(result, Err(SendError::TimedOut(_)));
        let verb = "call_timeout";
        ends_with_its_time(verb, time, full.call_timeout(time, Ask::Value), called).await;
        ends_with_its_time(verb, time, via_full.call_timeout(time, Ask::Value), called).await;
        ends_with_its_time(verb, time, names.call_timeout(&"full", time, Ask::Value), called).await;
        let verb = "cast_timeout";
        ends_with_its_time(verb, time, full.cast_timeout(time, Ask::Note(1)), sent).await;
        ends_with_its_time(verb, time, via_full.cast_timeout(time, Ask::Note(1)), sent).await;
        ends_with_its_time(verb, time, names.cast_timeout(&"full", time, Ask::Note(1)), sent).await;
        let waits = names.await_registration(&"absent", time);
        ends_with_its_time("await_registration", time, waits, |result| result == &Err(NotRegistered)).await;

        // What is there at once needs no time.
        assert!(within(idle.cast_timeout(time, Ask::Note(1)), "a cast").await.is_ok(), "{time:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(within(via_idle.cast_timeout(time, Ask::Note(1)), "a cast").await.is_ok(), "{time:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(within(names.await_registration(&"idle", time), "the name").await.is_ok(), "{time:?}");
        if !is_short(time) {
            assert_eq!(within(idle.call_timeout(time, Ask::Value), "a call").await.ok(), Some(7), "{time:?}");
        }
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn retries_take_extreme_durations() {
    for time in EXTREMES {
        let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
        let full = hung(&registry, "full").await;
        let via = registry.via("full");
        let retry = Retry::new().attempts(2).backoff(Duration::ZERO, Duration::ZERO).attempt_timeout(time);
        let called = via.call_with_retry(retry, Ask::Value);
        ends_with_its_time("attempt_timeout", time, called, |result| result.is_err()).await;
        drop(full);
        let retry = Retry::new().attempts(2).attempt_timeout(Duration::from_millis(1)).backoff(time, time);
        let called = via.call_with_retry(retry, Ask::Value);
        ends_with_its_time("backoff", time, called, |result| result.is_err()).await;
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn timers_of_workers_take_extreme_durations() {
    for time in EXTREMES {
        let registry = Registry::<RestartableWorker>::new();
        let worker = registry.start("k", RestartableArgs::default()).await.unwrap();
        let (fired, mut firings) = tokio::sync::mpsc::unbounded_channel();
        let set = run_in_restartable(&worker, move |ctx| {
            Box::pin(async move {
                let note = |name| {
                    let fired = fired.clone();
                    fallible_job(move |_| {
                        fired.send(name).expect("the test waits");
                        Box::pin(async { Ok(()) })
                    })
                };
                let after = ctx.send_after(time, note("after"));
                let again = fired.clone();
                let interval = ctx.send_interval(time, move || {
                    let fired = again.clone();
                    fallible_job(move |_| {
                        fired.send("interval").expect("the test waits");
                        Box::pin(async { Ok(()) })
                    })
                });
                (after, interval)
            })
        });
        let (after, interval) = within(set, "the timers").await.expect("it runs");
        let mut seen = BTreeSet::new();
        let both = async {
            while seen.len() < 2 {
                seen.insert(firings.recv().await.expect("the interval has a sender"));
            }
        };
        let _ = timeout(Duration::from_secs(10), both).await;
        let short = is_short(time);
        let expected = if short { BTreeSet::from(["after", "interval"]) } else { BTreeSet::new() };
        assert_eq!(seen, expected, "{time:?}");
        assert_eq!(after.is_finished(), short, "{time:?}");
        // A message that is still to be sent would keep the worker from idling.
        after.cancel();
        interval.cancel();
        let set = run_in_restartable(&worker, move |ctx| Box::pin(async move { ctx.set_idle_timeout(Some(time)) }));
        within(set, "the idle timeout").await.expect("it runs");
        assert_eq!(timeout(LONG, worker.closed()).await.is_ok(), short, "{time:?}");
        assert_eq!(registry.stats().task_panics, 0, "{time:?}");
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
    }
}
