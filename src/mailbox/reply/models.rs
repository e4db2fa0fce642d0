use loom::future::block_on;
use loom::thread;

use super::*;

/// Awaits it by one poll more than it takes, at any moment.
async fn restless(mut answer: Answer<u32>, polls: usize) -> Option<u32> {
    let mut polls = polls;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(answer);
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
                let (reply, mut waiting) = call().await;
                if polls == 2 {
                    waiting.poll_as_sent();
                }
                let worker = thread::spawn(move || answer(reply));
                // If its wake-up is lost it waits for ever, which loom reports.
                let got = restless(waiting, polls).await;
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

/// Watches the call, `polls` times in vain, and then gives the reply back.
async fn watched(mut reply: Reply<u32>, polls: usize) -> Reply<u32> {
    let mut polls = polls;
    poll_fn(|cx| {
        let To::Call(call) = &mut reply.to else { unreachable!("it is a call") };
        while polls > 0 {
            polls -= 1;
            if call.poll_closed(cx).is_ready() {
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
        let (reply, answer) = block_on(call::<u32>());
        let worker = thread::spawn(move || {
            let mut reply = reply;
            // If its wake-up is lost it waits for ever, which loom reports.
            block_on(reply.closed());
            assert!(reply.is_closed());
            assert_eq!(reply.try_send(7), Err(7));
        });
        drop(answer);
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
                let (reply, answer) = call().await;
                let worker = thread::spawn(move || drop(reply.try_send(value)));
                drop(answer);
                worker.join().unwrap();
            }
        });
        assert_eq!(Arc::strong_count(&value), 1, "it is dropped, or given back");
    });
}
