//! How to test a worker: with a fake dependency, a paused clock, and no real sleep.
//!
//! ```sh
//! cargo test -p testing    # a minute of idling takes a millisecond
//! cargo run -p testing     # the worker with its real dependency
//! ```
//!
//! The worker [`Meter`] adds up readings. It writes them to a [`Store`] every ten seconds and when it ends. The tests at
//! the end of this file show how to test
//!
//! | what | how |
//! |---|---|
//! | a dependency | pass it in `Args`, as a type parameter; the fake follows a script and reports what it is asked for |
//! | time | `#[tokio::test(start_paused = true)]`: the clock jumps to the next timer when all tasks wait |
//! | an idle timeout | await [`closed`](gen_registry::WorkerHandle::closed), and compare the clock |
//! | an interval | await its effect on the fake, and compare the clock |
//! | a crash and a restart | await [`run_ended`](gen_registry::WorkerHandle::run_ended), then use the same handle |
//! | a crash loop | let the fake fail always; the next start returns `RestartLimit` |
//! | a lost message | record what [`on_undelivered`](gen_registry::Builder::on_undelivered) gets; assertions in the hook would not fail the test, because its panics are contained |
//! | a stop that takes too long | let the fake hang; the report of the shutdown counts an aborted worker |
//!
//! Three rules keep such tests reliable. Each test builds its own registry, because a registry belongs to one runtime,
//! and without [`name`](gen_registry::Builder::name), because tests run in parallel and names are unique in a process.
//! Each wait has a timeout that says what was lost (`within`). And while a paused clock is used, nothing waits for a
//! socket or another process: the clock would jump ahead meanwhile, and expire the timeouts.
//!
//! The program prints:
//!
//! ```text
//! total 5, stored 0
//! shutdown: drained 1
//! stored 5
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gen_registry::{BuildError, Context, ExitReason, Registry, Reply, Restart, Worker};

const FLUSH: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

/// Where the totals are kept. A trait, so that a test can pass a fake.
trait Store: Clone + Send + Sync + 'static {
    fn total(&self, meter: &str) -> impl Future<Output = Result<u64, StoreError>> + Send;
    fn add(&self, meter: &str, amount: u64) -> impl Future<Output = Result<(), StoreError>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is unavailable")]
struct StoreError;

struct Meter<S> {
    store: S,
    total: u64,
    unsaved: u64,
}

#[derive(Debug)]
enum Message {
    Add(u64),
    Total(Reply<u64>),
    Flush,
}

impl<S: Store> Worker for Meter<S> {
    type Key = String;
    type Args = S;
    type Message = Message;
    type Error = StoreError;

    async fn init(store: S, ctx: &mut Context<Self>) -> Result<Self, StoreError> {
        let total = store.total(ctx.key()).await?;
        ctx.send_interval(FLUSH, || Message::Flush);
        Ok(Meter { store, total, unsaved: 0 })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), StoreError> {
        match message {
            Message::Add(amount) => {
                self.total += amount;
                self.unsaved += amount;
            }
            Message::Total(reply) => reply.send(self.total),
            Message::Flush => self.flush(ctx).await?,
        }
        Ok(())
    }

    /// Also after a failed write, which is tried once more.
    async fn terminate(mut self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Err(error) = self.flush(ctx).await {
            eprintln!("meter {}: lost {}: {error}", ctx.key(), self.unsaved);
        }
    }
}

impl<S: Store> Meter<S> {
    async fn flush(&mut self, ctx: &Context<Self>) -> Result<(), StoreError> {
        if self.unsaved > 0 {
            self.store.add(ctx.key(), self.unsaved).await?;
            self.unsaved = 0;
        }
        Ok(())
    }
}

/// The registry of the program, and of its tests: they test these options too.
fn meters<S: Store>(
    undelivered: impl Fn(&String, Message) + Send + Sync + 'static,
) -> Result<Registry<Meter<S>>, BuildError> {
    Registry::<Meter<S>>::builder().idle_timeout(IDLE).restart(Restart::Transient).on_undelivered(undelivered).build()
}

/// The store of the program.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<HashMap<String, u64>>>);

impl Store for Memory {
    async fn total(&self, meter: &str) -> Result<u64, StoreError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(meter).copied().unwrap_or(0))
    }

    async fn add(&self, meter: &str, amount: u64) -> Result<(), StoreError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(meter.into()).or_default() += amount;
        Ok(())
    }
}

/// Returns what the program prints.
async fn session() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let store = Memory::default();
    let meters = meters(|meter, message| eprintln!("meter {meter}: undelivered: {message:?}"))?;
    let kitchen = meters.via_or_start("kitchen", store.clone());
    kitchen.cast(Message::Add(2)).await?;
    kitchen.cast(Message::Add(3)).await?;
    let total = kitchen.call(Message::Total).await?;
    let mut printed = vec![format!("total {total}, stored {}", store.total("kitchen").await?)];
    printed.push(format!("shutdown: drained {}", meters.shutdown().await.drained));
    printed.push(format!("stored {}", store.total("kitchen").await?));
    Ok(printed)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    session().await?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_registry::{CallError, StartError, WorkerHandle};
    use tokio::sync::mpsc;
    use tokio::time::{Instant, timeout};

    use super::*;

    const KITCHEN: &str = "kitchen";

    /// Awaits what must happen. Without it, a mistake would hang the test instead of failing it.
    async fn within<F: Future>(awaited: F, lost: &str) -> F::Output {
        timeout(Duration::from_secs(3600), awaited).await.unwrap_or_else(|_| panic!("timed out, lost: {lost}"))
    }

    /// What the fake does next.
    #[derive(Clone, Copy)]
    enum Mode {
        Works,
        FailsOnce,
        IsDown,
        Hangs,
    }

    /// A store that follows a script. It reports each write that it is asked for.
    #[derive(Clone)]
    struct Fake {
        memory: Memory,
        mode: Arc<Mutex<Mode>>,
        writes: mpsc::UnboundedSender<u64>,
    }

    impl Fake {
        fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
            let (writes, written) = mpsc::unbounded_channel();
            (Self { memory: Memory::default(), mode: Arc::new(Mutex::new(Mode::Works)), writes }, written)
        }

        fn set(&self, mode: Mode) {
            *self.mode.lock().unwrap() = mode;
        }

        async fn step(&self) -> Result<(), StoreError> {
            let mode = *self.mode.lock().unwrap();
            match mode {
                Mode::Works => Ok(()),
                Mode::FailsOnce => {
                    self.set(Mode::Works);
                    Err(StoreError)
                }
                Mode::IsDown => Err(StoreError),
                Mode::Hangs => std::future::pending().await,
            }
        }
    }

    impl Store for Fake {
        async fn total(&self, meter: &str) -> Result<u64, StoreError> {
            self.step().await?;
            self.memory.total(meter).await
        }

        async fn add(&self, meter: &str, amount: u64) -> Result<(), StoreError> {
            self.writes.send(amount).expect("the test holds the receiver");
            self.step().await?;
            self.memory.add(meter, amount).await
        }
    }

    /// A meter in its own registry.
    async fn kitchen(store: &Fake) -> (Registry<Meter<Fake>>, WorkerHandle<Meter<Fake>>) {
        let meters = meters(|_, _| {}).expect("the options are valid");
        let worker = within(meters.start(KITCHEN, store.clone()), "the start").await.expect("the store works");
        (meters, worker)
    }

    async fn add(worker: &WorkerHandle<Meter<Fake>>, amount: u64) {
        within(worker.cast(Message::Add(amount)), "room in the mailbox").await.expect("the worker runs");
    }

    #[tokio::test]
    async fn session_prints_the_documented_lines() {
        let printed = within(session(), "the session").await.expect("the session has no errors");
        let (_, block) = include_str!("main.rs").split_once("//! ```text\n").expect("there is a session");
        let documented = block.lines().take_while(|line| *line != "//! ```").map(|line| &line[4..]);
        assert_eq!(printed, documented.collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn interval_writes_after_ten_seconds() {
        let (store, mut written) = Fake::new();
        let (_meters, worker) = kitchen(&store).await;
        let began = Instant::now();
        add(&worker, 2).await;
        add(&worker, 3).await;
        assert_eq!(within(written.recv(), "a write").await, Some(5));
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_worker_ends_after_a_minute() {
        let (store, mut written) = Fake::new();
        let (meters, worker) = kitchen(&store).await;
        let began = Instant::now();
        assert_eq!(within(worker.closed(), "the end of the idle worker").await, ExitReason::Idle);
        // The timeout of a worker is up to a sixteenth longer. Ticks of the interval do not keep it.
        assert!((IDLE..=IDLE * 17 / 16).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(meters.count(), 0);
        assert!(written.try_recv().is_err(), "there was nothing to write");
    }

    #[tokio::test(start_paused = true)]
    async fn stopped_worker_writes_first() {
        let (store, mut written) = Fake::new();
        let (_meters, worker) = kitchen(&store).await;
        add(&worker, 7).await;
        assert_eq!(within(worker.stop(), "the stop").await, Ok(ExitReason::Stopped));
        assert_eq!(written.try_recv(), Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_write_restarts_the_worker() {
        let (store, _written) = Fake::new();
        let (_meters, worker) = kitchen(&store).await;
        add(&worker, 5).await;
        store.set(Mode::FailsOnce);
        let reason = within(worker.run_ended(), "the end of the run").await;
        let ExitReason::Failed(error) = &reason else { panic!("{reason:?}") };
        assert_eq!(error.downcast_ref(), Some(&StoreError));
        // The same handle, a new state. `terminate` has written, and `init` has loaded.
        assert_eq!(within(worker.call(Message::Total), "the total").await.expect("the worker runs again"), 5);
        assert_eq!(worker.incarnation(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn store_that_is_down_ends_the_worker() {
        let (store, _written) = Fake::new();
        let (meters, worker) = kitchen(&store).await;
        add(&worker, 5).await;
        store.set(Mode::IsDown);
        assert!(within(worker.closed(), "the end of the restarts").await.is_crash());
        assert_eq!(meters.stats().gave_up, 1);
        // As in Elixir: no start for five seconds, then `init` runs again.
        let Err(StartError::RestartLimit { retry_after }) = meters.start(KITCHEN, store.clone()).await else {
            panic!("the budget of restarts is spent")
        };
        tokio::time::sleep(retry_after).await; // on the paused clock
        let error = within(meters.start(KITCHEN, store), "the start").await.expect_err("the store is down");
        assert_eq!(error.init_error(), Some(&StoreError));
    }

    #[tokio::test(start_paused = true)]
    async fn casts_behind_a_hung_write_are_reported() {
        let (store, mut written) = Fake::new();
        let (lost, mut undelivered) = mpsc::unbounded_channel();
        let meters = meters(move |meter, message| lost.send((meter.clone(), message)).expect("the test receives"))
            .expect("the options are valid");
        let worker = within(meters.start(KITCHEN, store.clone()), "the start").await.expect("the store works");
        add(&worker, 1).await;
        store.set(Mode::Hangs);
        within(written.recv(), "the write that hangs").await;
        add(&worker, 2).await;
        assert_eq!(within(worker.kill(), "the kill").await, Ok(ExitReason::Killed));
        let (meter, message) = undelivered.try_recv().expect("the hook runs before the kill returns");
        assert_eq!(meter, KITCHEN);
        assert!(matches!(message, Message::Add(2)), "{message:?}");
        assert!(undelivered.try_recv().is_err(), "the write that hangs had begun");
    }

    #[tokio::test(start_paused = true)]
    async fn call_behind_a_hung_write_times_out() {
        let (store, mut written) = Fake::new();
        let (meters, worker) = kitchen(&store).await;
        add(&worker, 1).await;
        store.set(Mode::Hangs);
        within(written.recv(), "the write that hangs").await;
        let began = Instant::now();
        let answer = worker.call_timeout(Duration::from_secs(2), Message::Total).await;
        assert!(matches!(answer, Err(CallError::TimedOut)), "{answer:?}");
        assert_eq!(began.elapsed().as_secs(), 2);
        // The shutdown cannot wait for it either.
        let report = within(meters.shutdown(), "the shutdown").await;
        assert_eq!((report.drained, report.aborted), (0, 1));
        assert_eq!(began.elapsed().as_secs(), 7, "the stop timeout is 5 s");
    }
}
