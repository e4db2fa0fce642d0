//! [`Stats`]: the exact counts of a registry, independent of any recorder.
//!
//! The owner counts rare events in [`Counters`]. Frequent events, which happen on many threads, are counted in
//! [`StripedCounters`].

use std::sync::atomic::{AtomicU64, Ordering};

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::{Cause, ExitReason};
use crate::metrics::counters::{HotCounter, StripedCounters, UndeliveredReason};

/// The state and the totals of a registry, by [`Registry::stats`](crate::Registry::stats).
///
/// The totals count from the creation of the registry. They are read one after the other while the registry runs, so
/// they add up exactly only while it is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Workers whose first `init` runs, or waits for a permit.
    pub starting: usize,
    /// Workers that wait for a permit (`max_concurrent_starts`), among those that start and those that restart.
    pub waiting_for_turn: usize,
    /// Starts that wait for the exit of an evicted worker. They do not count as workers.
    pub waiting_for_room: usize,
    /// Workers that a lookup finds and that are not restarting.
    pub running: usize,
    /// Workers between two runs: a lookup finds them, and their messages wait.
    pub restarting: usize,
    /// Workers that accept no more messages and have not exited.
    pub stopping: usize,
    /// The limit of workers in all states: `max_workers`.
    pub limit: Option<usize>,
    /// Keys without a worker whose crash history or failed start is remembered.
    pub remembered: u64,
    /// Completed starts, by outcome.
    pub starts: Starts,
    /// Exits of workers, by reason.
    pub exits: Exits,
    /// Restarts by the policy, by what ended the run before.
    pub restarts: Restarts,
    /// Starts by a caller of a key whose last worker had crashed within the period of `restart_intensity`, by what
    /// ended the run before.
    pub restarts_by_caller: Restarts,
    /// Workers that were not restarted because they had spent their restart budget.
    pub gave_up: u64,
    /// Panics in tasks of workers: in futures and closures of [`Context::spawn`](crate::Context::spawn) and
    /// [`spawn_blocking`](crate::Context::spawn_blocking), in closures of intervals and monitors, and in the
    /// destructors of all these. Each also emits an error event, and the worker continues.
    pub task_panics: u64,
    /// Lookups of a key, by result.
    pub lookups: Lookups,
    /// Messages whose handling began.
    pub handled: u64,
    /// Messages whose handling never began, by reason.
    pub undelivered: Undelivered,
    /// Messages in all mailboxes. Above 1,024 workers an estimate from a sample of 1,024.
    pub queued: usize,
    /// Messages in the fullest mailbox. Above 1,024 workers the fullest of the same sample.
    pub fullest_mailbox: usize,
    /// Requests of callers and notices of workers that the owner has not processed yet.
    pub owner_queue: usize,
}

impl Stats {
    /// Workers in all states: the number that `max_workers` limits.
    pub fn workers(&self) -> usize {
        self.starting + self.running + self.restarting + self.stopping
    }

    /// Adds the state and the totals of another registry. Not its limit.
    pub(crate) fn add(&mut self, other: &Self) {
        self.starting += other.starting;
        self.waiting_for_turn += other.waiting_for_turn;
        self.waiting_for_room += other.waiting_for_room;
        self.running += other.running;
        self.restarting += other.restarting;
        self.stopping += other.stopping;
        self.remembered += other.remembered;
        self.queued += other.queued;
        self.fullest_mailbox = self.fullest_mailbox.max(other.fullest_mailbox);
        self.owner_queue += other.owner_queue;
        self.add_totals(other);
    }

    /// Adds the totals of another registry, without its state.
    pub(crate) fn add_totals(&mut self, other: &Self) {
        self.starts.add(&other.starts);
        self.exits.add(&other.exits);
        self.restarts.add(&other.restarts);
        self.restarts_by_caller.add(&other.restarts_by_caller);
        self.lookups.add(&other.lookups);
        self.undelivered.add(&other.undelivered);
        self.gave_up += other.gave_up;
        self.task_panics += other.task_panics;
        self.handled += other.handled;
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
            /// The sum of all fields.
            pub fn total(&self) -> u64 {
                0 $(+ self.$field)+
            }

            fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
            }

            /// Each field with its name, which is the value of a label.
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
    /// Completed starts, by outcome. A start that several callers share counts once. A call that finds a running worker
    /// does not count.
    Starts, StartCounters {
        /// `init` returned `Ok`, and the worker ran.
        ok,
        /// `init` returned an error.
        error,
        /// `init` panicked.
        panic,
        /// `init` took too long.
        timeout,
        /// The worker was stopped, or the registry shut down, before the worker was ready.
        cancelled,
        /// The start was refused without running `init`: the registry was at its limit, the restart budget was spent,
        /// or a recent failure is remembered.
        rejected,
    }
}

totals! {
    /// Exits of workers, by [`ExitReason`]. The end of a run before a restart does not count.
    Exits, ExitCounters {
        /// The worker ended by itself.
        normal,
        /// It was stopped.
        stopped,
        /// It was idle for longer than its idle timeout.
        idle,
        /// It was evicted to make room.
        evicted,
        /// The registry was shut down.
        shutdown,
        /// It was killed.
        killed,
        /// It returned an error.
        failed,
        /// It panicked.
        panicked,
        /// A caller crashed it.
        crashed,
    }
}

totals! {
    /// Restarts, by what ended the run before.
    Restarts, RestartCounters {
        /// An error.
        failed,
        /// A panic.
        panicked,
        /// A crash by a caller: [`crash`](crate::WorkerHandle::crash).
        crashed,
        /// A normal end, under [`Restart::Permanent`](crate::Restart::Permanent).
        normal,
    }
}

public_totals! {
    /// Lookups of a key, by result: those of [`Registry::lookup`](crate::Registry::lookup), and those of every verb and
    /// address that needs the worker of the key. Stops do not count.
    Lookups {
        /// A running worker was found.
        hit,
        /// No worker was found, or one that was starting or stopping.
        miss,
    }
}

public_totals! {
    /// Messages whose handling never began, by reason.
    ///
    /// `full` and `closed` are refused sends, whose senders get an error; `closed` also counts accepted messages that a
    /// `run` left or a stop discarded. The senders of calls always get an error. Accepted casts go to
    /// [`Builder::on_undelivered`](crate::Builder::on_undelivered).
    ///
    /// Not counted: a send through a [`Via`](crate::Via) that finds no worker (it is a lookup that missed); a send that
    /// meets a stopping worker and then reaches its successor (it is delivered); messages of a worker's own timers and
    /// monitors after the worker began to stop.
    Undelivered {
        /// The worker had exited or was stopping; or its `run` returned with messages left; or a stop discarded its
        /// mailbox ([`StopMode::Discard`](crate::StopMode::Discard)).
        closed,
        /// Its mailbox was full, or the sender gave up waiting for room in it.
        full,
        /// It was killed, or ended with its runtime.
        killed,
        /// It crashed, and was not restarted.
        crashed,
        /// Its stop took longer than `stop_timeout`.
        deadline,
    }
}

/// The counters of rare events. Only the owner writes them, and after it the workers that it has left; except for
/// `task_panics`. Delegated starts that succeed are
/// counted in [`Numbers`](crate::worker::shared::Numbers) instead.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    starts: StartCounters,
    exits: ExitCounters,
    restarts: RestartCounters,
    restarts_by_caller: RestartCounters,
    gave_up: AtomicU64,
    /// Counted by the workers' tasks.
    task_panics: AtomicU64,
}

/// Adds one to a counter that only the owner writes, without a locked instruction.
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
            | StartFailure::WouldDeadlock
            | StartFailure::Refused => &self.starts.rejected,
        });
    }

    pub(crate) fn exited(&self, reason: &ExitReason) {
        count(self.of_exit(reason));
    }

    /// Counts an exit after the owner was dropped. Several workers may do so at the same time.
    pub(crate) fn exited_without_owner(&self, reason: &ExitReason) {
        self.of_exit(reason).fetch_add(1, Ordering::Relaxed);
    }

    fn of_exit(&self, reason: &ExitReason) -> &AtomicU64 {
        match reason {
            ExitReason::Normal => &self.exits.normal,
            ExitReason::Stopped => &self.exits.stopped,
            ExitReason::Idle => &self.exits.idle,
            ExitReason::Evicted => &self.exits.evicted,
            ExitReason::Shutdown => &self.exits.shutdown,
            ExitReason::Killed => &self.exits.killed,
            ExitReason::Failed(_) => &self.exits.failed,
            ExitReason::Panicked(_) => &self.exits.panicked,
            ExitReason::Crashed => &self.exits.crashed,
        }
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

    /// The totals only. The caller adds the present state.
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

/// How many mailboxes are read to count the messages in all of them.
pub(crate) const BACKLOG_SAMPLE: usize = 1_024;

/// The messages that wait in mailboxes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backlog {
    pub(crate) queued: usize,
    pub(crate) fullest: usize,
}
