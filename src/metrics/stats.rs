//! [`Stats`]: what a registry has counted, exact, without any recorder.
//!
//! What happens rarely is counted by the owner alone; what happens often, and on many threads, in [`StripedCounters`].

use std::sync::atomic::{AtomicU64, Ordering};

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::{Cause, ExitReason};
use crate::metrics::counters::{HotCounter, StripedCounters, UndeliveredReason};

/// A registry's numbers at one moment, by [`Registry::stats`](crate::Registry::stats).
///
/// The totals count from the making of the registry. They are read one after the other while the registry runs: only at
/// rest do they add up exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Workers whose `init` runs or waits for its turn.
    pub starting: usize,
    /// Of these, and of those that are being restarted: how many wait for their turn (`max_concurrent_starts`).
    pub waiting_for_turn: usize,
    /// Starts that wait for the end of an evicted worker. They are no workers yet.
    pub waiting_for_room: usize,
    /// Workers that may be looked up and are not being restarted.
    pub running: usize,
    /// Workers between two runs: they may be looked up, and their messages wait.
    pub restarting: usize,
    /// Workers whose gate is closed, and which have not exited.
    pub stopping: usize,
    /// How many of all these there may be: `max_workers`.
    pub limit: Option<usize>,
    /// Keys that are gone and remembered: their crashes, and failed starts.
    pub remembered: u64,
    /// Starts by what they came to.
    pub starts: Starts,
    /// Ends of workers, by reason.
    pub exits: Exits,
    /// Restarts by policy, by what they came after.
    pub restarts: Restarts,
    /// Starts by a caller, of a key whose last worker had crashed within the period of `restart_intensity`.
    pub restarts_by_caller: Restarts,
    /// Workers that spent their restarts and were given up.
    pub gave_up: u64,
    /// Panics in tasks of workers: what [`Context::spawn`](crate::Context::spawn) and
    /// [`spawn_blocking`](crate::Context::spawn_blocking) were given, and the closures of intervals and monitors. Their
    /// destructors count too. Each is an error event as well, and the worker goes on.
    pub task_panics: u64,
    /// Looks for a key, by what they found.
    pub lookups: Lookups,
    /// Messages whose handling began.
    pub handled: u64,
    /// Messages whose handling never began, by reason.
    pub undelivered: Undelivered,
    /// Messages in all mailboxes at this moment; above 1,024 workers an estimate, from 1,024 of them.
    pub queued: usize,
    /// Messages in the fullest mailbox; above 1,024 workers the fullest of the same 1,024.
    pub fullest_mailbox: usize,
    /// What the owner has yet to take notice of: requests of callers, and notices of workers.
    pub owner_queue: usize,
}

impl Stats {
    /// Workers in whatever state: what `max_workers` limits.
    pub fn workers(&self) -> usize {
        self.starting + self.running + self.restarting + self.stopping
    }
}

macro_rules! public_totals {
    ($(#[$doc:meta])* $public:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct $public {
            $($(#[$field_doc])* pub $field: u64,)+
        }

        impl $public {
            /// All of them.
            pub fn total(&self) -> u64 {
                0 $(+ self.$field)+
            }

            /// Each with its name, which is the value of a label.
            #[cfg(feature = "metrics")]
            pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),+].into_iter()
            }
        }
    };
}

macro_rules! totals {
    ($(#[$doc:meta])* $public:ident, $counters:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        public_totals! { $(#[$doc])* $public { $($(#[$field_doc])* $field),+ } }

        #[derive(Debug, Default)]
        struct $counters {
            $($field: AtomicU64,)+
        }

        impl $counters {
            fn read(&self) -> $public {
                $public { $($field: self.$field.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

totals! {
    /// Starts by what they came to. Callers who share a start count once; one that met a running worker is none.
    Starts, StartCounters {
        /// `init` returned `Ok`, and the worker ran.
        ok,
        /// `init` returned an error.
        error,
        /// `init` panicked.
        panic,
        /// `init` took too long.
        timeout,
        /// It was stopped, or the registry shut down, before it was ready.
        cancelled,
        /// It was refused without running `init`: no room, a spent budget, a failure remembered.
        rejected,
    }
}

totals! {
    /// Ends of workers by [`ExitReason`]. A run that is followed by another one is none.
    Exits, ExitCounters {
        /// It ended by itself.
        normal,
        /// It was stopped.
        stopped,
        /// It had nothing to do for too long.
        idle,
        /// It had to make room.
        evicted,
        /// The registry was shut down.
        shutdown,
        /// It was killed.
        killed,
        /// It returned an error.
        failed,
        /// It panicked.
        panicked,
        /// It was crashed from outside.
        crashed,
    }
}

totals! {
    /// Restarts by what they came after.
    Restarts, RestartCounters {
        /// An error.
        failed,
        /// A panic.
        panicked,
        /// A crash from outside: [`crash`](crate::WorkerHandle::crash).
        crashed,
        /// An end by itself, under [`Restart::Permanent`](crate::Restart::Permanent).
        normal,
    }
}

public_totals! {
    /// Looks for a key, by what they found: those of [`Registry::lookup`](crate::Registry::lookup), and of every verb and
    /// address that needs the key's worker. A stop is none.
    Lookups {
        /// A running worker.
        hit,
        /// None, or one that starts or ends.
        miss,
    }
}

public_totals! {
    /// Messages whose handling never began, by reason. `full` and, but for what a `run` left and a stop discarded, `closed` are
    /// sends that were refused, and their senders know; so do the senders of all calls. Casts that were accepted are given to
    /// [`Builder::on_undelivered`](crate::Builder::on_undelivered).
    ///
    /// A send through a [`Via`](crate::Via) that finds no worker is a lookup that missed, and is not counted here; one that
    /// meets a worker which ends, and then reaches its successor, is delivered. Nor is what a worker's own timers and
    /// monitors have for it after it began to end.
    Undelivered {
        /// The worker was gone, or on its way out; or its `run` returned with messages left; or a stop discarded what was
        /// queued ([`StopMode::Discard`](crate::StopMode::Discard)).
        closed,
        /// Its mailbox was full; or the sender gave up waiting for room in it.
        full,
        /// It was killed, or went with its runtime.
        killed,
        /// It crashed, and did not come back.
        crashed,
        /// Its stop took longer than `stop_timeout`.
        deadline,
    }
}

/// The registry's own counters. The owner is the only one who writes them, but for one. Starts that came up without it are counted beside
/// these: [`Numbers`](crate::worker::shared::Numbers).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    starts: StartCounters,
    exits: ExitCounters,
    restarts: RestartCounters,
    restarts_by_caller: RestartCounters,
    gave_up: AtomicU64,
    /// The one that not the owner counts, but the tasks.
    task_panics: AtomicU64,
}

/// Adds one where nobody else writes: no locked instruction.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn started(&self) {
        count(&self.starts.ok);
    }

    pub(crate) fn not_started(&self, failure: &StartFailure) {
        count(match failure {
            StartFailure::Init(_) => &self.starts.error,
            StartFailure::Panicked(_) => &self.starts.panic,
            StartFailure::TimedOut => &self.starts.timeout,
            StartFailure::Cancelled | StartFailure::Shutdown | StartFailure::RuntimeShutdown => &self.starts.cancelled,
            StartFailure::AtCapacity
            | StartFailure::RestartLimit { .. }
            | StartFailure::RecentlyFailed(_)
            | StartFailure::WouldDeadlock => &self.starts.rejected,
        });
    }

    pub(crate) fn exited(&self, reason: &ExitReason) {
        count(match reason {
            ExitReason::Normal => &self.exits.normal,
            ExitReason::Stopped => &self.exits.stopped,
            ExitReason::Idle => &self.exits.idle,
            ExitReason::Evicted => &self.exits.evicted,
            ExitReason::Shutdown => &self.exits.shutdown,
            ExitReason::Killed => &self.exits.killed,
            ExitReason::Failed(_) => &self.exits.failed,
            ExitReason::Panicked(_) => &self.exits.panicked,
            ExitReason::Crashed => &self.exits.crashed,
        });
    }

    pub(crate) fn restarted(&self, cause: Cause) {
        count(Self::of(&self.restarts, cause));
    }

    pub(crate) fn restarted_by_caller(&self, cause: Cause) {
        count(Self::of(&self.restarts_by_caller, cause));
    }

    fn of(restarts: &RestartCounters, cause: Cause) -> &AtomicU64 {
        match cause {
            Cause::Failed => &restarts.failed,
            Cause::Panicked => &restarts.panicked,
            Cause::Crashed => &restarts.crashed,
            Cause::Normal => &restarts.normal,
        }
    }

    pub(crate) fn gave_up(&self) {
        count(&self.gave_up);
    }

    pub(crate) fn task_panicked(&self) {
        self.task_panics.fetch_add(1, Ordering::Relaxed);
    }

    /// The totals, with nothing of the present state.
    pub(crate) fn read(&self, hot: &StripedCounters) -> Stats {
        let undelivered = |reason| hot.total(HotCounter::Undelivered(reason));
        Stats {
            lookups: Lookups { hit: hot.total(HotCounter::Hit), miss: hot.total(HotCounter::Miss) },
            handled: hot.total(HotCounter::Handled),
            undelivered: Undelivered {
                closed: undelivered(UndeliveredReason::Closed),
                full: undelivered(UndeliveredReason::Full),
                killed: undelivered(UndeliveredReason::Killed),
                crashed: undelivered(UndeliveredReason::Crashed),
                deadline: undelivered(UndeliveredReason::Deadline),
            },
            starts: self.starts.read(),
            exits: self.exits.read(),
            restarts: self.restarts.read(),
            restarts_by_caller: self.restarts_by_caller.read(),
            gave_up: self.gave_up.load(Ordering::Relaxed),
            task_panics: self.task_panics.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}

/// What waits in the mailboxes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backlog {
    pub(crate) queued: usize,
    pub(crate) fullest: usize,
}
