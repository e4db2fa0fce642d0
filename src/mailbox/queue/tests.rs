use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Wake;

use super::*;
use crate::lifecycle::exit::StopMode;
use crate::util::sync::Ordering;

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn waker() -> (Arc<Woken>, Waker) {
    let woken = Arc::<Woken>::default();
    (Arc::clone(&woken), Waker::from(woken))
}

/// An open queue, and the count of its registry.
fn open(capacity: usize) -> (Queue<u32>, AtomicUsize) {
    let (queue, live) = (Queue::new(capacity), AtomicUsize::new(0));
    queue.open(&live);
    (queue, live)
}

fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[test]
fn receiver_parks_only_with_nothing_to_do() {
    let parks = |change: fn(&Queue<u32>, &AtomicUsize)| {
        let (queue, live) = open(4);
        change(&queue, &live);
        let is_parked = queue.park(&Context::from_waker(Waker::noop()));
        assert_eq!(queue.is_idle(), is_parked);
        is_parked
    };
    assert!(parks(|_, _| {}));
    assert!(!parks(|queue, _| _ = queue.force_send(1, MessageKind::Cast)));
    assert!(!parks(|queue, _| queue.end_run_after_accepted()), "the run is over");
    assert!(!parks(|queue, live| _ = queue.close(CloseReason::Stopped, live)));
    assert!(!parks(|queue, live| queue.kill(live)));
}

#[test]
fn ended_task_keeps_no_waker() {
    let (queue, _) = open(4);
    let (woken, waker) = waker();
    queue.watch_for_kill(&waker);
    assert!(queue.park(&Context::from_waker(&waker)));
    assert_eq!(Arc::strong_count(&woken), 4);
    queue.forget_task();
    assert_eq!(Arc::strong_count(&woken), 2, "a handle keeps the memory of the task");
}

#[test]
fn waiting_sender_wakes_the_task_that_polled_last() {
    let (queue, _) = open(1);
    let ((first, first_waker), (last, last_waker)) = (waker(), waker());
    queue.try_send(1, MessageKind::Cast).expect("there is room");
    let mut send = pin!(queue.send(2, MessageKind::Cast));
    assert!(poll(send.as_mut(), &first_waker).is_pending());
    let references = Arc::strong_count(&first);
    assert!(poll(send.as_mut(), &first_waker).is_pending());
    assert_eq!(Arc::strong_count(&first), references, "the same one is not cloned again");
    assert!(poll(send.as_mut(), &last_waker).is_pending());
    assert_eq!(queue.try_recv(), Some(1));
    assert_eq!((first.times(), last.times()), (0, 1));
    assert!(poll(send, &last_waker).is_ready());
}

#[test]
fn close_says_whether_it_woke_senders() {
    for has_senders in [false, true] {
        let (queue, live) = open(1);
        let (woken, waker) = waker();
        queue.try_send(1, MessageKind::Cast).expect("there is room");
        let mut send = pin!(queue.send(2, MessageKind::Cast));
        if has_senders {
            assert!(poll(send.as_mut(), &waker).is_pending());
        }
        let closed = queue.stop(CloseReason::Stopped, StopMode::Drain, &live);
        assert_eq!(closed, TransitionToClosed::Closed { has_woken: has_senders });
        assert_eq!((woken.times(), live.load(Ordering::SeqCst)), (usize::from(has_senders), 0));
        assert_eq!(queue.stop(CloseReason::Stopped, StopMode::Drain, &live), TransitionToClosed::Unchanged);
    }
}

#[test]
fn queue_is_full_with_what_is_reserved() {
    let (queue, live) = open(2);
    assert!(!queue.is_full());
    queue.try_send(1, MessageKind::Cast).expect("there is room");
    queue.try_reserve().expect("there is room");
    assert!(queue.is_full());
    assert_eq!(queue.try_reserve(), Err(Refusal::Full));
    queue.release();
    assert!(!queue.is_full());
    queue.kill(&live);
    assert_eq!(queue.try_reserve(), Err(Refusal::Closed));
}

#[test]
fn nothing_is_received_behind_a_kill_or_the_end_of_a_run() {
    let (queue, live) = open(4);
    queue.end_run_after_accepted();
    queue.try_send(1, MessageKind::Cast).expect("there is room");
    assert_eq!(queue.try_recv(), None, "it is for the next run");
    queue.begin_next_run();
    assert_eq!(queue.try_recv(), Some(1));
    queue.try_send(2, MessageKind::Cast).expect("there is room");
    queue.kill(&live);
    assert_eq!(queue.try_recv(), None);
}
