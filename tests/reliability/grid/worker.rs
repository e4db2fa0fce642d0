//! The worker of the grid: each of its methods has a [`Fault`].

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Reply, Worker, WorkerHandle};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::ledger::Note;

/// What a method of the worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Ok,
    Error,
    Panic,
    /// Returns within its timeout.
    Slow,
    /// Never returns, but can be dropped.
    Hang,
    /// Never yields, until it is released.
    Spins,
    /// Blocks its thread, until it is released.
    Blocks,
}

impl Fault {
    /// The faults that leave the thread free.
    pub(crate) const YIELDING: [Self; 5] = [Self::Ok, Self::Error, Self::Panic, Self::Slow, Self::Hang];
    pub(crate) const BLOCKING: [Self; 2] = [Self::Spins, Self::Blocks];

    async fn occur(self, book: &Book) -> Result<(), Failure> {
        match self {
            Self::Ok => Ok(()),
            Self::Error => Err(Failure),
            // Like `panic!`, but prints nothing.
            Self::Panic => resume_unwind(Box::new("a scripted panic")),
            Self::Slow => {
                sleep(Duration::from_secs(1)).await;
                Ok(())
            }
            Self::Hang => pending().await,
            Self::Spins => {
                while !*lock(&book.is_released) {
                    // Leaves the processor to the other cells, and the thread to nothing else.
                    std::thread::sleep(Duration::from_micros(100));
                }
                Ok(())
            }
            Self::Blocks => {
                let released = book.released.wait_while(lock(&book.is_released), |is_released| !*is_released);
                drop(released.expect("no code panics while holding the lock"));
                Ok(())
            }
        }
    }
}

/// The error of [`Fault::Error`].
#[derive(Debug)]
pub(crate) struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scripted failure")
    }
}

impl Error for Failure {}

/// A point that a worker reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first `init`.
    Init,
    /// An `init` of a later run.
    Restart,
    /// The handling of the message with the fault.
    Handle,
    Terminate,
}

/// What the workers of a cell did.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) live: usize,
    pub(crate) most_live: usize,
    pub(crate) handle: Option<WorkerHandle<Faulty>>,
    /// How often each phase was reached.
    reached: [u64; 4],
}

impl Record {
    pub(crate) fn times(&self, phase: Phase) -> u64 {
        self.reached[phase as usize]
    }
}

#[derive(Default)]
pub(crate) struct Book {
    record: Mutex<Record>,
    changed: Notify,
    is_released: Mutex<bool>,
    released: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while holding the lock")
}

impl Book {
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    fn reach(&self, phase: Phase) {
        self.record().reached[phase as usize] += 1;
        self.changed.notify_waiters();
    }

    /// Waits until a worker has reached the phase.
    pub(crate) async fn reached(&self, phase: Phase) {
        loop {
            let changed = self.changed.notified();
            if self.record().times(phase) > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Ends each [`Fault::Spins`] and [`Fault::Blocks`], those to come too.
    pub(crate) fn release(&self) {
        *lock(&self.is_released) = true;
        self.released.notify_all();
    }
}

/// Counts a worker as alive, from the first poll of `init` to the drop of its state.
struct Life(Arc<Book>);

impl Life {
    fn begin(book: &Arc<Book>) -> Self {
        let mut record = book.record();
        record.live += 1;
        record.most_live = record.most_live.max(record.live);
        drop(record);
        Self(Arc::clone(book))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.record().live -= 1;
    }
}

/// What the methods of a worker do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) init: Fault,
    pub(crate) restart: Fault,
    pub(crate) handle: Fault,
    pub(crate) terminate: Fault,
}

impl Faults {
    pub(crate) const NONE: Self = Self { init: Fault::Ok, restart: Fault::Ok, handle: Fault::Ok, terminate: Fault::Ok };
}

#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) book: Arc<Book>,
    pub(crate) faults: Faults,
}

pub(crate) enum Ask {
    /// Has the fault of `handle`.
    Fault(Note),
    Note(Note),
    Value(Note, Reply<u32>),
}

impl Ask {
    pub(crate) fn note(&self) -> &Note {
        match self {
            Self::Fault(note) | Self::Note(note) | Self::Value(note, _) => note,
        }
    }
}

pub(crate) struct Faulty {
    plan: Plan,
    _life: Life,
}

impl Worker for Faulty {
    type Key = u32;
    type Args = Plan;
    type Message = Ask;
    type Error = Failure;

    async fn init(plan: Plan, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        let life = Life::begin(&plan.book);
        plan.book.record().handle = Some(ctx.handle().clone());
        let (phase, fault) = match (ctx.incarnation(), plan.faults.restart) {
            (1, _) => (Phase::Init, plan.faults.init),
            // These would not exhaust the restart budget.
            (3.., Fault::Slow | Fault::Hang) => (Phase::Restart, Fault::Ok),
            (_, restart) => (Phase::Restart, restart),
        };
        plan.book.reach(phase);
        fault.occur(&plan.book).await?;
        Ok(Self { plan, _life: life })
    }

    async fn handle(&mut self, ask: Ask, _: &mut Context<Self>) -> Result<(), Failure> {
        ask.note().begin();
        match ask {
            Ask::Fault(_) => {
                self.plan.book.reach(Phase::Handle);
                self.plan.faults.handle.occur(&self.plan.book).await?;
            }
            Ask::Note(_) => {}
            Ask::Value(_, reply) => reply.send(7),
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        self.plan.book.reach(Phase::Terminate);
        // `terminate` has no error, and no cell gives it one.
        let _ = self.plan.faults.terminate.occur(&self.plan.book).await;
    }
}
