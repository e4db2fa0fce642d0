//! G8: if one sender's first send returns before its second begins, the first message is handled first.

use std::sync::Arc;

use gen_registry::Registry;

use crate::rig::{Act, Book, Message, Plan, Probe, Random, gate, settle, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_senders_messages_keep_their_order() {
    for capacity in [1, 2, 64] {
        let book = Arc::<Book>::default();
        let registry: Registry<Probe> = Registry::builder().mailbox_capacity(capacity).build().unwrap();
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        let senders: Vec<_> = (0..4_u64)
            .map(|sender| {
                let worker = worker.clone();
                tokio::spawn(async move {
                    let mut random = Random::new(sender + 1);
                    for number in 0..2_000 {
                        let message = |number| Message::Note(sender * 1_000_000 + number);
                        if random.below(3) == 0 {
                            while worker.try_cast(message(number)).is_err() {
                                tokio::task::yield_now().await;
                            }
                        } else {
                            worker.cast(message(number)).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for sender in senders {
            within(sender, "a sender").await.unwrap();
        }
        worker.stop().await.unwrap();
        let handled = book.of(1).handled;
        assert_eq!(handled.len(), 8_000);
        for sender in 0..4 {
            let own: Vec<_> = handled.iter().filter(|&&number| number / 1_000_000 == sender).collect();
            assert!(own.is_sorted(), "the messages of sender {sender} were handled out of order");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_senders_are_served_in_fifo_order() {
    let book = Arc::<Book>::default();
    let registry: Registry<Probe> = Registry::builder().mailbox_capacity(1).build().unwrap();
    let (worker, hold) = (registry.start(&1, Plan::new(&book)).await.unwrap(), gate());
    worker.cast(Message::Do(Act::Wait(Arc::clone(&hold)))).await.unwrap();
    settle().await;
    let mut senders = Vec::new();
    for number in 0..20 {
        let worker = worker.clone();
        senders.push(tokio::spawn(async move { worker.cast(Message::Note(number)).await.is_ok() }));
        settle().await;
    }
    hold.add_permits(1);
    for sender in senders {
        assert!(within(sender, "the waiting sender").await.unwrap());
    }
    worker.stop().await.unwrap();
    assert_eq!(book.of(1).handled, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_keeps_order_across_stops() {
    let book = Arc::<Book>::default();
    let registry: Registry<Probe> = Registry::builder().mailbox_capacity(4).build().unwrap();
    let stopper = tokio::spawn({
        let registry = registry.clone();
        async move {
            for _ in 0..200 {
                drop(registry.stop(&1).await);
                tokio::task::yield_now().await;
            }
        }
    });
    let via = registry.via_or_start(&1, Plan::new(&book));
    for number in 0..5_000 {
        within(via.cast(Message::Note(number)), "a send by key").await.unwrap();
    }
    within(stopper, "the stops").await.unwrap();
    drop(registry.stop(&1).await);
    assert_eq!(book.of(1).handled, (0..5_000).collect::<Vec<_>>(), "lost, doubled or out of order");
}

#[tokio::test(start_paused = true)]
async fn address_send_survives_repeated_stops() {
    let (book, registry, hold): (_, Registry<Probe>, _) = (Arc::<Book>::default(), Registry::new(), gate());
    let via = registry.via_or_start(&1, Plan::new(&book).init(Act::Wait(Arc::clone(&hold))));
    let send = tokio::spawn(async move { via.cast(Message::Note(7)).await });
    for _ in 0..100 {
        settle().await;
        // The stop cancels the start, and the send requests the next one.
        assert!(within(registry.stop(&1), "the stop of a start").await.is_ok());
    }
    hold.add_permits(1);
    within(send, "a send by key").await.unwrap().unwrap();
    within(registry.stop(&1), "the last stop").await.unwrap();
    assert_eq!(book.of(1).handled, [7]);
}
