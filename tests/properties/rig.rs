//! A worker that follows its plan and its messages, and a record of what it did.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gen_registry::{Context, ExitReason, Registry, Reply, Worker};
use tokio::sync::Notify;

use crate::plan::{Act, KEYS, Plan, Step, Terminate};

/// What happened, as recorded by the workers.
#[derive(Default)]
pub(crate) struct Book {
    pages: Mutex<Pages>,
    gates: [Notify; KEYS],
}

#[derive(Default)]
pub(crate) struct Pages {
    /// Live states, from the first poll of `init` to their drop.
    pub(crate) alive: [usize; KEYS],
    pub(crate) most_alive: [usize; KEYS],
    pub(crate) begun: [Vec<usize>; KEYS],
    pub(crate) undelivered: [Vec<usize>; KEYS],
    /// Violations seen by the workers.
    pub(crate) faults: Vec<String>,
}

impl Book {
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open_gate(&self, key: usize) {
        self.gates[key].notify_waiters();
    }
}

/// The arguments of a worker: its plan, and where it records.
#[derive(Clone)]
pub(crate) struct Args {
    pub(crate) plan: Plan,
    pub(crate) book: Arc<Book>,
}

/// Counts one state of one key as alive.
struct Life {
    key: usize,
    book: Arc<Book>,
}

impl Life {
    fn begin(key: usize, book: &Arc<Book>) -> Self {
        let mut pages = book.pages();
        pages.alive[key] += 1;
        pages.most_alive[key] = pages.most_alive[key].max(pages.alive[key]);
        Self { key, book: Arc::clone(book) }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.book.pages().alive[self.key] -= 1;
    }
}

pub(crate) struct Probe {
    args: Args,
    life: Life,
}

pub(crate) struct Message {
    pub(crate) op: usize,
    pub(crate) act: Act,
    pub(crate) reply: Option<Reply<()>>,
}

/// A panic that prints nothing.
fn panic() -> ! {
    std::panic::resume_unwind(Box::new("as planned"))
}

/// Checks from inside a worker that the limit of workers holds. (G11)
fn count_workers(registry: &Registry<Probe>, book: &Book, at: &str) {
    let stats = registry.stats();
    let alive: usize = book.pages().alive.iter().sum();
    let most = stats.limit.unwrap_or(KEYS);
    if stats.workers() > most || alive > most {
        let seen = format!("{} workers by the stats and {alive} by themselves in {at}, of {most}", stats.workers());
        book.pages().faults.push(seen);
    }
}

impl Worker for Probe {
    type Key = usize;
    type Args = Args;
    type Message = Message;
    type Error = &'static str;

    async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        let key = *ctx.key();
        let life = Life::begin(key, &args.book);
        let registry = ctx.registry().upgrade().expect("the test holds the registry");
        count_workers(&registry, &args.book, "init");
        drop(registry);
        match if ctx.incarnation() == 1 { args.plan.init } else { args.plan.restart_init } {
            Step::Go => {}
            Step::Fail => return Err("as planned"),
            Step::Panic => panic(),
            Step::Hang => std::future::pending().await,
            Step::Gate => args.book.gates[key].notified().await,
        }
        Ok(Self { args, life })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Self::Error> {
        let key = *ctx.key();
        self.args.book.pages().begun[key].push(message.op);
        match message.act {
            Act::Go => {}
            Act::Fail => return Err("as planned"),
            Act::Panic => panic(),
            Act::Hang => std::future::pending().await,
            Act::Gate => self.args.book.gates[key].notified().await,
            Act::Stop => ctx.stop(),
        }
        if let Some(reply) = message.reply {
            reply.send(());
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(registry) = ctx.registry().upgrade() {
            count_workers(&registry, &self.args.book, "terminate");
        }
        match self.args.plan.terminate {
            Terminate::Go => {}
            Terminate::Panic => panic(),
            Terminate::Hang => std::future::pending().await,
        }
        drop(self.life);
    }
}
