//! How often a task that sends or receives is polled. It yields when tokio's budget is spent, and a step that only waits
//! does not make it yield once more.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};

use gen_registry::{Context, Mailbox, Registry, Worker, WorkerHandle};
use test_support::{Gate, until_idle, within};
use tokio::task::coop::poll_proceed;

/// Counts the polls of its `recv`, and begins to receive when the gate opens.
struct Receives {
    gate: Gate,
    polls: Arc<AtomicUsize>,
}

impl Worker for Receives {
    type Key = u32;
    type Args = (Gate, Arc<AtomicUsize>);
    type Message = ();
    type Error = Infallible;

    async fn init((gate, polls): Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self { gate, polls })
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        unreachable!("`run` handles the messages")
    }

    async fn run(&mut self, mailbox: &mut Mailbox<()>, _: &mut Context<Self>) -> Result<(), Infallible> {
        self.gate.pass().await;
        while counted(&self.polls, pin!(mailbox.recv())).await.is_some() {}
        Ok(())
    }
}

async fn counted<F: Future>(polls: &AtomicUsize, mut future: Pin<&mut F>) -> F::Output {
    poll_fn(|cx| {
        polls.fetch_add(1, Ordering::SeqCst);
        future.as_mut().poll(cx)
    })
    .await
}

/// How many units tokio gives a task for one poll.
async fn budget() -> usize {
    let spend_all = |cx: &mut TaskContext<'_>| {
        let mut units = 0;
        while let Poll::Ready(unit) = poll_proceed(cx) {
            unit.made_progress();
            units += 1;
        }
        Poll::Ready(units)
    };
    tokio::spawn(poll_fn(spend_all)).await.expect("it does not panic")
}

/// A worker with room for as many messages as the budget allows, that receives none before the gate opens.
async fn started(capacity: usize) -> (WorkerHandle<Receives>, Gate, Arc<AtomicUsize>) {
    let registry = Registry::<Receives>::builder().mailbox_capacity(capacity).build().expect("valid options");
    let (gate, polls) = (Gate::new(), Arc::<AtomicUsize>::default());
    let args = (gate.clone(), Arc::clone(&polls));
    let worker = within(registry.start(&1, args), "a start").await.expect("the start succeeds");
    gate.reached().await;
    // The registry ends with its last handle.
    tokio::spawn(async move { registry.gone().await });
    (worker, gate, polls)
}

#[tokio::test(start_paused = true)]
async fn recv_yields_once_for_each_budget() {
    let budget = budget().await;
    let (worker, gate, polls) = started(2 * budget).await;
    (0..2 * budget).for_each(|_| worker.try_cast(()).expect("there is room"));
    gate.open();
    // In the queue behind the worker.
    let counter = Arc::clone(&polls);
    let other = tokio::spawn(async move { counter.load(Ordering::SeqCst) });
    assert_eq!(within(other, "another task").await.expect("it does not panic"), budget + 1, "as many, and a yield");
    until_idle().await;
    // The others, and the wait for the next one.
    assert_eq!(polls.load(Ordering::SeqCst), 2 * budget + 2);
}

#[tokio::test(start_paused = true)]
async fn send_that_waits_needs_no_budget() {
    let budget = budget().await;
    for reserves in [false, true] {
        let (worker, gate, _) = started(budget).await;
        let sender = tokio::spawn(async move {
            for _ in 0..budget {
                worker.cast(()).await.expect("it runs");
            }
            let polls = AtomicUsize::new(0);
            if reserves {
                drop(counted(&polls, pin!(worker.reserve())).await.expect("it runs"));
            } else {
                counted(&polls, pin!(worker.cast(()))).await.expect("it runs");
            }
            polls.into_inner()
        });
        until_idle().await;
        gate.open();
        let polls = within(sender, "the sender").await.expect("it does not panic");
        assert_eq!(polls, 2, "one that waits and one that is woken, {reserves}");
    }
}
