//! Idling (G7): an inactive worker exits after the timeout without losing a message, and an active one stays.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Builder, Context, ExitReason, Mailbox, Registry, Restart, Worker, WorkerHandle};
use test_support::{
    Ask, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Step, assert_at_rest, fallible_job,
    run_in_restartable, until_idle, value_of, within,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

const KEY: &str = "k";
const IDLE: Duration = Duration::from_secs(100);
/// A worker idles up to a sixteenth later than its timeout. Timers have a resolution of a millisecond.
const LATEST: Duration = Duration::from_millis(106_260);

fn builder<W: Worker>() -> Builder<W> {
    Registry::builder().idle_timeout(IDLE)
}

async fn started(registry: &Registry<Probe>, plan: Plan) -> WorkerHandle<Probe> {
    within(registry.start(KEY, plan), "a start").await.expect("the start succeeds")
}

/// Waits for a worker to idle and returns how long that took.
async fn idles<W: Worker>(worker: &WorkerHandle<W>, since: Instant) -> Duration {
    let reason = tokio::time::timeout(Duration::from_secs(100_000), worker.closed()).await.expect("the worker idles");
    assert!(matches!(reason, ExitReason::Idle), "{reason}");
    since.elapsed()
}

#[track_caller]
fn assert_about(rested: Duration, least: Duration) {
    let latest = least + least / 16 + Duration::from_millis(10);
    assert!((least..=latest).contains(&rested), "idle after {rested:?}, not {least:?}");
}

#[tokio::test(start_paused = true)]
async fn idle_worker_terminates_and_frees_its_key() {
    let record = Record::default();
    let registry = builder().build().unwrap();
    let began = Instant::now();
    let worker = started(&registry, Plan::default().recorded(&record)).await;
    assert_about(idles(&worker, began).await, IDLE);
    assert_eq!((record.terminated(KEY), record.alive(KEY)), (vec!["idle".to_owned()], 0));
    assert_eq!((registry.stats().exits.idle, registry.count()), (1, 0));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn without_timeout_workers_stay() {
    let registry = Registry::<Probe>::new();
    let worker = started(&registry, Plan::default()).await;
    sleep(IDLE * 10_000).await;
    assert_eq!(registry.lookup(KEY), Some(worker));
}

#[tokio::test(start_paused = true)]
async fn message_resets_the_timeout() {
    let registry = builder().build().unwrap();
    let worker = started(&registry, Plan::value(1)).await;
    for _ in 0..10 {
        sleep(IDLE - Duration::from_secs(1)).await;
        assert_eq!(value_of(&worker).await, 1);
    }
    assert_about(idles(&worker, Instant::now()).await, IDLE);
}

#[tokio::test(start_paused = true)]
async fn busy_handler_or_full_mailbox_is_active() {
    let registry = builder().build().unwrap();
    let worker = started(&registry, Plan::default()).await;
    let (one, two) = (Gate::new(), Gate::new());
    worker.cast(Ask::Do(Step::Wait(one.clone()))).await.unwrap();
    worker.cast(Ask::Do(Step::Wait(two.clone()))).await.unwrap();
    sleep(IDLE * 10).await;
    one.open();
    two.reached().await;
    sleep(IDLE * 10).await;
    assert_eq!(registry.lookup(KEY), Some(worker.clone()));
    two.open();
    assert_about(idles(&worker, Instant::now()).await, IDLE);
}

#[tokio::test(start_paused = true)]
async fn running_task_counts_as_activity() {
    let registry = builder::<RestartableWorker>().build().unwrap();
    for is_aborted in [false, true] {
        let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.unwrap();
        let gate = Gate::new();
        let pass = gate.clone();
        let task = run_in_restartable(&worker, move |ctx| {
            Box::pin(async move {
                let task = ctx.spawn(async move { pass.pass().await });
                Some(task)
            })
        });
        let task = task.await.unwrap().expect("the task was spawned");
        sleep(IDLE * 10).await;
        assert_eq!(registry.lookup(KEY), Some(worker.clone()));
        if is_aborted {
            task.abort();
        } else {
            gate.open();
        }
        let rested = idles(&worker, Instant::now()).await;
        assert!(rested <= LATEST, "the timeout was checked late: {rested:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_may_set_its_own_timeout() {
    let registry = builder::<RestartableWorker>().build().unwrap();
    let set = async |worker: &WorkerHandle<RestartableWorker>, after: Option<Duration>| {
        run_in_restartable(worker, move |ctx| Box::pin(async move { ctx.set_idle_timeout(after) })).await.unwrap();
        Instant::now()
    };
    for after in [IDLE * 10, IDLE / 10, Duration::from_millis(1)] {
        let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.unwrap();
        let since = set(&worker, Some(after)).await;
        assert_about(idles(&worker, since).await, after);
    }
    let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.unwrap();
    set(&worker, None).await;
    sleep(IDLE * 10_000).await;
    // A timeout of zero counts as a millisecond.
    let since = set(&worker, Some(Duration::ZERO)).await;
    assert!(idles(&worker, since).await < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn own_timeout_survives_restart() {
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.unwrap();
    run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.set_idle_timeout(Some(IDLE)) })).await.unwrap();
    sleep(IDLE / 2).await;
    worker.cast(fallible_job(|_| Box::pin(async { Err(test_support::Scripted) }))).await.unwrap();
    let since = Instant::now();
    assert_about(idles(&worker, since).await, IDLE);
    assert_eq!(worker.incarnation(), 2);
}

#[tokio::test(start_paused = true)]
async fn restarting_never_idles_idle_never_restarts() {
    let record = Record::default();
    let registry = builder().restart(Restart::Permanent).restart_backoff(IDLE * 10, IDLE * 10).build().unwrap();
    let worker = started(&registry, Plan::default().recorded(&record)).await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    sleep(IDLE * 4).await;
    assert_eq!((registry.lookup(KEY), registry.stats().restarting), (Some(worker.clone()), 1));
    sleep(IDLE * 6).await;
    idles(&worker, Instant::now()).await;
    assert_eq!(record.inits(KEY), 2);
}

#[tokio::test(start_paused = true)]
async fn timeouts_are_jittered() {
    let registry = builder::<Probe>().build().unwrap();
    let mut ends = Vec::new();
    let began = Instant::now();
    for n in 0..64 {
        let worker = within(registry.start(&n.to_string(), Plan::default()), "a start").await.unwrap();
        ends.push(tokio::spawn(async move { idles(&worker, began).await.as_millis() }));
    }
    let mut moments = std::collections::HashSet::new();
    for end in ends {
        moments.insert(within(end, "an exit").await.unwrap());
    }
    assert!(moments.len() > 32, "64 workers left at {} moments", moments.len());
}

/// A worker that also reads a socket. After a read, it may take a batch from its mailbox.
struct SocketReader {
    socket: mpsc::UnboundedReceiver<Read>,
    handled: Arc<AtomicU64>,
}

enum Read {
    /// Calls `ctx.touch()`.
    Touching,
    Silent,
    /// Takes this long, then drains the mailbox.
    Batch(Duration),
}

impl Worker for SocketReader {
    type Key = u32;
    type Args = (mpsc::UnboundedReceiver<Read>, Arc<AtomicU64>);
    type Message = ();
    type Error = Infallible;

    async fn init((socket, handled): Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self { socket, handled })
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        self.handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut Mailbox<()>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                biased;
                Some(read) = self.socket.recv() => match read {
                    Read::Touching => ctx.touch(),
                    Read::Silent => {}
                    Read::Batch(takes) => {
                        sleep(takes).await;
                        while let Some(()) = mailbox.try_recv() {
                            self.handle((), ctx).await?;
                        }
                    }
                },
                message = mailbox.recv() => match message {
                    Some(()) => self.handle((), ctx).await?,
                    None => return Ok(()),
                },
            }
        }
    }
}

async fn socket_reader(
    registry: &Registry<SocketReader>,
) -> (WorkerHandle<SocketReader>, mpsc::UnboundedSender<Read>, Arc<AtomicU64>) {
    let ((socket, read), handled) = (mpsc::unbounded_channel(), Arc::<AtomicU64>::default());
    let worker = within(registry.start(&1, (read, Arc::clone(&handled))), "a start").await.unwrap();
    (worker, socket, handled)
}

#[tokio::test(start_paused = true)]
async fn touch_resets_the_timeout_in_custom_run() {
    let registry = builder::<SocketReader>().build().unwrap();
    let (worker, socket, _) = socket_reader(&registry).await;
    for _ in 0..10 {
        sleep(IDLE - Duration::from_secs(1)).await;
        socket.send(Read::Touching).unwrap();
    }
    until_idle().await;
    assert_about(idles(&worker, Instant::now()).await + Duration::from_millis(1), IDLE);

    let (worker, socket, _) = socket_reader(&registry).await;
    let began = Instant::now();
    for _ in 0..9 {
        sleep(IDLE / 10).await;
        socket.send(Read::Silent).unwrap();
    }
    // A read is not a message, and the worker did not call `touch`.
    assert_about(idles(&worker, began).await, IDLE);
}

#[tokio::test(start_paused = true)]
async fn try_recv_resets_the_timeout() {
    let registry = builder::<SocketReader>().build().unwrap();
    let (worker, socket, handled) = socket_reader(&registry).await;
    sleep(IDLE / 2).await;
    socket.send(Read::Batch(IDLE)).unwrap();
    until_idle().await;
    worker.cast(()).await.unwrap();
    sleep(IDLE).await;
    assert_eq!(handled.load(Ordering::Relaxed), 1);
    assert_about(idles(&worker, Instant::now()).await + Duration::from_millis(1), IDLE);
}

#[tokio::test(start_paused = true)]
async fn g7_address_send_reaches_successor() {
    let record = Record::default();
    let registry = builder::<Probe>().build().unwrap();
    let via = registry.via_or_start(KEY, Plan::value(1).recorded(&record));
    for note in 0..5 {
        within(via.cast(Ask::Note(note)), "a send").await.unwrap();
        sleep(IDLE * 2).await;
        assert!(registry.lookup(KEY).is_none());
    }
    assert_eq!((record.noted(KEY), record.inits(KEY)), (vec![0, 1, 2, 3, 4], 5));
    assert_eq!(record.most_at_once(KEY), 1);
}

/// Counts how often each message is handled, and checks the order of each sender's messages.
struct Counter(Seen);

type Seen = Arc<Mutex<HashMap<(u32, u64), u32>>>;

impl Worker for Counter {
    type Key = u32;
    type Args = (Seen, Arc<Mutex<HashMap<(u32, u32), u64>>>);
    type Message = (u32, u64, Arc<Mutex<HashMap<(u32, u32), u64>>>);
    type Error = Infallible;

    async fn init((seen, _): Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(seen))
    }

    async fn handle(&mut self, (sender, n, last): Self::Message, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        *self.0.lock().unwrap().entry((sender, n)).or_default() += 1;
        let before = last.lock().unwrap().insert((*ctx.key(), sender), n);
        assert!(before.is_none_or(|before| before < n), "sender {sender} sent {n} after {before:?} (G8)");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_messages_are_handled_once_despite_passivation() {
    let registry = Registry::<Counter>::builder().idle_timeout(Duration::from_millis(1)).build().unwrap();
    let (seen, last) = (Seen::default(), Arc::<Mutex<HashMap<(u32, u32), u64>>>::default());
    let senders: Vec<_> = (0..8_u32)
        .map(|sender| {
            let (registry, seen, last) = (registry.clone(), Arc::clone(&seen), Arc::clone(&last));
            tokio::spawn(async move {
                let mut accepted = 0;
                for n in 0..200_u64 {
                    let via = registry.via_or_start(&(n as u32 % 3), (Arc::clone(&seen), Arc::clone(&last)));
                    match via.cast((sender, n, Arc::clone(&last))).await {
                        Ok(()) => accepted += 1,
                        // Every worker that the cast tried was exiting, so the message is returned.
                        Err(gen_registry::SendError::Closed(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                    if n % 16 == u64::from(sender) {
                        // Wait until the worker has exited, unless other senders keep it active.
                        for _ in 0..1_000 {
                            if registry.lookup(&(n as u32 % 3)).is_none() {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                    }
                }
                accepted
            })
        })
        .collect();
    let mut accepted = 0;
    for sender in senders {
        accepted += within(sender, "a sender").await.unwrap();
    }
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.crashed, report.aborted), (0, 0));
    let stats = registry.stats();
    assert_eq!((stats.exits.panicked, stats.exits.failed), (0, 0), "{stats:?}");
    assert!(stats.exits.idle > 0, "no worker idled");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), accepted, "an accepted message was lost");
    assert!(seen.values().all(|&times| times == 1), "a message was handled twice");
    assert_at_rest(&registry);
}
