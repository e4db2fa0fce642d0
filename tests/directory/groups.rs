//! `Groups`: many workers per group.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use gen_registry::{Groups, JoinError, Registry, Reply, SendError, WorkerHandle, spawn};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Job, Plan, Probe, Step, job, poll_once, populated, run_in, until_idle,
    within,
};

use crate::{ENDINGS, end};

/// Workers `0`, `1`, `2` and so on, the oldest first.
async fn probes(registry: &Registry<Probe>, count: u32) -> Vec<WorkerHandle<Probe>> {
    let mut workers = Vec::new();
    for n in 0..count {
        let key = n.to_string();
        let start = registry.start(&key, Plan::value(n));
        workers.push(within(start, "a start").await.expect("the start succeeds"));
    }
    workers
}

async fn notes(worker: &WorkerHandle<Probe>) -> Vec<u32> {
    within(worker.call(Ask::Notes), "the notes").await.expect("the worker is running")
}

/// Holds a worker at a gate with a full mailbox of one message.
async fn fill(worker: &WorkerHandle<Probe>, gate: &Gate) {
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    worker.cast(Ask::Note(0)).await.unwrap();
}

fn narrow() -> Registry<Probe> {
    Registry::builder().mailbox_capacity(1).build().expect("the options are in range")
}

#[tokio::test(start_paused = true)]
async fn membership_is_many_to_many() {
    let (registry, groups) = (Registry::new(), Groups::<String, Probe>::new());
    let workers = probes(&registry, 4).await;
    assert!(groups.members("even").is_empty());
    for (n, worker) in workers.iter().enumerate().rev() {
        groups.join("all".into(), worker).unwrap();
        groups.join(if n % 2 == 0 { "even".into() } else { "odd".into() }, worker).unwrap();
    }
    assert_eq!(groups.clone().members("all"), workers, "the oldest first");
    assert_eq!(groups.members("even"), [workers[0].clone(), workers[2].clone()]);
    assert_eq!(groups.groups_of(&workers[1]), ["all", "odd"]);
    assert_eq!(groups.len(), 3);
    let sizes = groups.reduce(Vec::new(), |mut sizes, property, members| {
        sizes.push((property.clone(), members.len()));
        sizes
    });
    assert_eq!(sizes.len(), 3);
    assert!(sizes.contains(&("all".into(), 4)) && sizes.contains(&("odd".into(), 2)));
}

#[tokio::test(start_paused = true)]
async fn joining_twice_is_idempotent() {
    let (registry, groups) = (Registry::new(), Groups::<u32, Probe>::new());
    let workers = probes(&registry, 2).await;
    for _ in 0..3 {
        groups.join(1, &workers[0]).unwrap();
    }
    groups.join(1, &workers[1]).unwrap();
    assert_eq!(groups.members(&1), workers);
    assert_eq!(groups.try_broadcast(&1, |_| Ask::Note(1)).taken, 2);
    assert_eq!(notes(&workers[0]).await, [1]);
    assert!(groups.leave(&1, &workers[0]));
    assert!(!groups.leave(&1, &workers[0]));
    assert_eq!(groups.members(&1), [workers[1].clone()]);
}

#[tokio::test(start_paused = true)]
async fn group_exists_while_it_has_members() {
    let (registry, groups, property) = (Registry::new(), Groups::<u32, Probe>::new(), 7);
    let workers = probes(&registry, 2).await;
    assert!(!groups.leave(&property, &workers[0]));
    for _ in 0..3 {
        groups.join(property, &workers[0]).unwrap();
        groups.join(property, &workers[1]).unwrap();
        assert!(groups.leave(&property, &workers[0]));
        assert!(!groups.is_empty());
        assert!(groups.leave(&property, &workers[1]));
        assert!(groups.is_empty());
        assert!(groups.members(&property).is_empty() && groups.groups_of(&workers[1]).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn closing_worker_cannot_join() {
    let (groups, gate) = (Groups::<u32, Probe>::new(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone()));
    let worker = within(spawn::<Probe>("a".into(), plan), "the start").await.unwrap();
    groups.join(1, &worker).unwrap();
    worker.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    let JoinError::Closed(property) = groups.join(2, &worker).unwrap_err() else { panic!("another error") };
    assert_eq!(property.into_inner(), 2);
    assert!(groups.members(&1).is_empty() && groups.groups_of(&worker).is_empty() && groups.is_empty());
    assert_eq!(groups.reduce(0, |seen, _, _| seen + 1), 0);
    assert!(!groups.leave(&1, &worker), "the worker has left already");
    gate.open();
    within(worker.closed(), "the end").await;
    assert_eq!(groups.join(1, &worker).unwrap_err().into_property(), 1);
    assert!(groups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn any_exit_leaves_all_groups() {
    for ending in ENDINGS {
        let (groups, registry) = (Groups::<u32, Probe>::new(), populated(&["a"]).await);
        let worker = registry.lookup("a").unwrap();
        let other = within(spawn::<Probe>("b".into(), Plan::default()), "the other").await.unwrap();
        for property in 0..10 {
            groups.join(property, &worker).unwrap();
        }
        groups.join(3, &other).unwrap();
        end(ending, registry, &worker).await;
        assert_eq!((groups.len(), groups.members(&3)), (1, vec![other.clone()]), "{ending}");
        assert!(groups.leave(&3, &other));
    }
}

#[tokio::test(start_paused = true)]
async fn join_in_init_counts_once_init_returns() {
    let (registry, groups, gate) = (Registry::<ClosureWorker>::new(), Groups::<u32, ClosureWorker>::new(), Gate::new());
    let (inner, joined) = (gate.clone(), groups.clone());
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            joined.join(1, ctx.handle()).unwrap();
            inner.pass().await;
        })
    });
    let mut start = pin!(registry.start("a", args));
    assert!(poll_once(start.as_mut()).await.is_pending());
    gate.reached().await;
    assert!(groups.members(&1).is_empty() && groups.is_empty());
    gate.open();
    let worker = within(start, "the start").await.unwrap();
    assert_eq!(groups.members(&1), [worker]);
    let joined = groups.clone();
    let args = ClosureArgs::init(move |ctx| Box::pin(async move { joined.join(2, ctx.handle()).unwrap() }));
    assert!(within(registry.start("b", ClosureArgs { fail_init: true, ..args }), "the failure").await.is_err());
    until_idle().await;
    assert!(groups.members(&2).is_empty());
}

#[tokio::test(start_paused = true)]
async fn broadcast_builds_one_message_per_member() {
    let (registry, groups) = (Registry::new(), Groups::<u32, Probe>::new());
    let workers = probes(&registry, 5).await;
    let sent = groups.broadcast(&1, |_| unreachable!("the group is empty")).await;
    assert_eq!((sent.taken, sent.refused.len()), (0, 0));
    for worker in &workers[..4] {
        groups.join(1, worker).unwrap();
    }
    let sent = groups.broadcast(&1, |member| Ask::Note(member.key().parse().unwrap())).await;
    assert_eq!((sent.taken, sent.refused.len()), (4, 0));
    for (n, worker) in (0..).zip(&workers[..4]) {
        assert_eq!(notes(worker).await, [n]);
    }
    assert!(notes(&workers[4]).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn g8_broadcasts_of_one_sender_keep_order() {
    let (registry, groups) = (narrow(), Groups::<u32, Probe>::new());
    let workers = probes(&registry, 5).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
    }
    for note in 0..50 {
        let sent = within(groups.broadcast(&1, |_| Ask::Note(note)), "a broadcast").await;
        assert_eq!((sent.taken, sent.refused.len()), (5, 0));
    }
    for worker in &workers {
        assert_eq!(notes(worker).await, (0..50).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn stuck_member_delays_only_the_return() {
    let (registry, groups, stuck, slow) = (narrow(), Groups::<u32, Probe>::new(), Gate::new(), Gate::new());
    let workers = probes(&registry, 3).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
    }
    fill(&workers[0], &stuck).await;
    fill(&workers[1], &slow).await;
    let mut sent = pin!(groups.broadcast(&1, |_| Ask::Note(1)));
    assert!(poll_once(sent.as_mut()).await.is_pending());
    assert_eq!(notes(&workers[2]).await, [1], "the mailbox had capacity");
    slow.open();
    until_idle().await;
    assert!(poll_once(sent.as_mut()).await.is_pending());
    assert_eq!(notes(&workers[1]).await, [0, 1], "the slow members do not delay it");
    stuck.open();
    let sent = within(sent, "the broadcast").await;
    assert_eq!((sent.taken, sent.refused.len()), (3, 0));
    assert_eq!(notes(&workers[0]).await, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn broadcast_reaches_many_full_members() {
    let (registry, groups, gate) = (narrow(), Groups::<u32, Probe>::new(), Gate::new());
    let workers = probes(&registry, 500).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
        fill(worker, &gate).await;
    }
    let mut sent = pin!(groups.broadcast(&1, |_| Ask::Note(1)));
    assert!(poll_once(sent.as_mut()).await.is_pending());
    gate.open();
    let sent = within(sent, "the broadcast").await;
    assert_eq!((sent.taken, sent.refused.len()), (500, 0));
    for worker in &workers {
        assert_eq!(notes(worker).await, [0, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn exited_member_is_reported_with_message() {
    let (registry, groups, gate) = (narrow(), Groups::<u32, Probe>::new(), Gate::new());
    let workers = probes(&registry, 3).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
        fill(worker, &gate).await;
    }
    let mut sent = pin!(groups.broadcast(&1, |member| Ask::Note(member.key().parse().unwrap())));
    assert!(poll_once(sent.as_mut()).await.is_pending());
    within(workers[1].kill(), "the kill").await.unwrap();
    gate.open();
    let mut sent = within(sent, "the broadcast").await;
    assert_eq!((sent.taken, sent.refused.len()), (2, 1));
    let (member, error) = sent.refused.remove(0);
    assert_eq!(member, workers[1]);
    assert!(matches!(&error, SendError::Closed(_)));
    assert!(matches!(error.into_message(), Ask::Note(1)));
}

#[tokio::test(start_paused = true)]
async fn try_broadcast_reports_full_members() {
    let (registry, groups, gate) = (narrow(), Groups::<u32, Probe>::new(), Gate::new());
    let workers = probes(&registry, 3).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
    }
    fill(&workers[1], &gate).await;
    let sent = groups.try_broadcast(&1, |member| Ask::Note(member.key().parse::<u32>().unwrap() + 1));
    assert_eq!(sent.taken, 2);
    let mut refused = sent.refused.into_iter();
    match (refused.next(), refused.next()) {
        (Some((member, SendError::Full(message))), None) => {
            assert_eq!(member, workers[1]);
            assert!(matches!(message.into_inner(), Ask::Note(2)));
        }
        other => panic!("{other:?}"),
    }
    gate.open();
    assert_eq!((notes(&workers[0]).await, notes(&workers[1]).await), (vec![1], vec![0]));
}

#[tokio::test(start_paused = true)]
async fn dropped_broadcast_reaches_only_ready_members() {
    let (registry, groups, gate) = (narrow(), Groups::<u32, Probe>::new(), Gate::new());
    let workers = probes(&registry, 3).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
    }
    fill(&workers[1], &gate).await;
    {
        let mut sent = pin!(groups.broadcast(&1, |_| Ask::Note(1)));
        assert!(poll_once(sent.as_mut()).await.is_pending());
    }
    gate.open();
    until_idle().await;
    assert_eq!(notes(&workers[0]).await, [1]);
    assert_eq!(notes(&workers[1]).await, [0]);
    assert_eq!(notes(&workers[2]).await, [1]);
    // The dropped broadcast holds no place in the queues of senders.
    assert_eq!(within(groups.broadcast(&1, |_| Ask::Note(2)), "the next broadcast").await.taken, 3);
    assert_eq!(notes(&workers[1]).await, [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn full_member_broadcasting_does_not_deadlock() {
    let registry = Registry::<ClosureWorker>::builder().mailbox_capacity(1).build().unwrap();
    let groups = Groups::<u32, ClosureWorker>::new();
    let a = within(registry.start("a", ClosureArgs::default()), "the start").await.unwrap();
    let b = within(registry.start("b", ClosureArgs::default()), "the start").await.unwrap();
    groups.join(1, &a).unwrap();
    groups.join(1, &b).unwrap();
    let inner = groups.clone();
    let result = run_in(&a, move |ctx| {
        Box::pin(async move {
            let nothing = |_: &WorkerHandle<ClosureWorker>| -> Job { job(|_| Box::pin(async {})) };
            ctx.handle().try_cast(nothing(ctx.handle())).unwrap();
            let mut sent = inner.broadcast(&1, nothing).await;
            (
                sent.taken,
                sent.refused.pop().map(|(member, error)| (member, matches!(error, SendError::WouldDeadlock(_)))),
            )
        })
    });
    assert_eq!(result.await.unwrap(), (1, Some((a, true))));
}

#[tokio::test(start_paused = true)]
async fn members_can_be_called_with_bounded_concurrency() {
    let (registry, groups) = (Registry::<ClosureWorker>::new(), Groups::<u32, ClosureWorker>::new());
    for n in 0..40 {
        let worker = within(registry.start(&n.to_string(), ClosureArgs::default()), "a start").await.unwrap();
        groups.join(1, &worker).unwrap();
    }
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let calls = groups.members(&1).into_iter().map(|worker| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        async move {
            let busy = move |reply: Reply<()>| -> Job {
                job(move |_| {
                    Box::pin(async move {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        now.fetch_sub(1, Ordering::SeqCst);
                        reply.send(());
                    })
                })
            };
            worker.call(busy).await
        }
    });
    let answers: Vec<_> = within(stream::iter(calls).buffer_unordered(8).collect(), "the answers").await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 40);
    assert_eq!(most.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn panicking_closure_affects_no_member() {
    let (registry, groups) = (Registry::new(), Groups::<u32, Probe>::new());
    let workers = probes(&registry, 3).await;
    for worker in &workers {
        groups.join(1, worker).unwrap();
    }
    let panicking = AtomicBool::new(false);
    let sends = || {
        groups.try_broadcast(&1, |_| {
            assert!(!panicking.swap(true, Ordering::SeqCst), "the second message");
            Ask::Note(1)
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(sends)).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| groups.reduce((), |(), _, _| panic!("scripted")))).is_err());
    assert_eq!(groups.try_broadcast(&1, |_| Ask::Note(2)).taken, 3);
    assert_eq!((notes(&workers[0]).await, notes(&workers[1]).await), (vec![1, 2], vec![2]));
    assert!(groups.leave(&1, &workers[0]));
}

#[tokio::test(start_paused = true)]
async fn g9_refused_broadcasts_count_as_undelivered() {
    let (registry, groups, gate) = (narrow(), Groups::<&str, Probe>::new(), Gate::new());
    let workers = probes(&registry, 2).await;
    for worker in &workers {
        groups.join("all", worker).unwrap();
        fill(worker, &gate).await;
    }
    let counted = || (registry.stats().undelivered.full, registry.stats().undelivered.closed);
    assert_eq!(groups.try_broadcast("all", |_| Ask::Note(1)).refused.len(), 2);
    assert_eq!(counted(), (2, 0), "two mailboxes are full");
    let given_up = tokio::time::timeout(Duration::from_secs(1), groups.broadcast("all", |_| Ask::Note(2))).await;
    assert!(given_up.is_err());
    assert_eq!(counted(), (4, 0), "the sender has given up");
    let waiting = {
        let groups = groups.clone();
        tokio::spawn(async move { groups.broadcast("all", |_| Ask::Note(3)).await })
    };
    until_idle().await;
    within(workers[0].kill(), "a kill").await.unwrap();
    gate.open();
    let broadcast = within(waiting, "the broadcast").await.unwrap();
    assert_eq!((broadcast.taken, broadcast.refused.len()), (1, 1));
    assert_eq!(counted(), (4, 1), "one member was killed meanwhile");
    assert_eq!(notes(&workers[1]).await, [0, 3]);
}
