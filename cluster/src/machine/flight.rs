//! Commits and reads that are not answered yet.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{NodeId, Revision, Shard};
use crate::machine::time::Instant;

/// The name of a commit of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CommitId(pub(crate) u64);

/// What a commit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Config,
    Join,
    Beat,
    MarkLeaving,
    Depart,
    Remove(NodeId),
    Claim,
    Give(Shard),
}

impl Purpose {
    /// Each such commit writes a record. The others only delete, and may find nothing.
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Purpose::Remove(_) | Purpose::Depart)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) purpose: Purpose,
    pub(crate) sent: Instant,
    /// The revision of the map at the sending. That of the commit is greater. (A1)
    pub(crate) map: Revision,
}

/// The commits that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    last: u64,
    /// In the order of their sending.
    pending: BTreeMap<CommitId, Pending>,
}

impl Flight {
    pub(crate) fn send(&mut self, purpose: Purpose, sent: Instant, map: Revision) -> CommitId {
        self.last += 1;
        self.pending.insert(CommitId(self.last), Pending { purpose, sent, map });
        CommitId(self.last)
    }

    /// `None` if the commit has been answered before, or given up.
    pub(crate) fn answer(&mut self, id: CommitId) -> Option<Pending> {
        self.pending.remove(&id)
    }

    pub(crate) fn oldest(&self) -> Option<(CommitId, Pending)> {
        self.pending.first_key_value().map(|(id, pending)| (*id, *pending))
    }

    /// The outcomes of what is pending are of no interest any more.
    pub(crate) fn forget(&mut self) {
        self.pending.clear();
    }
}

/// Whether a commit may be sent, or what must come first. One commit of a kind is in flight at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Gate {
    #[default]
    Open,
    InFlight,
    /// It was done: first the map must have it.
    Revision(Revision),
    /// Its outcome is unknown, or the map was wrong: first this read must be answered.
    Read(u64),
}

/// Reads of the whole map. They are numbered, so that a wait for one is not ended by an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// One is to be sent. With `true`, the watch begins anew.
    wanted: Option<bool>,
    sent: u64,
    in_flight: Option<ReadInFlight>,
    /// The last that was answered.
    answered: u64,
    /// The next is not sent before this moment.
    due: Instant,
    /// When the last one after which a watch begins was sent.
    watched: Instant,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadInFlight {
    sent: Instant,
    watch: bool,
    /// The revision of the map at the sending. The answer is not older. (A1)
    pub(crate) revision: Revision,
}

impl Reads {
    /// Asks for a read and returns its number.
    pub(crate) fn want(&mut self, watch: bool) -> u64 {
        self.wanted = Some(watch || self.wanted == Some(true));
        self.sent + 1
    }

    /// The number of the read that is to be sent now, and whether the watch begins anew.
    pub(crate) fn send(&mut self, now: Instant, revision: Revision) -> Option<(u64, bool)> {
        if self.in_flight.is_some() || now < self.due {
            return None;
        }
        let watch = self.wanted.take()?;
        self.sent += 1;
        if watch {
            self.watched = now;
        }
        self.in_flight = Some(ReadInFlight { sent: now, watch, revision });
        Some((self.sent, watch))
    }

    pub(crate) fn is_answered(&self, read: u64) -> bool {
        read <= self.answered
    }

    /// The read has its answer. `None`: it is an earlier one, which was given up.
    pub(crate) fn answer(&mut self, read: u64) -> Option<ReadInFlight> {
        let in_flight = self.in_flight.take_if(|_| read == self.sent)?;
        self.answered = read;
        Some(in_flight)
    }

    /// Sends the read again after a pause. What waits for its number is served by a later one as well.
    pub(crate) fn fail(&mut self, read: u64, now: Instant, pause: Duration) {
        if let Some(failed) = self.in_flight.take_if(|_| read == self.sent) {
            self.want(failed.watch);
            self.due = now + pause;
        }
    }

    /// The watch has ended. It begins anew, but not more often than this: it may end as soon as it begins.
    pub(crate) fn watch_lost(&mut self, pause: Duration) {
        self.want(true);
        self.due = self.due.max(self.watched + pause);
    }

    pub(crate) fn expire(&mut self, now: Instant, attempt: Duration) {
        if self.in_flight.is_some_and(|read| read.sent + attempt <= now) {
            self.fail(self.sent, now, Duration::ZERO);
        }
    }

    pub(crate) fn wake(&self, attempt: Duration) -> Option<Instant> {
        match self.in_flight {
            Some(read) => Some(read.sent + attempt),
            None => self.wanted.map(|_| self.due),
        }
    }
}
