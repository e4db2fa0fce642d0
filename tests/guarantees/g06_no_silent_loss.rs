//! G6: an accepted message is handled, or its sender learns that it was not.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{CallError, Registry, SendError};

use crate::rig::{Act, Book, Message, Plan, Probe, Random, gate, job, registry, settle, within};

fn registry_with_lost() -> (Registry<Probe>, Arc<Mutex<Vec<u64>>>) {
    let lost = Arc::<Mutex<Vec<u64>>>::default();
    let sink = Arc::clone(&lost);
    let registry = Registry::<Probe>::builder().on_undelivered(move |_: &u32, message| {
        if let Message::Note(number) = message {
            sink.lock().unwrap().push(number);
        }
    });
    (registry.build().unwrap(), lost)
}

#[tokio::test(start_paused = true)]
async fn error_distinguishes_never_begun() {
    for ending in [Act::Panic, Act::Fail, Act::Hang] {
        let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        worker.cast(Message::Do(Act::Wait(Arc::clone(&hold)))).await.unwrap();
        let call = |message: fn(Act, gen_registry::Reply<usize>) -> Message, act: Act| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.call(|reply| message(act, reply)).await })
        };
        let in_hand = call(Message::Slowly, ending.clone());
        settle().await;
        let behind = call(Message::Slowly, Act::Go);
        settle().await;
        hold.add_permits(1);
        settle().await;
        if matches!(ending, Act::Hang) {
            worker.kill().await.unwrap();
        }
        let (in_hand, behind) = within(async { tokio::join!(in_hand, behind) }, "two calls to an exiting worker").await;
        assert!(matches!(in_hand.unwrap(), Err(CallError::NoReply)), "the call was being handled");
        assert!(matches!(behind.unwrap(), Err(CallError::NotDelivered)), "the call never began");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_reply_may_have_run() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    assert!(matches!(worker.call(Message::Forget).await, Err(CallError::NoReply)));
    // The call is dropped before its message is handled, so the message does not count as undelivered.
    let hold = gate();
    worker.cast(Message::Do(Act::Wait(Arc::clone(&hold)))).await.unwrap();
    let early = worker.call(|reply: gen_registry::Reply<()>| {
        drop(reply);
        Message::Note(5)
    });
    assert!(matches!(within(early, "a call whose reply was dropped").await, Err(CallError::NoReply)));
    hold.add_permits(1);
    assert_eq!(worker.call(Message::Ask).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_handles_accepted_messages() {
    let (registry, lost) = registry_with_lost();
    let book = Arc::<Book>::default();
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    for number in 0..64 {
        worker.try_cast(Message::Note(number)).unwrap();
    }
    worker.stop().await.unwrap();
    assert_eq!(book.of(1).handled, (0..64).collect::<Vec<_>>());
    assert!(lost.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn full_mailbox_returns_the_message() {
    let book = Arc::<Book>::default();
    let registry = Registry::<Probe>::builder().mailbox_capacity(2).build().unwrap();
    let (worker, hold) = (registry.start(&1, Plan::new(&book)).await.unwrap(), gate());
    worker.cast(Message::Do(Act::Wait(Arc::clone(&hold)))).await.unwrap();
    settle().await;
    worker.try_cast(Message::Note(1)).unwrap();
    worker.try_cast(Message::Note(2)).unwrap();
    let error = worker.try_cast(Message::Note(3)).unwrap_err();
    assert!(matches!(error, SendError::Full(_)));
    assert!(matches!(error.into_message(), Message::Note(3)));
    // A cast waits for capacity instead.
    let waiting = worker.cast(Message::Note(4));
    let release = async {
        settle().await;
        hold.add_permits(1);
    };
    let (waited, ()) = within(async { tokio::join!(waiting, release) }, "a cast into a full mailbox").await;
    waited.unwrap();
    worker.stop().await.unwrap();
    assert_eq!(book.of(1).handled, [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn exit_returns_messages_of_waiting_senders() {
    let book = Arc::<Book>::default();
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    worker.cast(Message::Do(Act::Hang)).await.unwrap();
    settle().await;
    worker.cast(Message::Note(0)).await.unwrap();
    let waiting: Vec<_> = (1..5)
        .map(|number| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.cast(Message::Note(number)).await })
        })
        .collect();
    settle().await;
    worker.kill().await.unwrap();
    for (sender, number) in waiting.into_iter().zip(1..) {
        let error = within(sender, "the waiting sender").await.unwrap().unwrap_err();
        assert!(matches!(error.into_message(), Message::Note(back) if back == number));
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_sender_passes_its_permit_on() {
    let book = Arc::<Book>::default();
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
    let (worker, hold) = (registry.start(&1, Plan::new(&book)).await.unwrap(), gate());
    worker.cast(Message::Do(Act::Wait(Arc::clone(&hold)))).await.unwrap();
    settle().await;
    worker.cast(Message::Note(0)).await.unwrap();
    let mut waiting: Vec<_> = (1..4)
        .map(|number| {
            let worker = worker.clone();
            let send = async move { worker.cast(Message::Note(number)).await };
            Box::pin(send)
        })
        .collect();
    for sender in &mut waiting {
        let is_pending = std::future::poll_fn(|cx| std::task::Poll::Ready(sender.as_mut().poll(cx).is_pending()));
        assert!(is_pending.await);
    }
    hold.add_permits(1);
    settle().await;
    // The first sender holds a permit when it is dropped. The second one is dropped while it is queued.
    drop(waiting.remove(0));
    drop(waiting.remove(0));
    within(waiting.remove(0), "the sender behind two dropped ones").await.unwrap();
    worker.stop().await.unwrap();
    assert_eq!(book.of(1).handled, [0, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_cast_is_handled_or_undelivered_once() {
    let (registry, lost) = registry_with_lost();
    let book = Arc::<Book>::default();
    let (accepted, next) = (Arc::<Mutex<HashSet<u64>>>::default(), Arc::<AtomicUsize>::default());
    let mut tasks = Vec::new();
    for seed in 0..4 {
        let (registry, book, accepted, next) =
            (registry.clone(), Arc::clone(&book), Arc::clone(&accepted), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(seed + 11);
            for _ in 0..3_000 {
                let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                let worker = match registry.lookup_or_start(&1, Plan::new(&book)).await {
                    Ok(worker) => worker,
                    Err(_) => continue,
                };
                let sent = match random.below(2) {
                    0 => worker.cast(Message::Note(number)).await,
                    _ => worker.try_cast(Message::Note(number)),
                };
                if sent.is_ok() {
                    accepted.lock().unwrap().insert(number);
                }
                match random.below(100) {
                    0 => drop(worker.kill().await),
                    1 => drop(worker.stop().await),
                    2 => drop(worker.try_cast(Message::Do(Act::Panic))),
                    3 => drop(worker.try_cast(Message::Do(Act::Fail))),
                    4 => drop(worker.try_cast(job(|ctx| Box::pin(async { ctx.stop() })))),
                    5..20 => tokio::task::yield_now().await,
                    _ => {}
                }
            }
        }));
    }
    for task in tasks {
        within(task, "a task of the storm").await.unwrap();
    }
    assert_eq!(within(registry.shutdown(), "the shutdown after the storm").await.stuck, 0);
    let mut seen = book.of(1).handled;
    let handled = seen.len();
    seen.extend(lost.lock().unwrap().iter());
    let once: HashSet<u64> = seen.iter().copied().collect();
    assert_eq!(once.len(), seen.len(), "a message was seen twice");
    assert_eq!(once, *accepted.lock().unwrap());
    assert!(handled < seen.len(), "nothing was ever undelivered: the test shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_and_undelivered_never_ran() {
    let registry = registry();
    let book = Arc::<Book>::default();
    let ran = Arc::<Mutex<HashSet<u64>>>::default();
    let mut tasks = Vec::new();
    for seed in 0..4_u64 {
        let (registry, book, ran) = (registry.clone(), Arc::clone(&book), Arc::clone(&ran));
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(seed + 21);
            let mut never = Vec::new();
            for step in 0..1_500_u64 {
                let number = seed * 1_000_000 + step;
                let via = registry.via_or_start(&1, Plan::new(&book));
                let inner = Arc::clone(&ran);
                let call = via.call(move |reply: gen_registry::Reply<()>| {
                    job(move |_| {
                        inner.lock().unwrap().insert(number);
                        Box::pin(async move {
                            tokio::task::yield_now().await;
                            reply.send(());
                        })
                    })
                });
                match within(call, "the result of a call").await {
                    Ok(()) => assert!(ran.lock().unwrap().contains(&number)),
                    Err(error) if error.may_have_run() => {}
                    Err(CallError::NotDelivered | CallError::NotStarted(_)) => never.push(number),
                    Err(other) => panic!("{other:?}"),
                }
                match random.below(20) {
                    0 => drop(registry.kill(&1).await),
                    1 => drop(registry.stop(&1).await),
                    2 => drop(via.cast(Message::Do(Act::Panic)).await),
                    _ => {}
                }
            }
            never
        }));
    }
    for task in tasks {
        for number in within(task, "a task of the storm").await.unwrap() {
            assert!(!ran.lock().unwrap().contains(&number), "a call reported as never begun has run");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn call_timeout_ends_the_wait() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    let slow = worker.call_timeout(Duration::from_secs(1), |reply| Message::Slowly(Act::Hang, reply));
    assert!(matches!(within(slow, "a call with a timeout").await, Err(CallError::TimedOut)));
}
