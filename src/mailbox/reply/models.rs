//! Models of the oneshot channel that loom runs through every interleaving:
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release reply`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use super::*;

/// Awaits the receiver, and polls it up to `polls` times more than it is woken, at any moment.
async fn poll_spuriously(mut receiver: Receiver<u32>, polls: usize) -> Option<u32> {
    let mut polls = polls;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(received) = Pin::new(&mut receiver).poll(cx) {
                return Poll::Ready(received);
            }
            if polls == 0 {
                return Poll::Pending;
            }
            polls -= 1;
        }
    })
    .await
}

fn model(answer: impl Fn(Reply<u32>) + Copy + Send + Sync + 'static, expected: Option<u32>) {
    for polls in 0..3 {
        loom::model(move || {
            let got = block_on(async move {
                let (reply, mut receiver) = channel().await;
                if polls == 2 {
                    receiver.check_on_next_poll();
                }
                let worker = thread::spawn(move || answer(reply));
                // A lost wake-up is a deadlock, which loom reports.
                let got = poll_spuriously(receiver, polls).await;
                worker.join().unwrap();
                got
            });
            assert_eq!(got, expected);
        });
    }
}

#[test]
fn sent_value_arrives_at_any_poll_order() {
    model(|reply| reply.send(7), Some(7));
}

#[test]
fn drop_is_seen_at_any_poll_order() {
    model(drop, None);
}

/// Polls `closed` up to `polls` times, and returns the reply.
async fn watched(mut reply: Reply<u32>, polls: usize) -> Reply<u32> {
    let mut polls = polls;
    poll_fn(|cx| {
        let Target::Caller(sender) = &mut reply.target else { unreachable!("it is a call") };
        while polls > 0 {
            polls -= 1;
            if sender.poll_closed(cx).is_ready() {
                break;
            }
        }
        Poll::Ready(())
    })
    .await;
    reply
}

#[test]
fn watched_call_still_delivers_its_reply() {
    for watches in 1..3 {
        model(move |reply| block_on(watched(reply, watches)).send(7), Some(7));
        model(move |reply| drop(block_on(watched(reply, watches))), None);
    }
}

#[test]
fn watching_worker_sees_its_caller_leave() {
    loom::model(|| {
        let (reply, receiver) = block_on(channel::<u32>());
        let worker = thread::spawn(move || {
            let mut reply = reply;
            // A lost wake-up is a deadlock, which loom reports.
            block_on(reply.closed());
            assert!(reply.is_closed());
            assert_eq!(reply.try_send(7), Err(7));
        });
        drop(receiver);
        worker.join().unwrap();
    });
}

#[test]
fn caller_dropped_during_send_leaks_nothing() {
    loom::model(|| {
        let value = Arc::new(());
        block_on({
            let value = Arc::clone(&value);
            async move {
                let (reply, receiver) = channel().await;
                let worker = thread::spawn(move || drop(reply.try_send(value)));
                drop(receiver);
                worker.join().unwrap();
            }
        });
        assert_eq!(Arc::strong_count(&value), 1, "the value is neither dropped nor returned");
    });
}
