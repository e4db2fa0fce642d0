//! Ticks of intervals are not activity, for idling and for eviction. A table lists what is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Builder, Context, Eviction, ExitReason, Registry, Reply, Restart, WorkerHandle};
use test_support::{
    FallibleJob, Record, RestartableArgs, RestartableWorker, Scripted, assert_at_rest, fallible_job,
    run_in_restartable, until_idle, within,
};
use tokio::time::{Instant, sleep, sleep_until};

const IDLE: Duration = Duration::from_secs(100);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn builder() -> Builder<RestartableWorker> {
    Registry::builder().idle_timeout(IDLE)
}

fn nothing() -> FallibleJob {
    fallible_job(|_| Box::pin(async { Ok(()) }))
}

fn takes(time: Duration) -> FallibleJob {
    fallible_job(move |_| {
        Box::pin(async move {
            sleep(time).await;
            Ok(())
        })
    })
}

async fn started(registry: &Registry<RestartableWorker>, key: &str) -> WorkerHandle<RestartableWorker> {
    within(registry.start(key, RestartableArgs::default()), "a start").await.unwrap()
}

/// Arguments of a worker that starts these intervals and takes `handling` for each tick.
fn with_intervals(periods: &'static [u64], handling: Duration) -> RestartableArgs {
    RestartableArgs::init(move |ctx| {
        for &period in periods {
            ctx.send_interval(seconds(period), move || takes(handling));
        }
        Box::pin(async { Ok(()) })
    })
}

/// Seconds from `since` until the worker idles.
async fn idles(worker: &WorkerHandle<RestartableWorker>, since: Instant) -> u64 {
    let reason = tokio::time::timeout(seconds(100_000), worker.closed()).await.expect("the worker idles");
    assert!(matches!(reason, ExitReason::Idle), "{reason}");
    since.elapsed().as_secs()
}

/// A worker idles up to a sixteenth later than its timeout.
#[track_caller]
fn assert_rested(at: u64, since: u64, case: &str) {
    assert!((since + 100..=since + 107).contains(&at), "{case}: idle at {at}, active until {since}");
}

#[tokio::test(start_paused = true)]
async fn ticks_do_not_prevent_idling() {
    let cases: [&[u64]; 6] = [&[5], &[99], &[100], &[150], &[5, 7, 30], &[1, 5, 150, 1_000]];
    for periods in cases {
        let registry = builder().build().unwrap();
        let began = Instant::now();
        let worker = within(registry.start("p", with_intervals(periods, Duration::ZERO)), "a start").await.unwrap();
        assert_rested(idles(&worker, began).await, 0, &format!("{periods:?}"));
        assert_at_rest(&registry);
        assert_eq!(registry.stats().undelivered.total(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_ticks_do_not_prevent_idling() {
    // Ticks are missed, but the worker rests between the ticks that arrive.
    let registry = builder().build().unwrap();
    let began = Instant::now();
    let worker = within(registry.start("p", with_intervals(&[5], seconds(4))), "a start").await.unwrap();
    let at = idles(&worker, began).await;
    assert!((100..=112).contains(&at), "{at}");
    // Now it never rests: the next tick is queued before the last one is handled.
    let began = Instant::now();
    let worker = within(registry.start("p", with_intervals(&[5, 7], seconds(30))), "a start").await.unwrap();
    let at = idles(&worker, began).await;
    assert!(at <= 100 + 2 * 64 * 30, "{at}");
    assert_eq!(registry.stats().undelivered.total(), 0, "G7");
}

/// Ticks are withheld so that the queue becomes empty. Then a guard keeps the worker, and the ticks are due again.
#[tokio::test(start_paused = true)]
async fn withheld_ticks_resume_if_a_guard_keeps_the_worker() {
    let registry = builder().build().unwrap();
    let ticks = Arc::<Mutex<u32>>::default();
    let handled = Arc::clone(&ticks);
    let args = RestartableArgs::init(move |ctx| {
        for period in [5, 7] {
            let handled = Arc::clone(&handled);
            // It takes longer than its period, so that the queue is never empty by itself.
            ctx.send_interval(seconds(period), move || {
                *handled.lock().unwrap() += 1;
                takes(seconds(30))
            });
        }
        Box::pin(async { Ok(()) })
    });
    let worker = within(registry.start("p", args), "a start").await.unwrap();
    let kept = run_in_restartable(&worker, |ctx| {
        let guard = ctx.keep_active();
        Box::pin(async move { guard })
    });
    let guard = within(kept, "the guard").await.unwrap();
    // The check comes with every 64th message.
    sleep(seconds(3 * 64 * 30)).await;
    let before = *ticks.lock().unwrap();
    sleep(seconds(64 * 30)).await;
    let after = *ticks.lock().unwrap();
    assert!(after > before + 50, "{before} ticks, then {after}");
    drop(guard);
    idles(&worker, Instant::now()).await;
}

#[tokio::test(start_paused = true)]
async fn messages_between_ticks_delay_idling() {
    for handling in [0, 4, 30] {
        let record = Record::default();
        let registry = builder().build().unwrap();
        let args = with_intervals(&[5], seconds(handling)).recorded(&record);
        let worker = within(registry.start("p", args), "a start").await.unwrap();
        let handled = Arc::new(Mutex::new(0));
        for _ in 0..40 {
            sleep(seconds(60)).await;
            let handled = Arc::clone(&handled);
            let count = fallible_job(move |_| {
                Box::pin(async move {
                    *handled.lock().unwrap() += 1;
                    Ok(())
                })
            });
            worker.cast(count).await.unwrap_or_else(|error| panic!("{handling}: {error}"));
        }
        let last = Instant::now();
        let at = idles(&worker, last).await;
        assert!(at >= 100 && at <= 107 + 3 * 64 * handling.max(1), "{handling}: {at}");
        assert_eq!(*handled.lock().unwrap(), 40, "G7");
        assert_eq!(registry.stats().undelivered.total(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn queued_messages_and_ticks_are_distinguished() {
    let registry = builder().build().unwrap();
    let began = Instant::now();
    let worker = within(registry.start("p", with_intervals(&[1, 1, 1], Duration::ZERO)), "a start").await.unwrap();
    sleep_until(began + Duration::from_millis(60_500)).await;
    // Ticks arrive while this message is handled, and messages behind them.
    worker.cast(takes(Duration::from_millis(1_000))).await.unwrap();
    for _ in 0..20 {
        sleep(Duration::from_millis(40)).await;
        worker.cast(nothing()).await.unwrap();
    }
    assert_rested(idles(&worker, began).await, 61, "the last queued message");
}

#[tokio::test(start_paused = true)]
async fn ticks_of_a_crashed_run_hide_no_message() {
    for tracks_activity in [false, true] {
        let limited = builder().restart(Restart::Transient);
        let limited =
            if tracks_activity { limited.max_workers(9).eviction(Eviction::LeastRecentlyActive) } else { limited };
        let registry = limited.build().unwrap();
        let args = RestartableArgs::init(move |ctx| {
            let fails = ctx.incarnation() == 1;
            ctx.send_interval(seconds(50), move || {
                fallible_job(move |_| Box::pin(async move { if fails { Err(Scripted) } else { Ok(()) } }))
            });
            Box::pin(async { Ok(()) })
        });
        let began = Instant::now();
        let worker = within(registry.start("p", args), "a start").await.unwrap();
        sleep_until(began + seconds(90)).await;
        assert_eq!(worker.incarnation(), 2, "the first tick ends the first run");
        worker.cast(nothing()).await.unwrap();
        assert_rested(idles(&worker, began).await, 90, &format!("tracks activity: {tracks_activity}"));
    }
}

/// Each tick is queued before the last one is handled, from the start on.
#[tokio::test(start_paused = true)]
async fn worker_that_never_rests_from_its_start_idles() {
    for is_set_later in [false, true] {
        let registry = if is_set_later { Registry::new() } else { builder().build().unwrap() };
        let args = RestartableArgs::init(|ctx| {
            ctx.send_interval(seconds(5), || takes(seconds(6)));
            ctx.handle().try_cast(takes(seconds(6))).unwrap();
            Box::pin(async { Ok(()) })
        });
        let began = Instant::now();
        let worker = within(registry.start("p", args), "a start").await.unwrap();
        if is_set_later {
            let set = run_in_restartable(&worker, |ctx| {
                ctx.set_idle_timeout(Some(IDLE));
                Box::pin(async {})
            });
            set.await.unwrap();
        }
        let at = idles(&worker, began).await;
        assert!((100..=100 + 2 * 64 * 6).contains(&at), "set later: {is_set_later}: {at}");
        assert_eq!(registry.stats().undelivered.total(), 0, "G7");
    }
}

#[tokio::test(start_paused = true)]
async fn g7_message_during_a_tick_is_handled() {
    for is_sent in [false, true] {
        let registry = builder().build().unwrap();
        let began = Instant::now();
        // The tick is handled from 99 to 139, and the idle timeout passes meanwhile.
        let worker = within(registry.start("p", with_intervals(&[99], seconds(40))), "a start").await.unwrap();
        if is_sent {
            sleep_until(began + seconds(120)).await;
            worker
                .call(|reply: Reply<()>| {
                    fallible_job(move |_| {
                        Box::pin(async move {
                            reply.send(());
                            Ok(())
                        })
                    })
                })
                .await
                .expect("G7");
            assert_rested(idles(&worker, began).await, 139, "sent");
        } else {
            assert_eq!(idles(&worker, began).await, 139);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn touch_in_a_tick_delays_idling() {
    let registry = builder().build().unwrap();
    let began = Instant::now();
    let args = RestartableArgs::init(|ctx| {
        let mut left = 100;
        ctx.send_interval(seconds(50), move || {
            left -= 1;
            fallible_job(move |ctx| {
                if left > 0 {
                    ctx.touch();
                }
                Box::pin(async { Ok(()) })
            })
        });
        Box::pin(async { Ok(()) })
    });
    let worker = within(registry.start("p", args), "a start").await.unwrap();
    assert_rested(idles(&worker, began).await, 99 * 50, "touches");
}

#[tokio::test(start_paused = true)]
async fn interval_started_in_init_permits_idling() {
    let registry = builder().restart(Restart::Transient).build().unwrap();
    let began = Instant::now();
    let worker = within(registry.start("p", with_intervals(&[5], Duration::ZERO)), "a start").await.unwrap();
    sleep(seconds(60)).await;
    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    assert_rested(idles(&worker, began).await, 60, "a restart");
    assert_eq!(worker.incarnation(), 2);
}

#[tokio::test(start_paused = true)]
async fn own_idle_timeout_ignores_ticks() {
    let registry = Registry::<RestartableWorker>::new();
    let worker = started(&registry, "p").await;
    run_in_restartable(&worker, |ctx| {
        Box::pin(async move {
            ctx.send_interval(seconds(5), nothing);
        })
    })
    .await
    .unwrap();
    sleep(seconds(10_000)).await;
    let began = Instant::now();
    run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.set_idle_timeout(Some(IDLE)) })).await.unwrap();
    assert_rested(idles(&worker, began).await, 0, "its own");
}

#[tokio::test(start_paused = true)]
async fn ticks_do_not_prevent_eviction() {
    for eviction in [Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        let registry = Registry::<RestartableWorker>::builder().max_workers(2).eviction(eviction).build().unwrap();
        within(registry.start("ticks", with_intervals(&[1], Duration::ZERO)), "a start").await.unwrap();
        started(&registry, "used").await.cast(nothing()).await.unwrap();
        // The worker has had a hundred ticks since the other one was used.
        sleep(Duration::from_millis(100_500)).await;
        started(&registry, "new").await;
        assert!(registry.lookup("ticks").is_none(), "{eviction:?}");
        assert!(registry.lookup("used").is_some(), "{eviction:?}");
    }
}

/// Something that happens once, after a minute, and whether it is activity.
type Row = (&'static str, bool);

#[tokio::test(start_paused = true)]
async fn documented_activity_table_holds() {
    const ROWS: [Row; 17] = [
        ("nothing", false),
        ("cast", true),
        ("try_cast", true),
        ("call", true),
        ("via cast", true),
        ("via call", true),
        ("a task's cast", true),
        ("its own cast", true),
        ("send_after", true),
        ("a monitor's message", true),
        ("touch", true),
        ("a tick", false),
        ("a pending monitor", false),
        ("a reply kept", false),
        ("an owned registry", false),
        ("lookup", false),
        ("lookup_or_start", false),
    ];
    for (row, is_activity) in ROWS {
        let registry = builder().build().unwrap();
        let others = Registry::<RestartableWorker>::new();
        let other = started(&others, "other").await;
        let began = Instant::now();
        let worker = started(&registry, "p").await;
        let watched = other.clone();
        let child = others.clone();
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        // The setup of the row.
        run_in_restartable(&worker, move |ctx: &mut Context<RestartableWorker>| {
            Box::pin(async move {
                match row {
                    "send_after" => drop(ctx.send_after(seconds(60), nothing())),
                    "a monitor's message" | "a pending monitor" => drop(ctx.monitor(&watched, |_| nothing())),
                    "a tick" => drop(ctx.send_interval(seconds(60), nothing)),
                    "touch" => drop(ctx.send_interval(seconds(60), || {
                        fallible_job(|ctx| {
                            ctx.touch();
                            Box::pin(async { Ok(()) })
                        })
                    })),
                    "its own cast" => drop(ctx.send_interval(seconds(60), || {
                        fallible_job(|ctx| {
                            ctx.handle().try_cast(nothing()).expect("there is room");
                            Box::pin(async { Ok(()) })
                        })
                    })),
                    "an owned registry" => ctx.own(&child),
                    _ => {}
                }
            })
        })
        .await
        .unwrap();
        if row == "a reply kept" {
            let call = worker.clone();
            tokio::spawn(async move {
                let answer = call.call(move |reply: Reply<()>| {
                    fallible_job(move |_| {
                        *keep.lock().unwrap() = Some(reply);
                        Box::pin(async { Ok(()) })
                    })
                });
                // The worker never replies.
                let _ = answer.await;
            });
        }
        sleep_until(began + seconds(60)).await;
        let via = registry.via("p");
        match row {
            "cast" => worker.cast(nothing()).await.unwrap(),
            "try_cast" => worker.try_cast(nothing()).unwrap(),
            "call" => run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap(),
            "via cast" => via.cast(nothing()).await.unwrap(),
            "via call" => via
                .call(|reply| {
                    fallible_job(move |_| {
                        Box::pin(async move {
                            reply.send(());
                            Ok(())
                        })
                    })
                })
                .await
                .unwrap(),
            "a task's cast" => {
                let worker = worker.clone();
                tokio::spawn(async move { worker.cast(nothing()).await.unwrap() }).await.unwrap();
            }
            "a monitor's message" => drop(other.stop().await.unwrap()),
            "an owned registry" => other.cast(nothing()).await.unwrap(),
            "lookup" => assert!(registry.lookup("p").is_some()),
            "lookup_or_start" => drop(registry.lookup_or_start("p", RestartableArgs::default()).await.unwrap()),
            _ => {}
        }
        if matches!(row, "touch" | "its own cast") {
            // The interval triggers the row.
            sleep(seconds(600)).await;
            assert!(registry.lookup("p").is_some(), "{row}");
        } else {
            assert_rested(idles(&worker, began).await, if is_activity { 60 } else { 0 }, row);
        }
        until_idle().await;
        drop(kept);
    }
}

#[tokio::test(start_paused = true)]
async fn running_task_prevents_idling() {
    let registry = builder().build().unwrap();
    let began = Instant::now();
    let worker = started(&registry, "p").await;
    run_in_restartable(&worker, |ctx| Box::pin(async move { drop(ctx.spawn(sleep(seconds(150)))) })).await.unwrap();
    let at = idles(&worker, began).await;
    assert!(at >= 150, "{at}");
}

#[tokio::test(start_paused = true)]
async fn shorter_idle_timeout_applies_to_a_resting_worker() {
    let registry = builder().build().unwrap();
    let worker = started(&registry, "k").await;
    // Its timer is set for the longer one.
    until_idle().await;
    let since = Instant::now();
    run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.set_idle_timeout(Some(seconds(10))) })).await.unwrap();
    let at = idles(&worker, since).await;
    assert!((10..=11).contains(&at), "{at} s");
}
