//! Sequences of operations on a registry, against a model of one number for each key.
//!
//! Operations run one after the other on a paused clock, so the model is exact. What happens at once is the subject of
//! the property model, of the linearizability test and of the storms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use gen_registry::{
    CallError, Context, Eviction, ExitReason, Registry, Reply, Restart, StartError, StopError, Worker, WorkerHandle,
};

use crate::kind;

const KEYS: u8 = 4;
const IDLE: Duration = Duration::from_secs(10);
/// Far longer than any operation takes on the paused clock.
const PATIENCE: Duration = Duration::from_secs(3_600);
const MAX_OPERATIONS: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    Go,
    Fail,
    Panic,
}

#[derive(Debug, Clone)]
struct Args {
    init: Init,
    /// States that were made and not dropped.
    alive: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Add(u64, Option<Reply<u64>>),
    /// Ends with an error, and the reply is dropped.
    Fail(#[expect(dead_code, reason = "dropped")] Reply<u64>),
    Panic(#[expect(dead_code, reason = "dropped")] Reply<u64>),
    /// Replies, and then calls `ctx.stop()`.
    Stop(Reply<u64>),
}

/// Adds up the messages of one run.
#[derive(Debug)]
struct Sum {
    sum: u64,
    alive: Arc<AtomicUsize>,
}

impl Drop for Sum {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
    }
}

fn crash() -> ! {
    // Without the hook, which would print.
    std::panic::resume_unwind(Box::new("as planned"))
}

impl Worker for Sum {
    type Key = u8;
    type Args = Args;
    type Message = Message;
    type Error = &'static str;

    async fn init(args: Args, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        match args.init {
            Init::Go => {}
            Init::Fail => return Err("as planned"),
            Init::Panic => crash(),
        }
        args.alive.fetch_add(1, SeqCst);
        Ok(Self { sum: 0, alive: args.alive })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Self::Error> {
        match message {
            Message::Add(number, reply) => {
                self.sum += number;
                if let Some(reply) = reply {
                    reply.send(self.sum);
                }
            }
            Message::Fail(_) => return Err("as planned"),
            Message::Panic(_) => crash(),
            Message::Stop(reply) => {
                reply.send(self.sum);
                ctx.stop();
            }
        }
        Ok(())
    }
}

/// How the registry is built: the first byte.
#[derive(Debug, Clone, Copy)]
struct Options {
    restart: Restart,
    limit: Option<usize>,
    idles: bool,
}

impl Options {
    fn read(byte: u8) -> Self {
        let restart = [Restart::Temporary, Restart::Transient, Restart::Permanent][usize::from(byte % 3)];
        Self { restart, limit: [None, Some(2)][usize::from(byte / 3 % 2)], idles: byte / 6 % 2 == 1 }
    }

    fn build(self) -> Registry<Sum> {
        let mut builder = Registry::<Sum>::builder().mailbox_capacity(4).restart(self.restart);
        if self.restart != Restart::Temporary {
            // No sequence spends it.
            builder = builder.restart_intensity(10_000, Duration::from_secs(5));
        }
        if let Some(limit) = self.limit {
            builder = builder.max_workers(limit).eviction(Eviction::Reject);
        }
        if self.idles {
            builder = builder.idle_timeout(IDLE);
        }
        builder.build().expect("the options are in range")
    }
}

/// The registry and what it must be: the sum of each live worker.
struct Run {
    options: Options,
    registry: Registry<Sum>,
    alive: Arc<AtomicUsize>,
    model: BTreeMap<u8, u64>,
    /// Each kind of step with each kind of result, in order of their first appearance.
    seen: std::collections::BTreeSet<u64>,
    expected_ends: u64,
    /// Accepted messages.
    sent: u64,
}

async fn within<F: Future>(operation: F, what: &str) -> F::Output {
    tokio::time::timeout(PATIENCE, operation).await.unwrap_or_else(|_| panic!("{what} never ends"))
}

impl Run {
    fn args(&self, init: Init) -> Args {
        Args { init, alive: Arc::clone(&self.alive) }
    }

    /// What a start of a key must result in. Without a worker it also counts the new one.
    #[track_caller]
    fn check_start(
        &mut self,
        key: u8,
        init: Init,
        exclusive: bool,
        started: Result<WorkerHandle<Sum>, StartError<Sum>>,
    ) {
        let is_live = self.model.contains_key(&key);
        let is_full = self.options.limit.is_some_and(|limit| self.model.len() >= limit);
        match (&started, is_live) {
            (Ok(handle), true) => assert!(!exclusive && *handle.key() == key, "two workers of key {key}"),
            (Err(StartError::AlreadyStarted { handle, .. }), true) => assert!(exclusive && *handle.key() == key),
            (Err(StartError::AtCapacity), false) => assert!(is_full, "key {key} is refused, and there is room"),
            (Err(StartError::Init(_)), false) => assert!(!is_full && init == Init::Fail, "key {key}: {init:?}"),
            (Err(StartError::Panicked(_)), false) => assert!(!is_full && init == Init::Panic, "key {key}: {init:?}"),
            (Ok(handle), false) => {
                assert!(!is_full && init == Init::Go && *handle.key() == key, "key {key}: {init:?}");
                self.model.insert(key, 0);
            }
            (Err(error), _) => panic!("a start of key {key}, whose worker {is_live}: {error:?}"),
        }
    }

    async fn call(
        &mut self,
        key: u8,
        message: impl FnOnce(Reply<u64>) -> Message,
    ) -> Option<Result<u64, CallError<Sum>>> {
        let handle = self.registry.lookup(&key)?;
        self.sent += 1;
        Some(within(handle.call(message), "a call").await)
    }

    /// The run of a key has ended by itself. Waits for the end of the worker, if the policy does not restart it.
    async fn ended(&mut self, key: u8, handle: WorkerHandle<Sum>, is_crash: bool) {
        let restarts = match self.options.restart {
            Restart::Temporary => false,
            Restart::Transient => is_crash,
            _ => true,
        };
        if restarts {
            self.model.insert(key, 0);
            // The message is queued until the restart is over.
            self.sent += 1;
            let sum = within(handle.call(|reply| Message::Add(0, Some(reply))), "a call to a restarted worker").await;
            assert!(matches!(sum, Ok(0)), "key {key} has a state of its last run: {sum:?}");
        } else {
            let reason = within(handle.closed(), "the end of a worker").await;
            assert_eq!(reason.is_crash(), is_crash, "key {key}: {reason:?}");
            self.model.remove(&key);
            self.expected_ends += 1;
        }
    }

    async fn step(&mut self, operation: u8, number: u8) {
        let (key, number) = (number % KEYS, u64::from(number / KEYS));
        let expected = self.model.get(&key).copied();
        let init = [Init::Go, Init::Go, Init::Fail, Init::Panic][number as usize % 4];
        match operation % 11 {
            0 => {
                let started = within(self.registry.start(&key, self.args(init)), "a start").await;
                self.check_start(key, init, true, started);
            }
            1 => {
                let started = within(self.registry.lookup_or_start(&key, self.args(init)), "a start").await;
                self.check_start(key, init, false, started);
            }
            2 => assert_eq!(self.registry.lookup(&key).is_some(), expected.is_some(), "a lookup of key {key}"),
            3 => self.end(key, false).await,
            4 => self.end(key, true).await,
            5 => {
                if let Some(handle) = self.registry.lookup(&key) {
                    within(handle.cast(Message::Add(number, None)), "a cast").await.expect("the worker runs");
                    self.sent += 1;
                    *self.model.get_mut(&key).expect("it was found") += number;
                }
            }
            6 => {
                let sum = self.call(key, |reply| Message::Add(number, Some(reply))).await;
                assert_eq!(sum.map(|sum| sum.ok()), expected.map(|sum| Some(sum + number)), "the sum of key {key}");
                self.model.entry(key).and_modify(|sum| *sum += number);
            }
            7 | 8 => {
                let Some(handle) = self.registry.lookup(&key) else { return };
                let message = if operation % 11 == 7 { Message::Fail } else { Message::Panic };
                let result = self.call(key, message).await;
                assert!(matches!(result, Some(Err(CallError::NoReply))), "a crash of key {key}: {result:?}");
                self.ended(key, handle, true).await;
            }
            9 => {
                let Some(handle) = self.registry.lookup(&key) else { return };
                let sum = self.call(key, Message::Stop).await.and_then(Result::ok);
                assert_eq!(sum, expected, "the last sum of key {key}");
                self.ended(key, handle, false).await;
            }
            _ => {
                tokio::time::sleep(IDLE * 2).await;
                if self.options.idles {
                    self.expected_ends += self.model.len() as u64;
                    self.model.clear();
                }
            }
        }
        self.seen.insert(kind((operation % 11, expected.is_some(), init as u8, self.model.len())));
    }

    async fn end(&mut self, key: u8, at_once: bool) {
        let ended = if at_once {
            within(self.registry.kill(&key), "a kill").await
        } else {
            within(self.registry.stop(&key), "a stop").await
        };
        match (ended, self.model.remove(&key)) {
            (Ok(reason), Some(_)) => {
                let expected = if at_once { ExitReason::Killed } else { ExitReason::Stopped };
                assert_eq!(reason, expected, "the end of key {key}");
                self.expected_ends += 1;
            }
            (Err(StopError::NotFound), None) => {}
            (ended, before) => panic!("key {key} with {before:?} ended with {ended:?}"),
        }
    }

    /// After each step.
    #[track_caller]
    fn check(&self) {
        let live = self.model.len();
        assert_eq!(self.registry.count(), live, "the count of workers");
        assert_eq!(self.alive.load(SeqCst), live, "states in memory");
        let mut keys: Vec<u8> = self.registry.to_list().iter().map(|handle| *handle.key()).collect();
        keys.sort_unstable();
        assert_eq!(keys, self.model.keys().copied().collect::<Vec<_>>(), "the listed keys");
    }

    async fn finish(self) -> u64 {
        let live = self.model.len();
        let report = within(self.registry.shutdown(), "the shutdown").await;
        assert_eq!((report.drained, report.aborted, report.stuck), (live, 0, 0), "{report:?}");
        let stats = self.registry.stats();
        assert_eq!(stats.workers(), 0, "{stats:?}");
        assert_eq!(stats.starts.ok, stats.exits.total(), "G9: starts and exits: {stats:?}");
        assert_eq!(stats.exits.total(), self.expected_ends + live as u64, "G9: exits: {stats:?}");
        assert_eq!(stats.handled + stats.undelivered.killed, self.sent, "G6: lost messages: {stats:?}");
        assert_eq!(stats.undelivered.total(), stats.undelivered.killed, "G6: only a kill leaves messages: {stats:?}");
        assert_eq!(self.alive.load(SeqCst), 0, "G10: states are left");
        assert!(self.registry.lookup(&0).is_none() && self.registry.count() == 0, "G10: a worker is left");
        kind((self.options.restart as u8, self.options.limit, self.options.idles, self.seen))
    }
}

/// The first byte has the options, and each two bytes after it an operation.
pub(crate) fn run(data: &[u8]) -> u64 {
    let Some((first, steps)) = data.split_first() else { return 0 };
    let options = Options::read(*first);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let mut run = Run {
            options,
            registry: options.build(),
            alive: Arc::default(),
            model: BTreeMap::new(),
            seen: Default::default(),
            expected_ends: 0,
            sent: 0,
        };
        for step in steps.chunks_exact(2).take(MAX_OPERATIONS) {
            run.step(step[0], step[1]).await;
            run.check();
        }
        run.finish().await
    })
}
