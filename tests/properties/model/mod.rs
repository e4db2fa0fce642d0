//! The reference model: what a registry does, as simply as possible. Callers, owner and workers are one sequential
//! piece of code, without tasks, queues between them, or locks.
//!
//! For each step, it predicts what each caller gets, which messages begin and which do not, what is counted, and which
//! events are emitted. It follows the documentation, not the code: where the two differ, one of them is wrong.
//!
//! If two timers fire in the same millisecond, the result may depend on their order, and the victim of an eviction may
//! depend on more than the documentation promises. Such a step is `ambiguous` and is not generated.

mod time;
mod worker;

use std::collections::VecDeque;
use std::fmt;

use crate::plan::{
    End, Eviction, FAILED_FOR, INIT_TIMEOUT, KEYS, Options, Outcome, PERIOD, Plan, Policy, Reason, Reported,
    STOP_TIMEOUT, Send, Target, Todo, Transition, Verb,
};

pub(crate) use self::worker::{Doing, Entry};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// ok, error, panic, timeout, cancelled, rejected.
    pub(crate) starts: [u64; 6],
    /// By `Reason`.
    pub(crate) exits: [u64; 9],
    /// failed, panicked, crashed, normal.
    pub(crate) restarts: [u64; 4],
    pub(crate) restarts_by_caller: [u64; 4],
    pub(crate) gave_up: u64,
}

pub(crate) const OK: usize = 0;
pub(crate) const ERROR: usize = 1;
pub(crate) const PANIC: usize = 2;
pub(crate) const TIMEOUT: usize = 3;
pub(crate) const CANCELLED: usize = 4;
pub(crate) const REJECTED: usize = 5;

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Start { verb: Verb, plan: Plan },
    Send { send: Send, act: crate::plan::Act },
    Other,
}

/// An operation of a caller.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) key: usize,
    pub(crate) what: What,
    /// The caller is dropped after this many more polls.
    pub(crate) polls: Option<u8>,
    /// `None` while it waits.
    pub(crate) outcome: Option<Outcome>,
}

/// What is remembered of a key without a worker.
#[derive(Debug, Clone, Default)]
struct KeyHistory {
    history: Vec<u64>,
    crash: Option<(u64, Reason)>,
    gave_up_at: Option<u64>,
    failed_at: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Key {
    pub(crate) entry: Option<Entry>,
    trace: KeyHistory,
    /// The worker that the last lookup found.
    pub(crate) last: Option<usize>,
    /// Messages by the number of their operation, in the order in which they began, or were undelivered.
    pub(crate) begun: Vec<usize>,
    pub(crate) undelivered: Vec<usize>,
    pub(crate) reported: Vec<Reported>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Report {
    drained: usize,
    crashed: usize,
    aborted: usize,
    cancelled: usize,
}

#[derive(Debug, Clone)]
enum Mode {
    Serving,
    Ending { report: Report, due: Option<u64>, waiting: Vec<usize> },
    Over(Outcome),
}

/// What a worker's task does when it runs next.
#[derive(Debug, Clone, Copy)]
enum Wakeup {
    Init(usize),
    /// It exits because of its eviction.
    Leave(usize),
}

#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) options: Options,
    pub(crate) now: u64,
    pub(crate) keys: [Key; KEYS],
    pub(crate) ops: Vec<Op>,
    pub(crate) totals: Totals,
    mode: Mode,
    wakeups: VecDeque<Wakeup>,
    serials: usize,
    /// More than one timer fires now.
    is_crowded: bool,
    pub(crate) is_ambiguous: bool,
    /// The next millisecond is ambiguous in any case, so the case ends.
    pub(crate) is_stuck: bool,
}

impl fmt::Debug for Model {
    /// A failure prints only the options that the case began with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Model {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            now: 0,
            keys: Default::default(),
            ops: Vec::new(),
            totals: Totals::default(),
            mode: Mode::Serving,
            wakeups: VecDeque::new(),
            serials: 0,
            is_crowded: false,
            is_ambiguous: false,
            is_stuck: false,
        }
    }

    pub(crate) fn step(&mut self, transition: &Transition) {
        self.is_stuck = self.is_stuck || self.blocks();
        if self.is_stuck {
            return;
        }
        self.pass(transition.after);
        self.todo(transition.todo);
        self.take_turns();
        for key in &mut self.keys {
            if let Some(entry) = key.entry.as_ref().filter(|entry| entry.is_open()) {
                key.last = Some(entry.serial);
            }
        }
    }

    /// Whether a shutdown is complete.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.mode, Mode::Over(_))
    }

    fn is_serving(&self) -> bool {
        matches!(self.mode, Mode::Serving)
    }

    /// The waiting operations, in the order of their requests.
    pub(crate) fn waiting_ops(&self) -> Vec<usize> {
        (0..self.ops.len()).filter(|&op| self.ops[op].outcome.is_none()).collect()
    }

    fn complete(&mut self, op: usize, outcome: Outcome) {
        self.ops[op].outcome.get_or_insert(outcome);
    }

    fn complete_all(&mut self, ops: Vec<usize>, outcome: Outcome) {
        for op in ops {
            self.complete(op, outcome);
        }
    }

    fn is_gone(&self, op: usize) -> bool {
        self.ops[op].outcome == Some(Outcome::Left)
    }

    /// The caller was polled and is still pending. Returns whether it is dropped now.
    fn polled_pending(&mut self, op: usize) -> bool {
        let polls = &mut self.ops[op].polls;
        *polls = polls.map(|polls| polls - 1);
        let goes = *polls == Some(0);
        if goes {
            self.complete(op, Outcome::Left);
        }
        goes
    }

    fn take_turns(&mut self) {
        while let Some(turn) = self.wakeups.pop_front() {
            match turn {
                Wakeup::Init(key) => self.init(key),
                Wakeup::Leave(key) => self.leave(key, Reason::Evicted),
            }
        }
    }

    // Callers

    fn todo(&mut self, todo: Todo) {
        let (key, what, polls) = match todo {
            Todo::Start { key, verb, plan, polls } => (key, What::Start { verb, plan }, polls),
            Todo::Send { key, send, act, polls, .. } => (key, What::Send { send, act }, polls),
            Todo::End { key, polls, .. } => (key, What::Other, polls),
            Todo::Shutdown { polls } => (0, What::Other, polls),
            Todo::OpenGate { key } => return self.open_gate(key),
            Todo::Leave { which } => return self.go_away(which),
            Todo::Nothing => return,
        };
        let op = self.ops.len();
        self.ops.push(Op { key, what, polls, outcome: None });
        if polls == Some(0) {
            return self.complete(op, Outcome::Left);
        }
        match todo {
            Todo::Start { verb, .. } => self.start(op, key, verb),
            Todo::End { end, target, .. } => self.end(op, key, end, target),
            Todo::Send { send, target, .. } => self.send(op, key, send, target),
            _ => self.shutdown(op),
        }
    }

    fn go_away(&mut self, which: usize) {
        let waiting = self.waiting_ops();
        if waiting.is_empty() {
            return;
        }
        let op = waiting[which % waiting.len()];
        self.complete(op, Outcome::Left);
        if let Some(entry) = &mut self.keys[self.ops[op].key].entry {
            // Its message is still waiting for capacity and is dropped with it.
            entry.line.retain(|&waits| waits != op);
        }
    }

    fn start(&mut self, op: usize, key: usize, verb: Verb) {
        if self.keys[key].entry.as_ref().is_some_and(Entry::is_open) {
            let outcome = if verb == Verb::Start { Outcome::AlreadyStarted } else { Outcome::Started };
            return self.complete(op, outcome);
        }
        if self.is_over() {
            return self.complete(op, Outcome::Shutdown);
        }
        // A result that is known at once is returned by the first poll, because the owner runs in it.
        self.ask(op);
        if self.ops[op].outcome.is_none() {
            self.polled_pending(op);
        }
    }

    fn reject(&mut self, op: usize, outcome: Outcome) {
        self.totals.starts[REJECTED] += 1;
        self.complete(op, outcome);
    }

    /// A caller requests a worker for a key without an open worker.
    fn ask(&mut self, op: usize) {
        let Op { key, what: What::Start { plan, .. }, .. } = self.ops[op] else { unreachable!("only starts ask") };
        if !self.is_serving() {
            return self.complete(op, Outcome::Shutdown);
        }
        if let Some(entry) = &mut self.keys[key].entry {
            return match entry.doing {
                Doing::Held | Doing::Init => entry.waiting.push(op),
                _ => entry.next.push(op),
            };
        }
        if self.is_gone(op) {
            // No caller is left: nothing is started, refused or evicted.
            return;
        }
        let (now, trace) = (self.now, &mut self.keys[key].trace);
        if let Some(at) = trace.gave_up_at.filter(|at| now - at < PERIOD) {
            return self.reject(op, Outcome::RestartLimit { retry_after: PERIOD - (now - at) });
        }
        if trace.failed_at.is_some_and(|at| now - at < FAILED_FOR) {
            return self.reject(op, Outcome::RecentlyFailed);
        }
        trace.history.retain(|at| now - at < PERIOD);
        let crash = trace.crash.filter(|(at, _)| now - at < PERIOD).map(|(_, reason)| reason);
        let history = if self.options.policy == Policy::Temporary { Vec::new() } else { trace.history.clone() };
        let is_known = crash.is_some() || !trace.history.is_empty();
        let mut entry = Entry::new(self.serials, plan, op, history);
        entry.crash_before = crash;
        entry.is_known = is_known;
        let is_full = self.options.max_workers.is_some_and(|most| self.workers() >= most);
        // Of several timers that fire together, this one may be first or last.
        self.is_ambiguous |= self.is_crowded && self.options.max_workers.is_some();
        if is_full {
            let Some(victim) = self.evict() else { return self.reject(op, Outcome::AtCapacity) };
            entry.doing = Doing::Held;
            self.keys[victim].entry.as_mut().expect("the victim has an entry").successor = Some(key);
        } else {
            entry.due = Some(now + INIT_TIMEOUT);
            self.wakeups.push_back(Wakeup::Init(key));
        }
        self.serials += 1;
        self.keys[key].entry = Some(entry);
    }

    /// Picks a victim and closes its gate.
    fn evict(&mut self) -> Option<usize> {
        if !self.options.evicts() {
            return None;
        }
        let now = self.now;
        let rank = |entry: &Entry| match self.options.eviction {
            Eviction::LeastFrequent => (entry.uses_at(now), entry.rests_since),
            _ => (0, entry.rests_since),
        };
        let at_rest = |key: usize| self.keys[key].entry.as_ref().filter(|entry| entry.is_at_rest());
        let ranks: Vec<_> = (0..KEYS).filter_map(|key| Some((rank(at_rest(key)?), key))).collect();
        let &(first, victim) = ranks.iter().min()?;
        self.is_ambiguous |= ranks.iter().filter(|(rank, _)| *rank == first).count() > 1;
        self.close(victim, Reason::Evicted);
        self.wakeups.push_back(Wakeup::Leave(victim));
        Some(victim)
    }

    /// Workers in any state, except starts that wait for capacity.
    pub(crate) fn workers(&self) -> usize {
        self.entries().filter(|entry| entry.doing != Doing::Held).count()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.keys.iter().filter_map(|key| key.entry.as_ref())
    }

    fn end(&mut self, op: usize, key: usize, end: End, target: Target) {
        let (last, is_over) = (self.keys[key].last, self.is_over());
        let entry = self.keys[key].entry.as_mut();
        let found = match (entry, target) {
            (entry, Target::Key) => entry,
            (_, Target::Handle) if last.is_none() || is_over => None,
            (Some(entry), Target::Handle) if last == Some(entry.serial) => Some(entry),
            (_, Target::Handle) => {
                // The request reaches the owner, which has no such worker.
                return self.complete(op, Outcome::NotFound);
            }
        };
        let Some(entry) = found else { return self.complete(op, Outcome::NotFound) };
        let is_starting = matches!(entry.doing, Doing::Held | Doing::Init);
        if end == End::Crash && !is_starting {
            return self.crash(op, key);
        }
        entry.stoppers.push((op, end));
        self.polled_pending(op);
        if is_starting {
            return self.cancel(key, Outcome::Cancelled);
        }
        let closed = self.close(key, Reason::Stopped);
        if end == End::Discard {
            self.undeliver(key);
        }
        if end == End::Kill {
            self.kill(key);
        } else if closed {
            self.on_close(key);
        }
    }

    fn shutdown(&mut self, op: usize) {
        match &mut self.mode {
            Mode::Over(report) => {
                let report = *report;
                return self.complete(op, report);
            }
            Mode::Ending { waiting, .. } => {
                waiting.push(op);
                self.polled_pending(op);
                return;
            }
            Mode::Serving => {}
        }
        self.polled_pending(op);
        let due = Some(self.now + STOP_TIMEOUT);
        self.mode = Mode::Ending { report: Report::default(), due, waiting: vec![op] };
        for key in 0..KEYS {
            let Some(entry) = &mut self.keys[key].entry else { continue };
            let next = std::mem::take(&mut entry.next);
            let is_starting = matches!(entry.doing, Doing::Held | Doing::Init);
            self.complete_all(next, Outcome::Shutdown);
            if is_starting {
                self.cancel(key, Outcome::Shutdown);
            } else if self.close(key, Reason::Shutdown) {
                self.on_close(key);
            }
        }
        self.report_if_over();
    }

    fn report_if_over(&mut self) {
        let Mode::Ending { report: Report { drained, crashed, aborted, cancelled }, waiting, .. } = &mut self.mode
        else {
            return;
        };
        if self.keys.iter().all(|key| key.entry.is_none()) {
            let report =
                Outcome::Report { drained: *drained, crashed: *crashed, aborted: *aborted, cancelled: *cancelled };
            let waiting = std::mem::take(waiting);
            self.mode = Mode::Over(report);
            self.complete_all(waiting, report);
        }
    }

    // Exits

    /// A start fails.
    fn cancel(&mut self, key: usize, why: Outcome) {
        let mut entry = self.keys[key].entry.take().expect("the key is starting");
        let counter = match why {
            Outcome::Init => ERROR,
            Outcome::Panicked => PANIC,
            Outcome::TimedOut => TIMEOUT,
            _ => CANCELLED,
        };
        self.totals.starts[counter] += 1;
        self.complete_all(std::mem::take(&mut entry.waiting), why);
        let trace = &mut self.keys[key].trace;
        if self.options.policy != Policy::Temporary {
            trace.history = std::mem::take(&mut entry.history);
        }
        if self.options.remembers_failures && counter != CANCELLED {
            trace.failed_at = Some(self.now);
        }
        if entry.doing == Doing::Held {
            for other in self.keys.iter_mut().filter_map(|key| key.entry.as_mut()) {
                other.successor = other.successor.filter(|&successor| successor != key);
            }
        }
        let is_killed = entry.stoppers.iter().any(|&(_, end)| matches!(end, End::Kill | End::Crash));
        let reason = if is_killed { Reason::Killed } else { Reason::Stopped };
        self.is_gone_now(key, entry, reason, |report| &mut report.cancelled);
    }

    /// A worker that was ready has exited.
    fn exit(&mut self, key: usize, reason: Reason, is_returning: bool) {
        let entry = self.keys[key].entry.take().expect("the worker exits");
        let (now, slot) = (self.now, &mut self.keys[key]);
        self.totals.exits[reason as usize] += 1;
        if entry.is_reported {
            slot.reported.push(Reported::Exited(entry.incarnation, reason));
        }
        if entry.gave_up {
            self.totals.gave_up += 1;
            slot.reported.push(Reported::GaveUp(entry.incarnation, reason));
            slot.trace.gave_up_at = Some(now);
        } else if !entry.is_reported {
            slot.reported.push(Reported::NotRestarted(entry.incarnation, reason));
        }
        if self.options.policy != Policy::Temporary {
            slot.trace.history = entry.history.clone();
        }
        let is_crash = matches!(reason, Reason::Failed | Reason::Panicked | Reason::Crashed);
        if is_crash {
            slot.trace.crash = Some((now, reason));
        }
        self.is_gone_now(key, entry, reason, |report| match reason {
            _ if is_returning => &mut report.cancelled,
            Reason::Killed => &mut report.aborted,
            _ if is_crash => &mut report.crashed,
            _ => &mut report.drained,
        });
    }

    fn is_gone_now(&mut self, key: usize, entry: Entry, reason: Reason, counted: impl Fn(&mut Report) -> &mut usize) {
        self.complete_all(entry.stoppers.iter().map(|&(op, _)| op).collect(), Outcome::Ended(reason));
        if let Mode::Ending { report, .. } = &mut self.mode {
            *counted(report) += 1;
            return self.report_if_over();
        }
        if let Some(successor) = entry.successor {
            let waiting = &self.keys[successor].entry.as_ref().expect("the successor waits for this key").waiting;
            if waiting.iter().all(|&op| self.is_gone(op)) {
                self.cancel(successor, Outcome::Cancelled);
            } else if let Some(successor_entry) = &mut self.keys[successor].entry {
                successor_entry.doing = Doing::Init;
                successor_entry.due = Some(self.now + INIT_TIMEOUT);
                self.wakeups.push_back(Wakeup::Init(successor));
            }
        }
        // The callers that found it stopping share one new start.
        for op in entry.next {
            debug_assert_eq!(self.ops[op].key, key);
            self.ask(op);
        }
    }
}
