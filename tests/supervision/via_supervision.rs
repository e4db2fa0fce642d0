//! A send by key survives a restart, a passivation, an eviction, and a stop followed by a start: an accepted message is
//! handled once, or its caller learns that it was not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{CallError, Context, Eviction, ExitReason, Registry, Reply, Restart, SendError, StartError, Worker};
use test_support::{Ask, Gate, Plan, Probe, Record, Step, assert_at_rest, poll_once, until_idle, within};
use tokio::time::sleep;

const KEY: &str = "k";

#[tokio::test(start_paused = true)]
async fn sends_keep_their_order_across_restart() {
    let (record, gate, init) = (Record::default(), Gate::new(), Gate::new());
    let registry = Registry::<Probe>::builder().restart(Restart::Transient).build().unwrap();
    let plan = Plan::script([Step::Succeed, Step::Wait(init.clone())]).recorded(&record);
    let via = registry.via_or_start(KEY, plan);
    within(via.cast(Ask::Do(Step::Wait(gate.clone()))), "a send").await.unwrap();
    for ask in [Ask::Note(1), Ask::Do(Step::Panic), Ask::Note(2)] {
        within(via.cast(ask), "a send").await.unwrap();
    }
    gate.open();
    init.reached().await;
    within(via.cast(Ask::Note(3)), "a send during the restart").await.unwrap();
    let mut call = Box::pin(via.call(Ask::Notes));
    assert!(poll_once(call.as_mut()).await.is_pending());
    init.open();
    assert_eq!(within(call, "a call in the restart").await.unwrap(), [2, 3]);
    assert_eq!(record.noted(KEY), [1, 2, 3]);
    assert_eq!((record.inits(KEY), registry.stats().starts.ok), (2, 1), "the worker is the same");
}

#[tokio::test(start_paused = true)]
async fn giving_up_returns_the_waiting_message() {
    let registry =
        Registry::<Probe>::builder().restart(Restart::Transient).restart_intensity(0, Duration::from_secs(9)).build();
    let registry = registry.unwrap();
    let via = registry.via_or_start(KEY, Plan::default());
    let gate = Gate::new();
    within(via.cast(Ask::DoThenReply(Step::Wait(gate.clone()), tokio::sync::oneshot::channel().0.into())), "a send")
        .await
        .unwrap();
    gate.reached().await;
    within(via.cast(Ask::Do(Step::Panic)), "a send").await.unwrap();
    for note in 0..63 {
        within(via.cast(Ask::Note(note)), "a send").await.unwrap();
    }
    let mut waiting = Box::pin(via.cast(Ask::Note(99)));
    assert!(poll_once(waiting.as_mut()).await.is_pending());
    gate.open();
    match within(waiting, "the waiting send").await {
        Err(SendError::NotStarted { message, source }) if matches!(*source, StartError::RestartLimit { .. }) => {
            assert!(matches!(message.into_inner(), Ask::Note(99)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn send_during_passivation_reaches_successor() {
    for is_evicted in [false, true] {
        let (record, gate) = (Record::default(), Gate::new());
        let registry = Registry::<Probe>::builder()
            .idle_timeout(Duration::from_secs(60))
            .max_workers(1)
            .eviction(Eviction::LeastRecentlyActive)
            .build()
            .unwrap();
        let plan = Plan { terminate: Step::Wait(gate.clone()), ..Plan::default() };
        let via = registry.via_or_start(KEY, plan.recorded(&record));
        within(via.cast(Ask::Note(1)), "a send").await.unwrap();
        until_idle().await;
        if is_evicted {
            let other = registry.clone();
            tokio::spawn(async move { drop(other.start("other", Plan::init(Step::Fail)).await) });
        } else {
            sleep(Duration::from_secs(70)).await;
        }
        gate.reached().await;
        assert!(registry.lookup(KEY).is_none());
        let mut second = Box::pin(via.cast(Ask::Note(2)));
        assert!(poll_once(second.as_mut()).await.is_pending(), "its key is not free");
        gate.open();
        match within(second, "a send during the passivation").await {
            Ok(()) => {}
            // The worker that makes room was still starting.
            Err(SendError::NotStarted { source, .. }) if is_evicted && matches!(*source, StartError::AtCapacity) => {
                within(via.cast(Ask::Note(2)), "a second try").await.unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
        within(via.cast(Ask::Note(3)), "a send").await.unwrap();
        until_idle().await;
        assert_eq!(record.noted(KEY), [1, 2, 3]);
        assert_eq!((record.inits(KEY), record.most_at_once(KEY)), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn send_during_stop_reaches_successor() {
    let (record, gate) = (Record::default(), Gate::new());
    let registry = Registry::<Probe>::builder().restart(Restart::Permanent).build().unwrap();
    let via = registry.via_or_start(KEY, Plan::default().recorded(&record));
    within(via.cast(Ask::Do(Step::Wait(gate.clone()))), "a send").await.unwrap();
    within(via.cast(Ask::Note(1)), "a send").await.unwrap();
    gate.reached().await;
    let other = registry.clone();
    let stop = tokio::spawn(async move { other.stop(KEY).await });
    until_idle().await;
    let mut second = Box::pin(via.cast(Ask::Note(2)));
    assert!(poll_once(second.as_mut()).await.is_pending());
    gate.open();
    within(second, "a send during the stop").await.unwrap();
    assert!(matches!(within(stop, "the stop").await.unwrap(), Ok(ExitReason::Stopped)));
    until_idle().await;
    assert_eq!((record.noted(KEY), record.inits(KEY)), (vec![1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn stop_in_backoff_fails_call_but_retry_works() {
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_backoff(Duration::from_secs(60), Duration::from_secs(60))
        .build()
        .unwrap();
    let via = registry.via_or_start(KEY, Plan::value(5));
    within(via.cast(Ask::Do(Step::Panic)), "a send").await.unwrap();
    until_idle().await;
    let mut call = Box::pin(via.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    within(registry.stop(KEY), "a stop").await.unwrap();
    assert!(matches!(within(call, "the call").await, Err(CallError::NotDelivered)));
    assert_eq!(within(via.call(Ask::Value), "the second call").await.unwrap(), 5);
    assert_at_rest(&registry);
}

/// How often each message was handled, and the last message of each sender.
#[derive(Default)]
struct Ledger {
    handled: Mutex<HashMap<(u32, u64), u32>>,
    last: Mutex<HashMap<(u32, u32), u64>>,
    disorder: AtomicUsize,
}

struct Account(Arc<Ledger>);

struct Entry {
    sender: u32,
    n: u64,
    /// The message after which the worker fails, panics or stops.
    end: u8,
    reply: Option<Reply<()>>,
}

impl Worker for Account {
    type Key = u32;
    type Args = Arc<Ledger>;
    type Message = Entry;
    type Error = std::fmt::Error;

    async fn init(ledger: Arc<Ledger>, _: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        tokio::task::yield_now().await;
        Ok(Self(ledger))
    }

    async fn handle(&mut self, entry: Entry, ctx: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        *self.0.handled.lock().unwrap().entry((entry.sender, entry.n)).or_default() += 1;
        let before = self.0.last.lock().unwrap().insert((*ctx.key(), entry.sender), entry.n);
        if before.is_some_and(|before| before >= entry.n) {
            self.0.disorder.fetch_add(1, Ordering::Relaxed);
        }
        if entry.n % 8 == 3 {
            tokio::task::yield_now().await;
        }
        if let Some(reply) = entry.reply {
            reply.send(());
        }
        match entry.end {
            1 => return Err(std::fmt::Error),
            2 => panic!("a scripted panic"),
            3 => ctx.stop(),
            _ => {}
        }
        Ok(())
    }
}

/// Senders use addresses while their workers exit in every way that loses no message, or, with `kills`, in ways that
/// report what they lose.
async fn storm(kills: bool) {
    let lost = Arc::new(Mutex::new(HashMap::<(u32, u64), u32>::new()));
    let sink = Arc::clone(&lost);
    let registry = Registry::<Account>::builder()
        .restart(Restart::Permanent)
        .restart_intensity(1_000_000, Duration::from_secs(3_600))
        .idle_timeout(Duration::from_millis(1))
        .mailbox_capacity(4)
        .max_workers(6)
        .eviction(Eviction::LeastRecentlyActive)
        .on_undelivered(move |_, entry: Entry| *sink.lock().unwrap().entry((entry.sender, entry.n)).or_default() += 1)
        .build()
        .unwrap();
    let (ledger, over) = (Arc::<Ledger>::default(), Arc::new(AtomicBool::new(false)));
    let (other, is_over) = (registry.clone(), Arc::clone(&over));
    let ender = tokio::spawn(async move {
        let mut nth = 0_u32;
        while !is_over.load(Ordering::Relaxed) {
            nth += 1;
            if kills && nth % 3 == 0 {
                drop(other.kill(&(nth % 8)).await);
            } else {
                drop(other.stop(&(nth % 8)).await);
            }
            for _ in 0..32 {
                tokio::task::yield_now().await;
            }
        }
    });
    let senders: Vec<_> = (0..8_u32)
        .map(|sender| {
            let (registry, ledger) = (registry.clone(), Arc::clone(&ledger));
            tokio::spawn(async move {
                let vias: Vec<_> = (0..8_u32).map(|key| registry.via_or_start(&key, Arc::clone(&ledger))).collect();
                let (mut accepted, mut repeated, mut unknown) = (Vec::new(), 0_u32, 0_u32);
                for n in 0..200_u64 {
                    let via = &vias[(n as usize + sender as usize) % 8];
                    let end = if n % 29 == 7 { (n % 3 + 1) as u8 } else { 0 };
                    if n % 2 == 0 {
                        match via.cast(Entry { sender, n, end, reply: None }).await {
                            Ok(()) => accepted.push(n),
                            Err(SendError::NotStarted { .. } | SendError::Closed(_)) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    } else {
                        match via.call(|reply| Entry { sender, n, end, reply: Some(reply) }).await {
                            Ok(()) => accepted.push(n),
                            // The message was not handled. If it was, it would be counted twice.
                            Err(CallError::NotDelivered | CallError::NotStarted(_)) => repeated += 1,
                            Err(CallError::NoReply) if kills => unknown += 1,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                }
                (sender, accepted, repeated, unknown)
            })
        })
        .collect();
    let mut accepted = Vec::new();
    let (mut not_run, mut unknown) = (0, 0);
    for sender in senders {
        let (sender, of, repeated, may_have_run) = within(sender, "a sender").await.unwrap();
        accepted.extend(of.into_iter().map(|n| (sender, n)));
        (not_run, unknown) = (not_run + repeated, unknown + may_have_run);
    }
    over.store(true, Ordering::Relaxed);
    within(ender, "the task that ends workers").await.unwrap();
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.aborted, report.stuck), (0, 0), "{report:?}");
    let (handled, lost) = (ledger.handled.lock().unwrap(), lost.lock().unwrap());
    assert!(handled.values().all(|&times| times == 1), "a message was handled twice");
    assert_eq!(ledger.disorder.load(Ordering::Relaxed), 0, "a sender's messages were reordered (G8)");
    for message in &accepted {
        let times = u32::from(handled.contains_key(message)) + lost.get(message).copied().unwrap_or_default();
        assert_eq!(times, 1, "{message:?} was accepted, and handled or undelivered {times} times (G6)");
    }
    let extra = handled.len() + lost.len() - accepted.len();
    assert!(
        extra <= unknown as usize,
        "{extra} were handled although their senders learnt otherwise; {unknown} may have been"
    );
    let stats = registry.stats();
    assert!(accepted.len() > 800 && stats.restarts.total() > 0 && stats.exits.stopped > 0, "{stats:?} {not_run}");
    assert_eq!((stats.workers(), stats.starts.ok), (0, stats.exits.total()), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_handled_once_across_all_exits() {
    storm(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_handled_or_reported_with_kills() {
    storm(true).await;
}
