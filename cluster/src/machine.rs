//! The decisions of a node, as a pure machine: [`Machine::handle`] takes an [`Input`] and the moment at which it arrives, and
//! returns [`Effect`]s and the moment of the next wake-up.
//!
//! The machine knows neither tokio nor etcd, and reads no clock. Its driver hands it what happens and performs the effects
//! in their order. The simulator (`machine/simulator`) replaces the driver, the network, the store and the clocks.
//!
//! # What is in the engine
//!
//! | key | record | written |
//! |---|---|---|
//! | `config` | number of shards, version of the hash, era | by the first join; again when an operator has raised the era |
//! | `m/<node>` | address, weight, version, `up` or `leaving` | by the node's join and leave |
//! | `b/<node>` | nothing: its revision is that of the last *beat* | by the node, once each `beat` |
//! | `s/<nnnnn>` | the owner of the shard, a *claim* | by the owner: it claims the shard, or gives it away |
//!
//! Every change is a *commit*: it is done as a whole if its conditions hold, and not at all otherwise. A commit has a
//! *revision*, greater than all before. No record is bound to a lease, and none expires.
//!
//! # States of a node
//!
//! ```text
//!            a read, the config fits         the join is done
//!  Joining ──────────────────────▶ Joining ──────────────────▶ Member ──────────▶ Ended
//!     ▲                                                          │   all is given,  ▲
//!     │                                                          │   departed       │
//!     │                        the deadline passed, or removed   ▼                  │
//!     └────────── under a new id, once nothing runs ────────── Fenced ──────────────┘
//!                                                                 it was leaving, or is refused
//! ```
//!
//! - **Joining**: the node has no membership. It reads the map, writes or compares the config, and sends its join.
//! - **Member**: it beats, observes the beats of the others, claims, serves and moves shards. It *holds* its shards while its
//!   clock is before its *deadline*.
//! - **Fenced**: its deadline has passed, or it was removed. All its workers are aborted.
//! - **Ended**: it has left, or the cluster refuses it.
//!
//! # States of a shard on a node
//!
//! ```text
//!              the map has it here
//!  Elsewhere ─────────────────────▶ Serving ──────── should be elsewhere ───────▶ Draining
//!   ▲  ▲ ▲                             │                                          │ │  │
//!   │  │ │                             │ fenced, or the map has it elsewhere      │ │  │ ended
//!   │  │ └──────── ended ─────────── Ending ◀───────────────────────────────────────┘  ▼
//!   │  │                             (the same from Draining)                       Drained
//!   │  └────────────────── given: the map has it elsewhere ─────────────────────────┘ │
//!   └────── or given to this node again: Serving, under a new epoch ──────────────────┘
//! ```
//!
//! - **Elsewhere**: nothing of the shard runs here.
//! - **Serving**: messages are routed to workers here.
//! - **Draining**: nothing is routed. The workers handle what was accepted and end. A drain that has passed its timeouts is
//!   *stuck*: it is reported, and gives its lane up.
//! - **Drained**: nothing runs here any more, and the claim is still this node's.
//! - **Ending**: the workers are aborted, and at least one has not ended.
//!
//! # Inputs
//!
//! - From the clock: [`Tick`](Input::Tick), [`Fenced`](Input::Fenced).
//! - From the engine: [`Snapshot`](Input::Snapshot), [`ReadFailed`](Input::ReadFailed), [`Changes`](Input::Changes),
//!   [`WatchLost`](Input::WatchLost), [`Committed`](Input::Committed).
//! - From the workers: [`Ended`](Input::Ended), [`Stuck`](Input::Stuck).
//! - From the program: [`Leave`](Input::Leave), [`Flushed`](Input::Flushed).
//!
//! # Effects
//!
//! - On the engine: [`Read`](Effect::Read), [`Commit`](Effect::Commit).
//! - On the routing and the workers: [`Valid`](Effect::Valid), [`Open`](Effect::Open), [`Drain`](Effect::Drain),
//!   [`Abort`](Effect::Abort), [`Fence`](Effect::Fence), [`Overdue`](Effect::Overdue).
//! - On the program: [`Flush`](Effect::Flush), [`Report`](Effect::Report), [`End`](Effect::End).
//!
//! # Rules
//!
//! 1. **An id is used once.** A membership has an id of its own: the random number of its process, and a count. A join is
//!    sent once under each id. If its outcome is unknown, the map is read; if the map does not have it, the id is given up.
//!    A membership with a smaller count of the same process runs nothing: the join of the next one deletes it, and a join
//!    that is done later is removed at once.
//! 2. **A condition that has failed never holds again.** Each commit names the revisions of the records that it relies on, and
//!    no revision occurs twice. A claim that exists is never deleted, and rule 1 covers the absence of a member. So a commit
//!    may be done late, twice or never: it changes only what is as its sender knew it.
//! 3. **The deadline is counted from the sending.** A beat is a commit on the condition that the node's record is as the
//!    node wrote it. If it is done, the deadline is the moment of its sending and `valid`. The join and the mark of a leave
//!    are beats too. No other outcome extends the deadline.
//! 4. **The clock is looked at first.** Whatever the input says, a member whose deadline has passed is fenced before it is
//!    looked at. So is a member whose beat fails its condition, or whose record is deleted. Routing does not wait for the
//!    machine: it compares the clock with the last [`Valid`](Effect::Valid). A fenced node routes nothing, aborts its workers,
//!    and joins again under a new id once all have ended. If some have not at the deadline and half of `take - valid`, it
//!    reports [`Overdue`](Effect::Overdue).
//! 5. **A member is removed by the clock of its observer.** An observer notes when it sees a new beat. Once that is `take`
//!    ago, it deletes the member on the condition that this is still the last beat. An observer that sees late waits longer.
//!    After a conflict it waits for the next change of the map.
//! 6. **Only vacant shards are claimed.** A shard is vacant if it has no claim, or its owner is no member. The node that
//!    should own it claims it at once, on the condition that the node is a member as it knows itself, that the owner is
//!    still none, and that the claim is the one it saw. One commit claims up to a batch. If it conflicts, the map is read,
//!    and the next commit claims a quarter as many, down to one; each success makes it four times as many again.
//! 7. **The epoch is the revision of the claim**, below the era: the commit that made this node the owner, whether the node
//!    claimed the shard or was given it.
//! 8. **The map alone makes an owner.** A shard is this node's exactly while the map has it with the id of its membership. The
//!    outcome of a claim or of a gift opens nothing. If the map has another owner or another epoch, what runs here is
//!    aborted, whatever the clock says, and nothing of the shard opens before it has ended.
//! 9. **A move is: route nothing, drain, ended, one commit.** The gift is sent after [`Ended`](Input::Ended), on the condition
//!    that the claim is the one that was served and that the target is a member as the map shows it. If the target changes,
//!    the next one is chosen. If that is this node itself, it gives the shard to itself: it opens again only under a new
//!    epoch, because an earlier gift of unknown outcome may yet be done under the old one. A stuck shard stays with its
//!    owner until it has ended.
//! 10. **Shards with an owner move rarely.** Owners are chosen by rendezvous hashing over the addresses of the members of the
//!     newest version that are up. A shard that has an owner moves only if its owner leaves, or if the members that own shards
//!     have been the same for `settle` and are of one version. It moves only to a member whose last beat is recent. At most `lanes` move at
//!     a time; a stuck one does not count.
//! 11. **A leaving node is given nothing.** It marks its record, which breaks the conditions of gifts to it and of its own
//!     claims. Once the map shows the mark, it gives all shards away: a node that is given one has seen the mark too, and does
//!     not give it back. It departs once the map shows the mark and no shard is left, and answers are
//!     flushed. Shards that no member could take stay claimed by a node that is no member: they are vacant.
//! 12. **A config holds for a membership.** Joins, claims and gifts are on the condition that the config is the one that was
//!     compared. A member that sees another one is fenced and ends.
//! 13. **What is unknown is read.** After an unknown outcome the machine waits for a read that was sent afterwards, and decides
//!     again by the map. A map that lags behind the node's own commits for a `beat` is read, and its watch begins anew. An
//!     answer that is older than the map at the time of the question breaks A1: the engine was restored, and the node ends.
//!     A record that is written at a revision which the map has seen is such an answer.
//!
//! Rendezvous hashing is over addresses and not over ids: a node that was fenced, or whose process was replaced, is given
//! what it had. A deploy in place then moves each shard at most twice.
//!
//! # Proof
//!
//! **C2, under A1.** Each ownership of a shard begins with one commit that puts its claim: by rule 6 or by rule 9. By rule 7
//! its epoch is the revision of that commit, and by A1 a later commit has a greater one. By rule 8 a node opens a shard only
//! when the map has such a commit for its id, with this revision, and it opens it once: it opens a drained shard only under
//! another epoch, and an ended one under the same epoch is excluded because the only ways to `Ending` are a fence, after
//! which the id is another, and a map that has moved on. No clock is in this argument.
//!
//! **C1, under A1 to A3.** Let a node hold a shard by the commit with revision e, and let another open it, by a commit with
//! revision f > e. Take the first commit after e that changes the claim. It is one of two:
//!
//! - *The holder's gift* (rule 9). It was sent after the last worker had ended, and the holder opens the shard again only by
//!   another commit. A gift that is done late has the condition that the claim is at e, so it is the first change, and the
//!   workers under e had ended before it was sent.
//! - *A claim* (rule 6). Its condition is that the holder is no member. By rule 1 it never is again under this id, so its
//!   last committed beat, with revision r, precedes the removal. The removal was sent by an observer that had seen r at o
//!   (rule 5), and its condition is that r is the last beat. Let r be sent at s ≤ o. The deadline is at most s + `valid` by
//!   the holder's clock (rule 3; a later beat was not done, because the record which it needs is deleted). The removal is
//!   sent at o + `take` by the observer's clock at the earliest. By A2 the first is before the second with half of
//!   `take - valid` to spare, and by A3 the workers end in that time, since the fence is due at the deadline (rule 4). A holder
//!   that departed had ended all (rule 11). One that joined again had ended all, too (rule 4).
//!
//! Within one node workers do not overlap by rule 8.
//!
//! **Fail-over.** A member that stops beating is removed at the latest `take` after its last beat was seen, by each observer
//! that is a member. Its shards are vacant from this commit on, and each has one node that should own it, by the same
//! function of the same map. A claim conflicts only with a map that lags, and is sent again after a read.

pub(crate) mod effect;
mod flight;
mod follow;
pub(crate) mod input;
mod map;
mod membership;
mod mutation;
mod observe;
mod place;
mod query;
pub(crate) mod record;
pub(crate) mod settings;
mod shards;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
pub(crate) mod time;
pub(crate) mod wire;

use std::collections::BTreeSet;

use crate::events::ClusterEvent;
use crate::id::{NodeId, Revision, Shard};
pub(crate) use crate::machine::effect::{Effect, End, Outputs, Refusal};
pub(crate) use crate::machine::flight::CommitId;
use crate::machine::flight::{Flight, Gate, Pending, Purpose, Reads};
pub(crate) use crate::machine::input::{Change, Entry, Input, Outcome};
use crate::machine::map::Map;
use crate::machine::membership::{Leave, Own};
use crate::machine::mutation::Mutation;
use crate::machine::place::Heir;
pub(crate) use crate::machine::record::{Condition, Key, Write};
pub(crate) use crate::machine::settings::{Settings, SettingsError};
use crate::machine::shards::Local;
pub(crate) use crate::machine::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Member,
    /// Waits until nothing runs any more. If something does at `overdue`, the operator's policy decides.
    Fenced {
        overdue: Option<Instant>,
    },
    Ended,
}

/// The decisions of a node. See the [module](self).
#[derive(Debug)]
pub(crate) struct Machine {
    settings: Settings,
    /// Of the present membership, or of the next.
    id: NodeId,
    /// The last membership of this process that was fenced.
    earlier: Option<NodeId>,
    phase: Phase,
    after_fence: Option<End>,
    leave: Option<Leave>,
    /// The moment of the input in hand. It never goes back.
    now: Instant,
    /// The node holds its shards before this moment. (rule 3)
    deadline: Instant,
    map: Map,
    own: Own,
    flight: Flight,
    reads: Reads,
    /// The highest revision of a commit of this node, and since when the map has lagged behind it.
    known: Revision,
    behind: Option<Instant>,
    heirs: Vec<Heir>,
    heirs_changed: bool,
    is_mixed: bool,
    /// When this node has last seen a change of the members that own shards.
    quiet_since: Instant,
    /// By the number of the shard: its owner, if the present members were all there ever are.
    desired: Vec<Option<NodeId>>,
    local: Vec<Local>,
    /// The number of shards of which workers may run here.
    lives: usize,
    /// Vacant, and should be this node's.
    claimable: BTreeSet<Shard>,
    /// Served here, and should be elsewhere.
    movable: BTreeSet<Shard>,
    /// Draining or drained.
    moving: BTreeSet<Shard>,
    claiming: Gate,
    /// The size of the next batch of claims.
    most_claims: usize,
    effects: Vec<Effect>,
    #[cfg(test)]
    mutation: Option<Mutation>,
}

impl Machine {
    /// A node that joins. `process` must be drawn at random. The first input is a [`Tick`](Input::Tick).
    ///
    /// # Errors
    ///
    /// The settings cannot work.
    pub(crate) fn new(settings: Settings, process: u64, now: Instant) -> Result<Machine, SettingsError> {
        settings.check()?;
        let mut reads = Reads::default();
        let own = Own { gate: Gate::Read(reads.want(true)), ..Own::default() };
        let shards = settings.shards;
        Ok(Machine {
            id: NodeId::first(process),
            earlier: None,
            phase: Phase::Joining,
            after_fence: None,
            leave: None,
            now,
            deadline: Instant::default(),
            map: Map::new(shards),
            own,
            flight: Flight::default(),
            reads,
            known: Revision(0),
            behind: None,
            heirs: Vec::new(),
            heirs_changed: false,
            is_mixed: false,
            quiet_since: now,
            desired: vec![None; usize::from(shards)],
            local: vec![Local::Elsewhere; usize::from(shards)],
            lives: 0,
            claimable: BTreeSet::new(),
            movable: BTreeSet::new(),
            moving: BTreeSet::new(),
            claiming: Gate::Open,
            most_claims: settings.batch,
            effects: Vec::new(),
            settings,
            #[cfg(test)]
            mutation: None,
        })
    }

    /// Decides what follows from an input. Time never goes back: an earlier moment counts as the last one.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Outputs {
        self.now = self.now.max(now);
        if self.phase == Phase::Ended {
            return Outputs { effects: Vec::new(), wake: None };
        }
        // First of all, whatever the input says. (rule 4)
        if self.phase == Phase::Member && self.deadline <= self.now {
            self.fence(None);
        }
        self.take(input);
        self.advance();
        Outputs { effects: std::mem::take(&mut self.effects), wake: self.wake() }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Snapshot { read, revision, entries } => self.snapshot(read, revision, entries),
            Input::ReadFailed { read } => {
                self.reads.fail(read, self.now, self.settings.beat / 4);
                self.note_silence(true);
            }
            Input::Changes { revision, changes } => self.changes(revision, changes),
            Input::WatchLost => self.reads.watch_lost(self.settings.beat / 4),
            Input::Committed { id, outcome } => {
                if let Some(pending) = self.flight.answer(id) {
                    self.outcome(pending, outcome);
                }
            }
            Input::Ended { shard, epoch, workers } => self.ended(shard, epoch, workers),
            Input::Stuck { shard, epoch } => self.stuck(shard, epoch),
            Input::Leave => self.begin_leave(),
            Input::Flushed => self.flushed(),
            Input::Fenced if self.phase == Phase::Member => self.fence(None),
            Input::Fenced => {}
        }
    }

    /// Does what is due. Each step looks at the state alone, so that an input which is lost is made up for by the next.
    fn advance(&mut self) {
        while let Some((id, pending)) = self.flight.oldest()
            && pending.sent + self.settings.attempt <= self.now
        {
            self.flight.answer(id);
            self.outcome(pending, Outcome::Unknown);
        }
        self.reads.expire(self.now, self.settings.attempt);
        self.check_lag();
        self.choose_owners();
        self.advance_own();
        self.advance_fence();
        self.choose_owners();
        self.observe();
        self.begin_moves();
        self.give();
        self.claim();
        self.advance_flush();
        if self.phase != Phase::Ended
            && let Some((read, watch)) = self.reads.send(self.now, self.map.revision)
        {
            self.emit(Effect::Read { read, watch });
        }
    }

    fn outcome(&mut self, pending: Pending, outcome: Outcome) {
        if matches!(outcome, Outcome::Done(revision) if pending.purpose.writes() && revision <= pending.map) {
            return self.stop(End::Refused(Refusal::EngineWentBack)); // A1 does not hold (rule 13)
        }
        if let Outcome::Done(revision) = outcome
            && revision > self.known
        {
            self.known = revision;
            self.behind = self.behind.or(Some(self.now));
        }
        match pending.purpose {
            Purpose::Remove(node) => self.removal_outcome(node, outcome),
            Purpose::Claim => self.claim_outcome(outcome),
            Purpose::Give(shard) => self.gift_outcome(shard, outcome),
            _ => self.own_outcome(pending, outcome),
        }
    }

    fn is_open(&self, gate: Gate) -> bool {
        match gate {
            Gate::Open => true,
            Gate::InFlight => false,
            Gate::Revision(revision) => self.map.revision >= revision,
            Gate::Read(read) => self.reads.is_answered(read),
        }
    }

    fn wake(&self) -> Option<Instant> {
        let attempt = self.settings.attempt;
        let lag = self.behind.map(|since| since + self.settings.beat);
        let own = self.is_open(self.own.gate).then_some(self.own.due);
        let of_phase = match self.phase {
            Phase::Joining => [own, None, None, None],
            Phase::Member => [own, Some(self.deadline), self.observe_wake(), self.moves_due()],
            Phase::Fenced { overdue } => [overdue, None, None, None],
            Phase::Ended => return None,
        };
        let answer = self.flight.oldest().map(|(_, pending)| pending.sent + attempt);
        of_phase.into_iter().chain([answer, self.reads.wake(attempt), lag]).flatten().min()
    }

    fn commit(&mut self, purpose: Purpose, when: Vec<Condition>, then: Vec<Write>) {
        let id = self.flight.send(purpose, self.now, self.map.revision);
        self.emit(Effect::Commit { id, when, then });
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn report(&mut self, event: ClusterEvent) {
        self.emit(Effect::Report(event));
    }

    #[cfg(test)]
    fn is_mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the question is the same in tests")]
    fn is_mutated(&self, _: Mutation) -> bool {
        false
    }
}
