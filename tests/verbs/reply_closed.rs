//! `Reply::closed`: a worker notices that its caller has dropped the call, for each kind of call.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use gen_registry::{Aliases, CallError, Context, Registry, Reply, Worker};
use test_support::{poll_once, until_idle, within};
use tokio::sync::{mpsc, oneshot};

/// Waits until each caller drops its call, and reports it.
struct Watcher(mpsc::UnboundedSender<u32>);

type Watched = (u32, Reply<u32>);

impl Worker for Watcher {
    type Key = u32;
    type Args = mpsc::UnboundedSender<u32>;
    type Message = Watched;
    type Error = Infallible;

    async fn init(ended: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(ended))
    }

    async fn handle(&mut self, (call, mut reply): Watched, _: &mut Context<Self>) -> Result<(), Infallible> {
        reply.closed().await;
        assert!(reply.is_closed());
        assert_eq!(reply.try_send(call), Err(call));
        self.0.send(call).expect("the test holds the receiver");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn closed_resolves_when_the_caller_leaves() {
    let registry = Registry::<Watcher>::new();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let worker = within(registry.start(&1, ended.clone()), "the start").await.unwrap();
    let (via, aliases) = (registry.via_or_start(&1, ended), Aliases::<u32, Watcher>::new());
    aliases.register(7, &worker).unwrap();
    let second = Duration::from_secs(1);

    type Called<'a> = Pin<Box<dyn Future<Output = Result<u32, CallError<Watcher>>> + Send + 'a>>;
    let calls: [Called<'_>; 6] = [
        Box::pin(worker.call(|reply| (0, reply))),
        Box::pin(via.call(|reply| (1, reply))),
        Box::pin(aliases.call(&7, |reply| (2, reply))),
        Box::pin(worker.call_timeout(second, |reply| (3, reply))),
        Box::pin(via.call_timeout(second, |reply| (4, reply))),
        Box::pin(aliases.call_timeout(&7, second, |reply| (5, reply))),
    ];
    for (number, mut call) in (0..).zip(calls) {
        assert!(poll_once(call.as_mut()).await.is_pending());
        until_idle().await;
        assert!(ends.try_recv().is_err(), "call {number} is still pending");
        if number < 3 {
            drop(call);
        } else {
            assert!(matches!(within(call, "the timeout").await, Err(CallError::TimedOut)));
        }
        assert_eq!(within(ends.recv(), "the drop of a call").await, Some(number));
    }
    let (reply, mut answer) = oneshot::channel();
    worker.cast((6, Reply::from(reply))).await.unwrap();
    until_idle().await;
    assert!(ends.try_recv().is_err(), "the receiver is there");
    answer.close();
    assert_eq!(within(ends.recv(), "the drop of a receiver").await, Some(6));
}

#[tokio::test(start_paused = true)]
async fn closed_can_be_dropped_before_replying() {
    let registry = Registry::<Watcher>::new();
    let (ended, _ends) = mpsc::unbounded_channel();
    let worker = within(registry.start(&1, ended), "the start").await.unwrap();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    // Take the reply out of the message before it is sent.
    let call = worker.call(move |reply: Reply<u32>| {
        sender.send(reply).unwrap_or_else(|_| panic!("the test holds the receiver"));
        (0, Reply::from(oneshot::channel().0))
    });
    let mut call = pin!(call);
    assert!(poll_once(call.as_mut()).await.is_pending());
    let mut reply = receiver.recv().await.expect("the reply was sent");
    for _ in 0..3 {
        assert!(poll_once(pin!(reply.closed())).await.is_pending());
    }
    reply.send(9);
    assert_eq!(within(call, "the reply").await.unwrap(), 9);
}
