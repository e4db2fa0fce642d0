//! `StopMode::Discard`: the worker finishes the current message, the queue is returned, and `terminate` runs.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{
    Builder, CallError, Context, ExitReason, Mailbox, Registry, Reply, Restart, StopMode, Worker, WorkerHandle,
    WorkerState,
};
use test_support::{
    Ask, Gate, Plan, Probe, Record, RestartableWorker, Step, assert_at_rest, run_in_restartable, until_idle, within,
};
use tokio::time::Instant;

const KEY: &str = "k";

type Lost = Arc<Mutex<Vec<u32>>>;

fn keeping(lost: &Lost) -> Builder<Probe> {
    let sink = Arc::clone(lost);
    Registry::builder().on_undelivered(move |_, ask| {
        if let Ask::Note(note) = ask {
            sink.lock().expect("no code panics while holding the lock").push(note);
        }
    })
}

fn taken(lost: &Lost) -> Vec<u32> {
    lost.lock().expect("no code panics while holding the lock").clone()
}

/// A worker that takes 5 ms for each message.
struct Slow {
    terminated: Arc<AtomicU64>,
    handled: Arc<AtomicU64>,
}

impl Worker for Slow {
    type Key = u32;
    type Args = (Arc<AtomicU64>, Arc<AtomicU64>);
    type Message = ();
    type Error = Infallible;

    async fn init((terminated, handled): Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self { terminated, handled })
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        self.terminated.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn full_mailbox_leaves_time_for_terminate() {
    for mode in [StopMode::Discard, StopMode::Drain] {
        for by_shutdown in [false, true] {
            let registry = Registry::<Slow>::builder()
                .mailbox_capacity(500)
                .stop_timeout(Duration::from_millis(300))
                .stop_mode(mode)
                .build()
                .expect("valid options");
            let (terminated, handled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let args = (Arc::clone(&terminated), Arc::clone(&handled));
            let worker = within(registry.start(&1, args), "a start").await.expect("the start succeeds");
            for _ in 0..500 {
                worker.try_cast(()).expect("there is room");
            }
            until_idle().await;
            let began = Instant::now();
            let reason = if by_shutdown {
                let report = within(registry.shutdown(), "the shutdown").await;
                assert_eq!(report.drained, usize::from(mode == StopMode::Discard), "{mode:?}");
                within(worker.closed(), "its exit").await
            } else {
                within(registry.stop(&1), "the stop").await.expect("the worker exits")
            };
            let (handled, undelivered) = (handled.load(Ordering::Relaxed), registry.stats().undelivered);
            let ran = terminated.load(Ordering::Relaxed);
            if mode == StopMode::Discard {
                assert!(matches!(reason, ExitReason::Stopped | ExitReason::Shutdown), "{reason:?}");
                assert_eq!((ran, handled, undelivered.closed, undelivered.total()), (1, 1, 499, 499));
                assert!(began.elapsed() < Duration::from_millis(10));
            } else {
                // The default mode: draining the queue takes the whole timeout.
                assert!(matches!(reason, ExitReason::Killed), "{reason:?}");
                assert_eq!((ran, undelivered.deadline + handled), (0, 499), "one was being handled");
            }
            assert_at_rest(&registry);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g6_discarded_messages_are_reported_at_once() {
    for by_key in [false, true] {
        let (lost, record, gate) = (Lost::default(), Record::default(), Gate::new());
        let registry = keeping(&lost).mailbox_capacity(2).build().expect("valid options");
        let plan = Plan::value(7).recorded(&record);
        let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
        let (caller, step) = (worker.clone(), Step::Wait(gate.clone()));
        let in_hand = tokio::spawn(async move { caller.call(|reply| Ask::DoThenReply(step, reply)).await });
        gate.reached().await;
        worker.cast(Ask::Note(1)).await.expect("there is room");
        let queued = call(&worker);
        until_idle().await;
        // The mailbox is full, so these wait.
        let in_line = call(&worker);
        let caster = worker.clone();
        let cast_in_line = tokio::spawn(async move { caster.cast(Ask::Note(2)).await.is_ok() });
        until_idle().await;
        let stopper = (registry.clone(), worker.clone());
        let stop = tokio::spawn(async move {
            if by_key {
                stopper.0.stop_with(KEY, StopMode::Discard).await
            } else {
                stopper.1.stop_with(StopMode::Discard).await
            }
        });
        // The senders are notified before the current message is finished.
        for called in [queued, in_line] {
            let called = within(called, "the call").await.unwrap();
            assert!(matches!(called, Err(CallError::NotDelivered)), "{called:?}");
        }
        assert!(!within(cast_in_line, "the cast").await.unwrap());
        assert_eq!(taken(&lost), [1]);
        assert_eq!((worker.state(), in_hand.is_finished()), (WorkerState::Stopping, false));
        assert_eq!(registry.stats().undelivered.closed, 4, "two accepted, two refused");
        gate.open();
        within(in_hand, "the current call").await.unwrap().expect("the current message is finished");
        assert!(matches!(within(stop, "the stop").await.unwrap(), Ok(ExitReason::Stopped)));
        assert_eq!((record.terminated(KEY), record.noted(KEY)), (vec!["stopped".to_owned()], vec![]));
        assert_at_rest(&registry);
    }
}

fn call(worker: &WorkerHandle<Probe>) -> tokio::task::JoinHandle<Result<u32, CallError<Probe>>> {
    let caller = worker.clone();
    tokio::spawn(async move { caller.call(Ask::Value).await })
}

#[tokio::test(start_paused = true)]
async fn discard_shortens_a_draining_stop() {
    // The gate may be closed by a stop, by a shutdown, or by the worker itself.
    for closed_by in ["stop", "shutdown", "itself"] {
        let (lost, record, gate) = (Lost::default(), Record::default(), Gate::new());
        let registry = keeping(&lost).build().expect("valid options");
        let plan = Plan::value(7).recorded(&record);
        let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
        if closed_by == "itself" {
            worker.cast(Ask::Stop).await.expect("the worker is running");
        }
        worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("the worker is running");
        for note in 0..20 {
            worker.cast(Ask::Note(note)).await.expect("the worker is running");
        }
        gate.reached().await;
        let first = registry.clone();
        let first = tokio::spawn(async move {
            match closed_by {
                "stop" => drop(first.stop(KEY).await),
                "shutdown" => assert_eq!(first.shutdown().await.stuck, 0),
                _ => {}
            }
        });
        until_idle().await;
        assert!(taken(&lost).is_empty());
        assert_eq!(worker.state(), WorkerState::Stopping, "{closed_by}");
        let second = worker.clone();
        let second = tokio::spawn(async move { second.stop_with(StopMode::Discard).await });
        until_idle().await;
        assert_eq!(taken(&lost), (0..20).collect::<Vec<_>>(), "{closed_by}");
        gate.open();
        let reason = within(second, "the second stop").await.unwrap().expect("the worker exits").to_string();
        let expected = match closed_by {
            "stop" => "stopped",
            "shutdown" => "shutdown",
            _ => "normal",
        };
        assert_eq!((reason.as_str(), record.terminated(KEY)), (expected, vec![expected.to_owned()]));
        within(first, "the first stop").await.expect("the first stop succeeds");
        assert!(record.noted(KEY).is_empty());
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn ctx_stop_handles_the_queue_in_any_mode() {
    let (lost, record) = (Lost::default(), Record::default());
    let registry = keeping(&lost).stop_mode(StopMode::Discard).build().expect("valid options");
    let plan = Plan::value(7).recorded(&record);
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
    worker.cast(Ask::Stop).await.expect("the worker is running");
    worker.cast(Ask::Note(1)).await.expect("the worker is running");
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Normal));
    assert_eq!((record.noted(KEY), taken(&lost)), (vec![1], vec![]));
    // A single stop may drain where the default mode is to discard.
    let plan = Plan::value(7).recorded(&record);
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the key is vacant");
    worker.cast(Ask::Note(2)).await.expect("the worker is running");
    within(registry.stop_with(KEY, StopMode::Drain), "the stop").await.expect("the worker exits");
    assert_eq!((record.noted(KEY), taken(&lost)), (vec![1, 2], vec![]));
}

#[tokio::test(start_paused = true)]
async fn owned_registry_stops_by_its_own_mode() {
    let (lost, record, gate) = (Lost::default(), Record::default(), Gate::new());
    let children = keeping(&lost).stop_mode(StopMode::Discard).build().expect("valid options");
    let parents = Registry::<RestartableWorker>::new();
    let parent = within(parents.start(KEY, Default::default()), "a start").await.expect("the start succeeds");
    let owned = children.clone();
    run_in_restartable(&parent, move |ctx| Box::pin(async move { ctx.own(&owned) }))
        .await
        .expect("the worker is running");
    let child =
        within(children.start(KEY, Plan::value(7).recorded(&record)), "a start").await.expect("the start succeeds");
    child.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("the worker is running");
    child.cast(Ask::Note(1)).await.expect("the worker is running");
    gate.reached().await;
    let stop = tokio::spawn(async move { parents.stop(KEY).await });
    until_idle().await;
    assert_eq!(taken(&lost), [1]);
    gate.open();
    within(stop, "the stop").await.unwrap().expect("the worker exits");
    assert_eq!(record.terminated(KEY), ["shutdown"]);
}

#[tokio::test(start_paused = true)]
async fn discard_during_restart_ends_the_worker() {
    let (lost, record) = (Lost::default(), Record::default());
    let registry = keeping(&lost)
        .restart(Restart::Permanent)
        .restart_backoff(Duration::from_secs(60), Duration::from_secs(60))
        .build()
        .expect("valid options");
    let plan = Plan::value(7).recorded(&record);
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
    worker.cast(Ask::Do(Step::Fail)).await.expect("the worker is running");
    until_idle().await;
    worker.cast(Ask::Note(1)).await.expect("the worker is restarted");
    let began = Instant::now();
    let reason = within(registry.stop_with(KEY, StopMode::Discard), "the stop").await;
    assert!(matches!(reason, Ok(ExitReason::Stopped)), "{reason:?}");
    assert_eq!((began.elapsed(), taken(&lost), record.inits(KEY)), (Duration::ZERO, vec![1], 1));
    assert_at_rest(&registry);
}

/// A worker whose own loop keeps receiving after the end.
struct CustomRun(Arc<Mutex<Vec<(bool, bool)>>>);

impl Worker for CustomRun {
    type Key = u32;
    type Args = Arc<Mutex<Vec<(bool, bool)>>>;
    type Message = Option<Gate>;
    type Error = Infallible;

    async fn init(seen: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(seen))
    }

    async fn handle(&mut self, _: Option<Gate>, _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Option<Gate>>, _: &mut Context<Self>) -> Result<(), Infallible> {
        while let Some(message) = mailbox.recv().await {
            if let Some(gate) = message {
                gate.pass().await;
                break;
            }
        }
        for _ in 0..3 {
            let tried = mailbox.try_recv().is_some();
            let received = mailbox.recv().await.is_some();
            self.0.lock().expect("no code panics while holding the lock").push((tried, received));
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn custom_run_receives_none_after_discard() {
    // Once with few messages, and once with many.
    for messages in [3, 40] {
        let (registry, gate, seen) = (Registry::<CustomRun>::new(), Gate::new(), Arc::default());
        let worker = within(registry.start(&1, Arc::clone(&seen)), "a start").await.expect("the start succeeds");
        for _ in 0..4 {
            worker.cast(None).await.expect("the worker is running");
        }
        worker.cast(Some(gate.clone())).await.expect("the worker is running");
        for _ in 0..messages {
            worker.cast(None).await.expect("the worker is running");
        }
        gate.reached().await;
        let stopper = worker.clone();
        let stop = tokio::spawn(async move { stopper.stop_with(StopMode::Discard).await });
        until_idle().await;
        gate.open();
        assert!(matches!(within(stop, "the stop").await.unwrap(), Ok(ExitReason::Stopped)));
        assert_eq!(*seen.lock().expect("no code panics while holding the lock"), [(false, false); 3]);
        assert_eq!(registry.stats().undelivered.closed, messages);
    }
}

/// A worker that counts its messages. `Some` is a call.
struct Count(Arc<AtomicU64>);

impl Worker for Count {
    type Key = u32;
    type Args = Arc<AtomicU64>;
    type Message = Option<Reply<()>>;
    type Error = Infallible;

    async fn init(handled: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(handled))
    }

    async fn handle(&mut self, reply: Option<Reply<()>>, _: &mut Context<Self>) -> Result<(), Infallible> {
        self.0.fetch_add(1, Ordering::Relaxed);
        if let Some(reply) = reply {
            reply.send(());
        }
        Ok(())
    }
}

/// G6 under load: each accepted message is either handled or returned, exactly once, and each caller learns which.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g6_stops_racing_sends_lose_no_message() {
    for round in 0..200 {
        let lost = Arc::new(AtomicU64::new(0));
        let sink = Arc::clone(&lost);
        let registry = Registry::<Count>::builder()
            .mailbox_capacity(if round % 2 == 0 { 16 } else { 2 })
            .stop_mode(StopMode::Discard)
            .on_undelivered(move |_, _| {
                sink.fetch_add(1, Ordering::Relaxed);
            })
            .build()
            .expect("valid options");
        let handled = Arc::new(AtomicU64::new(0));
        let mut senders = Vec::new();
        for _ in 0..3 {
            let (registry, handled) = (registry.clone(), Arc::clone(&handled));
            senders.push(tokio::spawn(async move {
                let (mut accepted, mut answered) = (0, 0);
                for turn in 0..60 {
                    // A stop may cancel this start.
                    let started = registry.lookup_or_start(&1, Arc::clone(&handled)).await;
                    let Ok(worker) = started else { continue };
                    if turn % 3 == 0 {
                        match worker.call(Some).await {
                            Ok(()) => answered += 1,
                            Err(CallError::NotDelivered) => {}
                            Err(error) => panic!("a handled call has a reply: {error:?}"),
                        }
                    } else if worker.cast(None).await.is_ok() {
                        accepted += 1;
                    }
                }
                (accepted, answered)
            }));
        }
        let stopper = registry.clone();
        let stops = tokio::spawn(async move {
            for turn in 0..30 {
                let mode = if turn % 3 == 0 { StopMode::Drain } else { StopMode::Discard };
                let (first, second) = tokio::join!(stopper.stop_with(&1, mode), stopper.stop(&1));
                assert!(!matches!((first, second), (Ok(ExitReason::Killed), _) | (_, Ok(ExitReason::Killed))));
                tokio::task::yield_now().await;
            }
        });
        let (mut accepted, mut answered) = (0, 0);
        for sender in senders {
            let (casts, calls) = within(sender, "a sender").await.expect("no task panics");
            accepted += casts;
            answered += calls;
        }
        within(stops, "the stops").await.expect("no task panics");
        let report = within(registry.shutdown(), "the shutdown").await;
        assert_eq!((report.aborted, report.crashed, report.stuck), (0, 0, 0), "round {round}");
        let (handled, lost) = (handled.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
        assert_eq!(handled + lost, accepted + answered, "round {round}: {lost} lost, {handled} handled");
        assert_eq!(registry.stats().handled, handled, "round {round}");
        assert_at_rest(&registry);
    }
}

/// A worker that blocks its thread and then continues in the same poll of its task.
struct Blocks(Arc<AtomicU64>);

type Wait = (tokio::sync::oneshot::Sender<()>, std::sync::mpsc::Receiver<()>);

impl Worker for Blocks {
    type Key = u32;
    type Args = Arc<AtomicU64>;
    type Message = Option<Wait>;
    type Error = Infallible;

    async fn init(handled: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(handled))
    }

    async fn handle(&mut self, wait: Option<Wait>, _: &mut Context<Self>) -> Result<(), Infallible> {
        self.0.fetch_add(1, Ordering::Relaxed);
        if let Some((reached, go_on)) = wait {
            reached.send(()).expect("the test holds the receiver");
            tokio::task::block_in_place(|| go_on.recv()).expect("the test holds the sender");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_messages_do_not_start_after_discard() {
    // Once with few messages, and once with many.
    for messages in [2, 30] {
        let (registry, handled) = (Registry::<Blocks>::new(), Arc::new(AtomicU64::new(0)));
        let worker = within(registry.start(&1, Arc::clone(&handled)), "a start").await.expect("the start succeeds");
        let (reached, is_reached) = tokio::sync::oneshot::channel();
        let (go_on, waits) = std::sync::mpsc::channel();
        for _ in 0..messages {
            worker.try_cast(None).expect("there is room");
        }
        worker.try_cast(Some((reached, waits))).expect("there is room");
        for _ in 0..messages {
            worker.try_cast(None).expect("there is room");
        }
        within(is_reached, "the message").await.expect("the message is handled");
        let mut stop = std::pin::pin!(worker.stop_with(StopMode::Discard));
        assert!(test_support::poll_once(stop.as_mut()).await.is_pending());
        go_on.send(()).expect("the worker waits");
        assert!(matches!(within(stop, "the stop").await, Ok(ExitReason::Stopped)));
        assert_eq!(handled.load(Ordering::Relaxed), messages + 1);
        assert_eq!(registry.stats().undelivered.closed, messages);
    }
}
