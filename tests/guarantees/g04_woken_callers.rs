//! G4: a caller that an ending worker wakes does not wait behind code of that worker which blocks its thread.
//!
//! Each caller is a task of its own. The worker's task wakes it last, so that it lies in the next-task slot of the
//! worker's thread, from which no other thread takes it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use gen_registry::{CallError, Context, Registry, Restart, SendError, WorkerHandle};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::rig::{Act, Message, Plan, Probe, ReleaseOnDrop, block_thread, gate, job, within};

/// Less than [`within`] allows: here a wait that is lost is not rare when the code is wrong.
async fn soon<F: Future>(awaited: F, lost: &str) -> F::Output {
    let in_time = tokio::time::timeout(Duration::from_secs(5), awaited).await;
    in_time.unwrap_or_else(|_| panic!("timed out, lost: {lost}"))
}

fn plan() -> Plan {
    Plan::new(&Arc::default())
}

/// Occupies the worker until the gate has a permit, and queues a call behind that.
async fn queue_call(worker: &WorkerHandle<Probe>, gate: &Arc<Semaphore>, then: Act) -> Call {
    let held = Arc::clone(gate);
    let (began, begun) = oneshot::channel();
    let hold = job(move |_| {
        Box::pin(async move {
            began.send(()).expect("the receiver waits");
            held.acquire().await.expect("the gate is never closed").forget();
        })
    });
    worker.cast(hold).await.expect("the worker runs");
    within(begun, "the message that occupies the worker").await.expect("it is handled");
    worker.cast(Message::Do(then)).await.expect("the worker runs");
    let worker = worker.clone();
    waiting(async move { worker.call(Message::Ask).await }).await
}

type Call = JoinHandle<Result<usize, CallError<Probe>>>;

/// Spawns a task for the future, which has to wait, and returns once it does.
async fn waiting<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (waits, waiting) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut future = pin!(future);
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "nothing wakes it yet");
        waits.send(()).expect("the receiver waits");
        future.await
    });
    within(waiting, "a task that waits").await.expect("no panic");
    task
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_queued_call_ends_before_a_blocking_drop() {
    for ends_by in [Act::Panic, Act::Fail] {
        let released = Arc::<AtomicBool>::default();
        let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
        let block = {
            let released = Arc::clone(&released);
            move || block_thread(&released)
        };
        let registry = Registry::<Probe>::new();
        let plan = Plan { on_drop: Some(Arc::new(block)), ..plan() };
        let worker = registry.start(&1, plan).await.expect("its init is fine");
        let gate = gate();
        let call = queue_call(&worker, &gate, ends_by).await;
        gate.add_permits(1);
        let outcome = soon(call, "the end of a call that never began").await.expect("no panic");
        assert!(matches!(outcome, Err(CallError::NotDelivered)), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_queued_call_ends_before_a_blocking_terminate() {
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let registry = Registry::<Probe>::new();
    let plan = plan().terminate(Act::Block(released));
    let worker = registry.start(&1, plan).await.expect("its init is fine");
    let gate = gate();
    let call = queue_call(&worker, &gate, Act::Fail).await;
    gate.add_permits(1);
    let outcome = soon(call, "the end of a call that never began").await.expect("no panic");
    assert!(matches!(outcome, Err(CallError::NotDelivered)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_queued_call_ends_before_a_blocking_hook() {
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let until = Arc::clone(&released);
    let registry = Registry::<Probe>::builder()
        .on_undelivered(move |_, message| {
            if let Message::Note(_) = message {
                block_thread(&until);
            }
        })
        .build()
        .expect("a test runs in a runtime");
    let worker = registry.start(&1, plan()).await.expect("its init is fine");
    let gate = gate();
    let call = queue_call(&worker, &gate, Act::Panic).await;
    worker.cast(Message::Note(0)).await.expect("the worker runs");
    gate.add_permits(1);
    let outcome = soon(call, "the end of a call that never began").await.expect("no panic");
    assert!(matches!(outcome, Err(CallError::NotDelivered)), "{outcome:?}");
}

/// A message in which the worker stops itself and blocks its thread.
fn stop_and_block(gate: &Arc<Semaphore>, released: &Arc<AtomicBool>) -> (Message, oneshot::Receiver<()>) {
    let (gate, released) = (Arc::clone(gate), Arc::clone(released));
    let (began, begun) = oneshot::channel();
    let message = job(move |ctx: &mut Context<Probe>| {
        Box::pin(async move {
            began.send(()).expect("the receiver waits");
            gate.acquire().await.expect("the gate is never closed").forget();
            ctx.stop();
            block_thread(&released);
        })
    });
    (message, begun)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_waiting_sender_fails_before_blocking_code() {
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().expect("a test runs in a runtime");
    let worker = registry.start(&1, plan()).await.expect("its init is fine");
    let gate = gate();
    let (message, begun) = stop_and_block(&gate, &released);
    worker.cast(message).await.expect("the worker runs");
    within(begun, "the message in hand").await.expect("it is handled");
    worker.cast(Message::Note(0)).await.expect("there is room for one");
    let sender = worker.clone();
    let cast = waiting(async move { sender.cast(Message::Note(1)).await }).await;
    gate.add_permits(1);
    let outcome = soon(cast, "the end of a cast that waits for room").await.expect("no panic");
    assert!(matches!(outcome, Err(SendError::Closed(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_waiter_for_the_stop_runs_before_blocking_code() {
    for restart in [Restart::Temporary, Restart::Permanent] {
        let released = Arc::<AtomicBool>::default();
        let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
        let builder = Registry::<Probe>::builder().restart(restart);
        let registry = builder.build().expect("a test runs in a runtime");
        let worker = registry.start(&1, plan()).await.expect("its init is fine");
        let gate = gate();
        let (sends, stopping) = oneshot::channel();
        let take = job(move |ctx: &mut Context<Probe>| {
            assert!(sends.send(ctx.stopping()).is_ok(), "the receiver waits");
            Box::pin(async {})
        });
        worker.cast(take).await.expect("the worker runs");
        let stopping = within(stopping, "the future of the stop").await.expect("no panic");
        let stopping = waiting(stopping).await;
        let (message, begun) = stop_and_block(&gate, &released);
        worker.cast(message).await.expect("the worker runs");
        within(begun, "the message in hand").await.expect("it is handled");
        gate.add_permits(1);
        soon(stopping, "the notice of the stop").await.expect("no panic");
    }
}
