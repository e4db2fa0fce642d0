use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn taken(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<Count>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(count));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn made<T>(count: &Arc<Count>) -> (Reply<T>, Answer<T>) {
    let Poll::Ready(made) = poll(&mut pin!(call()), count) else { panic!("it waits for nothing") };
    made
}

#[test]
fn send_wakes_the_last_waker_once() {
    let (first, second) = (Arc::<Count>::default(), Arc::<Count>::default());
    let (reply, mut answer) = made(&first);
    assert!(poll(&mut answer, &first).is_pending());
    assert!(poll(&mut answer, &second).is_pending());
    reply.send(7);
    assert_eq!((first.taken(), second.taken()), (0, 1));
    assert_eq!(poll(&mut answer, &second), Poll::Ready(Some(7)));
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1), "no waker is kept");
}

#[test]
fn dropped_reply_wakes_caller_with_none() {
    let count = Arc::default();
    let (reply, mut answer) = made::<u32>(&count);
    assert!(poll(&mut answer, &count).is_pending());
    drop(reply);
    assert_eq!(count.taken(), 1);
    assert_eq!(poll(&mut answer, &count), Poll::Ready(None));
}

#[test]
fn send_to_dropped_caller_returns_the_value() {
    let count = Arc::default();
    let (reply, answer) = made(&count);
    assert!(!reply.is_closed());
    drop(answer);
    assert!(reply.is_closed());
    assert_eq!(Arc::strong_count(&count), 1, "the caller's task is let go while the message still waits");
    assert_eq!(reply.try_send("late"), Err("late"));
    assert_eq!(count.taken(), 0);
}

#[test]
fn unread_value_drops_with_caller() {
    let (count, value) = (Arc::default(), Arc::new(()));
    let (reply, answer) = made(&count);
    reply.send(Arc::clone(&value));
    assert_eq!(Arc::strong_count(&value), 2);
    drop(answer);
    assert_eq!(Arc::strong_count(&value), 1);
}

fn poll_closed<T>(reply: &mut Reply<T>, count: &Arc<Count>) -> Poll<()> {
    poll(&mut pin!(reply.closed()), count)
}

#[test]
fn watching_worker_is_woken_once_when_caller_leaves() {
    let (caller, first, second) = (Arc::<Count>::default(), Arc::<Count>::default(), Arc::<Count>::default());
    let (mut reply, mut answer) = made::<u32>(&caller);
    assert!(poll_closed(&mut reply, &first).is_pending());
    assert!(poll_closed(&mut reply, &second).is_pending());
    assert!(poll(&mut answer, &caller).is_pending() && !reply.is_closed());
    drop(answer);
    assert_eq!((first.taken(), second.taken(), caller.taken()), (0, 1, 0));
    assert_eq!((poll_closed(&mut reply, &first), reply.is_closed()), (Poll::Ready(()), true));
    assert_eq!(reply.try_send(1), Err(1));
    assert!([first, second, caller].iter().all(|count| Arc::strong_count(count) == 1), "a waker is kept");
}

#[test]
fn a_reply_that_was_watched_still_answers_or_is_dropped() {
    for answers in [true, false] {
        let (caller, other, worker) = (Arc::<Count>::default(), Arc::<Count>::default(), Arc::<Count>::default());
        let (mut reply, mut answer) = made(&caller);
        assert!(poll(&mut answer, &caller).is_pending());
        assert!(poll_closed(&mut reply, &worker).is_pending());
        // The caller moved to another task.
        assert!(poll(&mut answer, &other).is_pending());
        if answers {
            reply.send(7);
        } else {
            drop(reply);
        }
        assert_eq!((caller.taken(), other.taken(), worker.taken()), (0, 1, 0));
        assert_eq!(poll(&mut answer, &other), Poll::Ready(answers.then_some(7)));
        assert!([caller, other, worker].iter().all(|count| Arc::strong_count(count) == 1), "a waker is kept");
    }
}

#[test]
fn a_call_is_no_larger_for_the_worker_that_may_watch_it() {
    assert_eq!(size_of::<Stage<u8>>(), size_of::<(Waker, usize)>());
}

#[test]
fn earlier_reply_is_found_on_first_poll() {
    let (count, other) = (Arc::default(), Arc::default());
    let (reply, mut answer) = made(&count);
    reply.send(7);
    answer.poll_as_sent();
    assert_eq!(poll(&mut answer, &other), Poll::Ready(Some(7)));
}
