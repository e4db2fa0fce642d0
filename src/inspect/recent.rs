//! [`RecentEvent`]: a crash, or something else that an operator may have to know.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::inspect::WorkerRef;
use crate::lifecycle::exit::ExitReason;

/// Something that happened in a registry lately. Its `Debug` does not have the key.
#[derive(Clone)]
#[non_exhaustive]
pub struct RecentEvent {
    /// The event's number. The events of a registry are numbered from 1, without gaps.
    pub number: u64,
    /// When it happened.
    pub at: SystemTime,
    /// The worker, if it is about one.
    pub worker: Option<WorkerRef>,
    /// The text of the worker's key.
    pub key: Option<String>,
    /// The worker's run.
    pub incarnation: u64,
    /// What happened.
    pub kind: RecentKind,
}

impl fmt::Debug for RecentEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentEvent")
            .field("number", &self.number)
            .field("worker", &self.worker)
            .field("incarnation", &self.incarnation)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RecentKind {
    /// A run crashed.
    Crashed {
        /// How.
        reason: ExitReason,
    },
    /// The worker was restarted, and its new run is ready.
    Restarted,
    /// The worker does not restart: it has used up its restarts.
    GaveUp {
        /// How its last run ended.
        reason: ExitReason,
    },
    /// A start failed.
    StartFailed {
        /// Why: an error or a panic of `init`, or that it did not return in time.
        reason: ExitReason,
    },
    /// The worker was evicted to make room. Recorded at most once a second.
    Evicted {
        /// How many others were evicted since the last event of this kind.
        others: u64,
    },
    /// The worker was aborted, but runs code that does not yield. Its key stays taken.
    Stuck,
    /// The handling of a message took longer than [`Inspector::slow_after`](crate::inspect::Inspector::slow_after), and
    /// may not be complete.
    Slow {
        /// How long it took so far.
        lasted: Duration,
        /// Whether it was in progress when the event was recorded.
        is_in_hand: bool,
    },
    /// The mailbox was full: it refused messages, or senders waited for room in it. Recorded at most once in ten
    /// seconds for a worker.
    MailboxFull {
        /// How many messages were undelivered for it so far.
        undelivered: u64,
    },
    /// Starts wait, because the registry is at a limit.
    StartsWait {
        /// For a permit of [`max_concurrent_starts`](crate::Builder::max_concurrent_starts).
        for_turn: usize,
        /// For the exit of an evicted worker.
        for_room: usize,
    },
}

impl RecentKind {
    /// A short name, for a label or a filter.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Crashed { .. } => "crashed",
            Self::Restarted => "restarted",
            Self::GaveUp { .. } => "gave_up",
            Self::StartFailed { .. } => "start_failed",
            Self::Evicted { .. } => "evicted",
            Self::Stuck => "stuck",
            Self::Slow { .. } => "slow",
            Self::MailboxFull { .. } => "mailbox_full",
            Self::StartsWait { .. } => "starts_wait",
        }
    }
}

/// One line of text.
impl fmt::Display for RecentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed { reason } => reason.fmt(f),
            Self::Restarted => f.write_str("restarted"),
            Self::GaveUp { reason } => write!(f, "used up its restarts; {reason}"),
            Self::StartFailed { reason } => write!(f, "did not start: {reason}"),
            Self::Evicted { others: 0 } => f.write_str("evicted to make room"),
            Self::Evicted { others } => write!(f, "evicted to make room, after {others} others"),
            Self::Stuck => f.write_str("aborted, but does not yield"),
            Self::Slow { lasted, is_in_hand: true } => write!(f, "a message is in hand for {lasted:?}"),
            Self::Slow { lasted, is_in_hand: false } => write!(f, "a message was in hand for {lasted:?}"),
            Self::MailboxFull { undelivered } => write!(f, "its mailbox was full; {undelivered} messages undelivered"),
            Self::StartsWait { for_turn, for_room } => {
                write!(f, "{} starts wait: {for_turn} for a permit, {for_room} for room", for_turn + for_room)
            }
        }
    }
}
