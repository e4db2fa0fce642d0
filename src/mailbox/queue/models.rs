//! Models of the queue and its gate that loom runs through every interleaving:
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release queue`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::thread;

use super::*;
use crate::lifecycle::exit::StopMode;
use crate::util::sync::Ordering;

/// A queue with the count of open gates.
struct Model {
    queue: Queue<u32>,
    live: AtomicUsize,
}

fn model(capacity: usize) -> Arc<Model> {
    let model = Arc::new(Model { queue: Queue::new(capacity), live: AtomicUsize::new(0) });
    model.queue.open(&model.live);
    model
}

impl Model {
    fn try_send(&self, message: u32) -> bool {
        self.queue.try_send(message, MessageKind::Cast).is_ok()
    }

    async fn recv(&self) -> Option<u32> {
        poll_fn(|cx| self.queue.poll_recv(cx)).await
    }
}

#[test]
fn g6_send_racing_close_is_received_or_refused() {
    loom::model(|| {
        let model = model(2);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.try_send(1)
        });
        let closer = thread::spawn({
            let model = Arc::clone(&model);
            move || model.queue.close(CloseReason::Stopped, &model.live)
        });
        let received = block_on(async {
            let mut received = 0;
            while model.recv().await.is_some() {
                received += 1;
            }
            received
        });
        assert!(matches!(closer.join().unwrap(), TransitionToClosed::Closed { .. }));
        assert_eq!(sender.join().unwrap(), received == 1);
    });
}

#[test]
fn g6_drained_messages_are_marked_undelivered() {
    loom::model(|| {
        let model = model(2);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.queue.try_send(1, MessageKind::Call).ok()
        });
        let drained = model.queue.drain(&model.live).len();
        let sequence = sender.join().unwrap();
        assert_eq!(sequence.is_some(), drained == 1);
        if let Some(sequence) = sequence {
            assert!(model.queue.was_dropped_unhandled(sequence));
        }
    });
}

#[test]
fn recv_or_close_wakes_waiting_sender() {
    for closes in [false, true] {
        loom::model(move || {
            let model = model(1);
            assert!(model.try_send(0));
            let other = thread::spawn({
                let model = Arc::clone(&model);
                move || {
                    if closes {
                        let _ = model.queue.close(CloseReason::Stopped, &model.live);
                    } else {
                        assert_eq!(block_on(model.recv()), Some(0));
                    }
                }
            });
            let sent = block_on(model.queue.send(1, MessageKind::Cast));
            other.join().unwrap();
            assert_eq!(sent.is_err(), closes);
        });
    }
}

#[test]
fn dropped_sender_passes_its_permit_on() {
    loom::model(|| {
        let model = model(1);
        assert!(model.try_send(0));
        let mut leaver = Box::pin(model.queue.send(1, MessageKind::Cast));
        assert!(leaver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let receiver = thread::spawn({
            let model = Arc::clone(&model);
            move || block_on(model.recv())
        });
        let stayer = thread::spawn({
            let model = Arc::clone(&model);
            move || block_on(model.queue.send(2, MessageKind::Cast)).is_ok()
        });
        drop(leaver);
        assert_eq!(receiver.join().unwrap(), Some(0));
        assert!(stayer.join().unwrap(), "the capacity was lost with the dropped sender");
    });
}

/// The holder of the only permit sends or releases it, while another sender waits.
#[test]
fn permit_is_used_once_or_passed_to_next_sender() {
    for sends in [true, false] {
        loom::model(move || {
            let model = model(1);
            assert!(block_on(model.queue.reserve()));
            assert!(!model.try_send(0), "the capacity is reserved");
            let waits = thread::spawn({
                let model = Arc::clone(&model);
                move || block_on(model.queue.send(2, MessageKind::Cast)).is_ok()
            });
            if sends {
                assert!(model.queue.send_reserved(1, MessageKind::Cast).is_ok());
                assert_eq!(block_on(model.recv()), Some(1), "the sender overtook the permit");
            } else {
                model.queue.release();
            }
            assert_eq!(block_on(model.recv()), Some(2), "the capacity was lost with the permit");
            assert!(waits.join().unwrap());
            assert!(model.try_send(3), "capacity stays reserved without a holder");
        });
    }
}

#[test]
fn dropped_reserve_passes_its_permit_on() {
    for stays in [true, false] {
        loom::model(move || {
            let model = model(1);
            assert!(model.try_send(0));
            let mut reserving = Box::pin(model.queue.reserve());
            assert!(reserving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let receiver = thread::spawn({
                let model = Arc::clone(&model);
                move || block_on(model.recv())
            });
            let sender = thread::spawn({
                let model = Arc::clone(&model);
                move || block_on(model.queue.send(2, MessageKind::Cast)).is_ok()
            });
            if stays {
                assert!(block_on(reserving.as_mut()));
                model.queue.release();
            }
            drop(reserving);
            assert_eq!(receiver.join().unwrap(), Some(0));
            assert!(sender.join().unwrap(), "the capacity was lost with the dropped future");
        });
    }
}

#[test]
fn g6_permit_racing_a_close_is_used_or_refused() {
    for sends in [true, false] {
        loom::model(move || {
            let model = model(2);
            assert!(block_on(model.queue.reserve()));
            let closer = thread::spawn({
                let model = Arc::clone(&model);
                move || {
                    let _ = model.queue.close(CloseReason::Stopped, &model.live);
                    model.queue.drain(&model.live).len()
                }
            });
            let sent = if sends {
                model.queue.send_reserved(1, MessageKind::Call).ok()
            } else {
                model.queue.release();
                None
            };
            assert_eq!(closer.join().unwrap(), usize::from(sent.is_some()));
            if let Some(sequence) = sent {
                assert!(model.queue.was_dropped_unhandled(sequence));
            }
        });
    }
}

#[test]
fn kill_wakes_the_watcher_and_stops_delivery() {
    loom::model(|| {
        let model = model(1);
        assert!(model.try_send(1));
        let killer = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.queue.kill(&model.live);
                let mut cx = Context::from_waker(Waker::noop());
                let received = model.queue.poll_recv(&mut cx);
                assert_eq!(received, Poll::Pending, "a message was delivered after the kill");
            }
        });
        // What the worker's task does: watch, then read the gate.
        let mut is_watched = false;
        block_on(poll_fn(|cx| {
            if !is_watched {
                model.queue.watch_for_kill(cx.waker());
                is_watched = true;
            }
            if model.queue.gate() == Gate::Killed { Poll::Ready(()) } else { Poll::Pending }
        }));
        killer.join().unwrap();
    });
}

#[test]
fn g9_closed_worker_is_never_counted() {
    loom::model(|| {
        let model = Arc::new(Model { queue: Queue::new(1), live: AtomicUsize::new(0) });
        let opener = thread::spawn({
            let model = Arc::clone(&model);
            move || model.queue.open(&model.live)
        });
        let closer = thread::spawn({
            let model = Arc::clone(&model);
            move || model.queue.close(CloseReason::Normal, &model.live)
        });
        if model.queue.gate() == Gate::Closed {
            assert_eq!(model.live.load(Ordering::Relaxed), 0);
        }
        opener.join().unwrap();
        let _ = closer.join().unwrap();
        assert_eq!(model.live.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn recv_racing_send_misses_no_wake() {
    loom::model(|| {
        let model = model(2);
        let senders: Vec<_> = (0..2)
            .map(|message| {
                let model = Arc::clone(&model);
                thread::spawn(move || assert!(model.try_send(message)))
            })
            .collect();
        block_on(async {
            assert!(model.recv().await.is_some());
            assert!(model.recv().await.is_some());
        });
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn g6_killed_queue_delivers_or_drops_each_message() {
    loom::model(|| {
        let model = model(4);
        for message in [1, 2, 3] {
            assert!(model.try_send(message));
        }
        let receiver = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let mut received = 0;
                let mut cx = Context::from_waker(Waker::noop());
                while let Poll::Ready(Some(message)) = model.queue.poll_recv(&mut cx) {
                    received += 1;
                    assert_eq!(message, received, "out of order");
                }
                u64::from(received)
            }
        });
        model.queue.kill(&model.live);
        let undelivered: Vec<_> = (1..=3).map(|sequence| model.queue.was_dropped_unhandled(sequence)).collect();
        let received = receiver.join().unwrap();
        for (sequence, undelivered) in (1..=3).zip(undelivered) {
            assert_eq!(undelivered, received < sequence, "{sequence} of {received}");
        }
        assert_eq!(model.queue.drain(&model.live).len() as u64, 3 - received);
    });
}

#[test]
fn delivery_frees_capacity_for_waiting_sender() {
    loom::model(|| {
        let model = model(2);
        assert!(model.try_send(1) && model.try_send(2));
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || block_on(model.queue.send(3, MessageKind::Cast)).is_ok()
        });
        block_on(async {
            for message in 1..=3 {
                assert_eq!(model.recv().await, Some(message));
            }
        });
        assert!(sender.join().unwrap());
    });
}

#[test]
fn g8_ended_run_leaves_its_messages_to_the_next() {
    loom::model(|| {
        let model = model(4);
        for message in [1, 2, 3] {
            assert!(model.try_send(message));
        }
        let ender = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.queue.end_run_after_accepted();
                model.try_send(4)
            }
        });
        let mut next = 1;
        let mut run = || {
            block_on(async {
                while let Some(message) = model.recv().await {
                    assert_eq!(message, next, "out of order");
                    next += 1;
                    if message == 2 {
                        // This run ends with an error.
                        return;
                    }
                }
            });
        };
        run();
        run();
        assert!(ender.join().unwrap());
        model.queue.begin_next_run();
        let _ = model.queue.close(CloseReason::Stopped, &model.live);
        run();
        assert_eq!(next, 5);
    });
}

/// Rule 1.
#[test]
fn gate_only_moves_forward() {
    loom::model(|| {
        let model = Arc::new(Model { queue: Queue::new(1), live: AtomicUsize::new(0) });
        let killer = thread::spawn({
            let model = Arc::clone(&model);
            move || model.queue.kill(&model.live)
        });
        let opener = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.queue.open(&model.live);
                let _ = model.queue.close(CloseReason::Normal, &model.live);
            }
        });
        let gates = [(); 3].map(|()| model.queue.gate());
        assert!(gates.is_sorted(), "{gates:?}");
        killer.join().unwrap();
        opener.join().unwrap();
        assert_eq!(model.queue.gate(), Gate::Killed);
    });
}

/// Rule 6: a stop that discards leaves what is queued to the drain.
#[test]
fn g6_discarding_stop_leaves_its_messages_to_the_drain() {
    loom::model(|| {
        let model = model(4);
        assert!(model.try_send(1) && model.try_send(2));
        let has_stopped = Arc::new(AtomicUsize::new(0));
        let stopper = thread::spawn({
            let (model, has_stopped) = (Arc::clone(&model), Arc::clone(&has_stopped));
            move || {
                let _ = model.queue.stop(CloseReason::Stopped, StopMode::Discard, &model.live);
                has_stopped.store(1, Ordering::Release);
                model.try_send(3)
            }
        });
        let mut received = 0;
        loop {
            let had_stopped = has_stopped.load(Ordering::Acquire) == 1;
            if block_on(model.recv()).is_none() {
                break;
            }
            assert!(!had_stopped, "a message was delivered after the stop");
            received += 1;
        }
        assert!(!stopper.join().unwrap(), "a message was accepted after the close");
        assert_eq!(model.queue.drain(&model.live).len(), 2 - received);
    });
}

/// The proof of G7.
#[test]
fn g7_idle_close_racing_a_send_loses_no_message() {
    loom::model(|| {
        let model = model(1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(model.queue.poll_recv(&mut cx).is_pending(), "the receiver waits");
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.try_send(1)
        });
        let transition = model.queue.close_if_idle(CloseReason::Idle, &model.live);
        let closed = matches!(transition, TransitionToClosed::Closed { .. });
        assert!(sender.join().unwrap() != closed, "the message is lost, or the idle worker stays");
        assert_eq!(model.queue.try_recv(), (!closed).then_some(1));
    });
}

/// A waker that uses its queue when it is dropped, as the last reference to a task of another executor may.
struct UsesQueue(Arc<Model>);

impl std::task::Wake for UsesQueue {
    fn wake(self: Arc<Self>) {}
}

impl Drop for UsesQueue {
    fn drop(&mut self) {
        let _ = self.0.try_send(9);
    }
}

/// Rule 7: a lock that is taken twice is a deadlock, which loom reports.
#[test]
fn dropped_waker_may_use_its_queue() {
    loom::model(|| {
        let model = model(1);
        assert!(model.try_send(0));
        let waker = || Waker::from(Arc::new(UsesQueue(Arc::clone(&model))));
        let mut sending = Box::pin(model.queue.send(1, MessageKind::Cast));
        assert!(sending.as_mut().poll(&mut Context::from_waker(&waker())).is_pending());
        let receiver = thread::spawn({
            let model = Arc::clone(&model);
            move || block_on(model.recv())
        });
        // The second waker replaces the first, unless capacity was reserved for the sender.
        let polled = sending.as_mut().poll(&mut Context::from_waker(&waker()));
        drop(sending);
        assert_eq!(receiver.join().unwrap(), Some(0));
        while model.queue.try_recv().is_some() {}
        let parked = model.queue.poll_recv(&mut Context::from_waker(&waker()));
        assert!(parked.is_pending(), "{polled:?}");
        // This one replaces the waker of the receiver.
        assert!(model.queue.park(&Context::from_waker(Waker::noop())));
        assert_eq!(model.queue.try_recv(), Some(9));
    });
}
