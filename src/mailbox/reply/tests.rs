use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use super::*;

#[derive(Default)]
struct WakeCount(AtomicUsize);

impl Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl WakeCount {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<WakeCount>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(count));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn new_channel<T>(count: &Arc<WakeCount>) -> (Reply<T>, Receiver<T>) {
    let Poll::Ready(ends) = poll(&mut pin!(channel()), count) else { panic!("`channel` waits for nothing") };
    ends
}

#[test]
fn send_wakes_the_last_waker_once() {
    let (first, second) = (Arc::<WakeCount>::default(), Arc::<WakeCount>::default());
    let (reply, mut receiver) = new_channel(&first);
    assert!(poll(&mut receiver, &first).is_pending());
    assert!(poll(&mut receiver, &second).is_pending());
    reply.send(7);
    assert_eq!((first.take(), second.take()), (0, 1));
    assert_eq!(poll(&mut receiver, &second), Poll::Ready(Some(7)));
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1), "a waker is kept");
}

#[test]
fn dropped_reply_wakes_caller_with_none() {
    let count = Arc::default();
    let (reply, mut receiver) = new_channel::<u32>(&count);
    assert!(poll(&mut receiver, &count).is_pending());
    drop(reply);
    assert_eq!(count.take(), 1);
    assert_eq!(poll(&mut receiver, &count), Poll::Ready(None));
}

#[test]
fn send_to_dropped_caller_returns_the_value() {
    let count = Arc::default();
    let (reply, receiver) = new_channel(&count);
    assert!(!reply.is_closed());
    drop(receiver);
    assert!(reply.is_closed());
    assert_eq!(Arc::strong_count(&count), 1, "the reply keeps the caller's task alive");
    assert_eq!(reply.try_send("late"), Err("late"));
    assert_eq!(count.take(), 0);
}

#[test]
fn unread_value_drops_with_caller() {
    let (count, value) = (Arc::default(), Arc::new(()));
    let (reply, receiver) = new_channel(&count);
    reply.send(Arc::clone(&value));
    assert_eq!(Arc::strong_count(&value), 2);
    drop(receiver);
    assert_eq!(Arc::strong_count(&value), 1);
}

fn poll_closed<T>(reply: &mut Reply<T>, count: &Arc<WakeCount>) -> Poll<()> {
    poll(&mut pin!(reply.closed()), count)
}

#[test]
fn watching_worker_is_woken_once_when_caller_leaves() {
    let (caller, first, second) =
        (Arc::<WakeCount>::default(), Arc::<WakeCount>::default(), Arc::<WakeCount>::default());
    let (mut reply, mut receiver) = new_channel::<u32>(&caller);
    assert!(poll_closed(&mut reply, &first).is_pending());
    assert!(poll_closed(&mut reply, &second).is_pending());
    assert!(poll(&mut receiver, &caller).is_pending() && !reply.is_closed());
    drop(receiver);
    assert_eq!((first.take(), second.take(), caller.take()), (0, 1, 0));
    assert_eq!((poll_closed(&mut reply, &first), reply.is_closed()), (Poll::Ready(()), true));
    assert_eq!(reply.try_send(1), Err(1));
    assert!([first, second, caller].iter().all(|count| Arc::strong_count(count) == 1), "a waker is kept");
}

#[test]
fn watched_reply_still_sends_or_drops() {
    for answers in [true, false] {
        let (caller, other, worker) =
            (Arc::<WakeCount>::default(), Arc::<WakeCount>::default(), Arc::<WakeCount>::default());
        let (mut reply, mut receiver) = new_channel(&caller);
        assert!(poll(&mut receiver, &caller).is_pending());
        assert!(poll_closed(&mut reply, &worker).is_pending());
        // The caller has moved to another task.
        assert!(poll(&mut receiver, &other).is_pending());
        if answers {
            reply.send(7);
        } else {
            drop(reply);
        }
        assert_eq!((caller.take(), other.take(), worker.take()), (0, 1, 0));
        assert_eq!(poll(&mut receiver, &other), Poll::Ready(answers.then_some(7)));
        assert!([caller, other, worker].iter().all(|count| Arc::strong_count(count) == 1), "a waker is kept");
    }
}

#[test]
fn earlier_reply_is_found_on_first_poll() {
    let (count, other) = (Arc::default(), Arc::default());
    let (reply, mut receiver) = new_channel(&count);
    reply.send(7);
    receiver.check_on_next_poll();
    assert_eq!(poll(&mut receiver, &other), Poll::Ready(Some(7)));
}
