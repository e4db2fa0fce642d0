//! Models of the mailbox that loom runs through every order of its threads' steps:
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release queue`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::thread;

use super::*;

/// A queue and the count it keeps.
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
        self.queue.try_send(Envelope { message, is_call: false }).is_ok()
    }

    async fn recv(&self) -> Option<u32> {
        poll_fn(|cx| self.queue.poll_recv(cx)).await
    }
}

#[test]
fn g6_a_send_that_races_a_close_is_received_or_refused() {
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
        assert!(closer.join().unwrap());
        assert_eq!(sender.join().unwrap(), received == 1);
    });
}

#[test]
fn g6_a_drain_takes_what_was_accepted_and_says_so_before_it_is_dropped() {
    loom::model(|| {
        let model = model(2);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.queue.try_send(Envelope { message: 1, is_call: true }).ok()
        });
        let drained = model.queue.drain(&model.live).len();
        let sequence = sender.join().unwrap();
        assert_eq!(sequence.is_some(), drained == 1);
        if let Some(sequence) = sequence {
            assert!(model.queue.never_began(sequence));
        }
    });
}

#[test]
fn a_send_that_waits_for_room_is_woken_by_a_receive_or_by_a_close() {
    for closes in [false, true] {
        loom::model(move || {
            let model = model(1);
            assert!(model.try_send(0));
            let other = thread::spawn({
                let model = Arc::clone(&model);
                move || {
                    if closes {
                        model.queue.close(CloseReason::Stopped, &model.live);
                    } else {
                        assert_eq!(block_on(model.recv()), Some(0));
                    }
                }
            });
            let sent = block_on(model.queue.send(Envelope { message: 1, is_call: false }));
            other.join().unwrap();
            assert_eq!(sent.is_err(), closes);
        });
    }
}

#[test]
fn a_waiting_sender_that_goes_away_passes_its_room_on() {
    loom::model(|| {
        let model = model(1);
        assert!(model.try_send(0));
        let mut leaver = Box::pin(model.queue.send(Envelope { message: 1, is_call: false }));
        assert!(leaver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let receiver = thread::spawn({
            let model = Arc::clone(&model);
            move || block_on(model.recv())
        });
        let stayer = thread::spawn({
            let model = Arc::clone(&model);
            move || block_on(model.queue.send(Envelope { message: 2, is_call: false })).is_ok()
        });
        drop(leaver);
        assert_eq!(receiver.join().unwrap(), Some(0));
        assert!(stayer.join().unwrap(), "its room went away with another");
    });
}

#[test]
fn a_kill_wakes_the_task_that_watches_and_nothing_begins_after_it() {
    loom::model(|| {
        let model = model(1);
        assert!(model.try_send(1));
        let killer = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.queue.kill(&model.live);
                let mut cx = Context::from_waker(Waker::noop());
                assert_eq!(model.queue.poll_recv(&mut cx), Poll::Pending, "a message began after the kill");
            }
        });
        // What `contain` does: watch, then look.
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
fn g9_a_closed_worker_is_never_counted() {
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
        closer.join().unwrap();
        assert_eq!(model.live.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_receive_that_races_a_send_misses_no_wake() {
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
