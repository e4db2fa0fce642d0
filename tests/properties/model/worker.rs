//! One worker of the model: its runs, its mailbox, its exit.

use std::collections::VecDeque;

use super::{Mode, Model, OK, What};
use crate::plan::{
    Act, BACKOFF, CAPACITY, IDLE_TIMEOUT, INIT_TIMEOUT, Outcome, PERIOD, Plan, Policy, Reason, Reported, STOP_TIMEOUT,
    Send, Step, Target, Terminate, Verb,
};

/// What a worker does while no task can make progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Waits for capacity, and is not a worker yet.
    Held,
    Init,
    Resting,
    /// Handles this message.
    Handling(usize),
    /// Terminates, and restarts afterwards.
    Terminating(Reason),
    /// Waits for its restart.
    Pausing,
    /// Runs the `init` of a restart.
    Restarting,
    /// Terminates for good.
    Exiting,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) serial: usize,
    pub(crate) plan: Plan,
    pub(crate) doing: Doing,
    /// Why the gate is closed.
    pub(crate) closed: Option<Reason>,
    /// Increases with each run.
    pub(crate) incarnation: u64,
    pub(crate) is_restarting: bool,
    /// The start of a run was reported, and its end was not.
    pub(super) is_reported: bool,
    pub(super) history: Vec<u64>,
    pub(super) gave_up: bool,
    /// The crash remembered of the key before this worker.
    pub(super) crash_before: Option<Reason>,
    pub(super) is_known: bool,

    queue: VecDeque<usize>,
    /// Senders that hold a permit. The others wait in `line`.
    granted: VecDeque<usize>,
    pub(super) line: VecDeque<usize>,
    /// The run ends after this many messages.
    remaining: Option<usize>,

    pub(super) rests_since: u64,
    uses: u32,
    handled: u32,

    pub(super) waiting: Vec<usize>,
    pub(super) next: Vec<usize>,
    pub(super) stoppers: Vec<(usize, crate::plan::End)>,
    /// The key that starts in its slot.
    pub(super) successor: Option<usize>,
    /// The owner's deadline, and the worker's own timer.
    pub(super) due: Option<u64>,
    pub(super) timer: Option<u64>,
}

impl Entry {
    pub(super) fn new(serial: usize, plan: Plan, op: usize, history: Vec<u64>) -> Self {
        Self {
            serial,
            plan,
            doing: Doing::Init,
            closed: None,
            incarnation: 1,
            is_restarting: false,
            is_reported: false,
            history,
            gave_up: false,
            crash_before: None,
            is_known: false,
            queue: VecDeque::new(),
            granted: VecDeque::new(),
            line: VecDeque::new(),
            remaining: None,
            rests_since: 0,
            uses: 0,
            handled: 0,
            waiting: vec![op],
            next: Vec::new(),
            stoppers: Vec::new(),
            successor: None,
            due: None,
            timer: None,
        }
    }

    /// Whether a lookup finds the worker.
    pub(crate) fn is_open(&self) -> bool {
        self.closed.is_none() && !matches!(self.doing, Doing::Held | Doing::Init)
    }

    /// Whether its state is alive, which includes `init`.
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.doing, Doing::Held | Doing::Pausing)
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.is_open() && self.doing == Doing::Resting
    }

    pub(super) fn uses_at(&self, now: u64) -> u32 {
        let halvings = (now - self.rests_since) / 60_000;
        self.uses.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    /// Takes the next message and gives its permit to the first waiting sender.
    fn begin(&mut self) -> Option<usize> {
        let op = self.queue.pop_front()?;
        if let Some(remaining) = &mut self.remaining {
            *remaining -= 1;
        }
        if self.queue.len() + self.granted.len() < CAPACITY {
            self.granted.extend(self.line.pop_front());
        }
        Some(op)
    }
}

impl Model {
    fn entry(&mut self, key: usize) -> &mut Entry {
        self.keys[key].entry.as_mut().expect("there is a worker")
    }

    fn is_call(&self, op: usize) -> bool {
        matches!(self.ops[op].what, What::Send { send: Send::Call, .. })
    }

    // Starts

    pub(super) fn init(&mut self, key: usize) {
        match self.entry(key).plan.init {
            Step::Go => self.ready(key),
            Step::Fail => self.cancel(key, Outcome::Init),
            Step::Panic => self.cancel(key, Outcome::Panicked),
            Step::Hang | Step::Gate => {}
        }
    }

    fn ready(&mut self, key: usize) {
        self.totals.starts[OK] += 1;
        let slot = &mut self.keys[key];
        let entry = slot.entry.as_mut().expect("the key is starting");
        slot.reported.push(Reported::Started);
        entry.is_reported = true;
        entry.due = None;
        entry.doing = Doing::Resting;
        if entry.is_known {
            // From now on the budget that the key has spent is the worker's.
            slot.trace = Default::default();
        }
        let (waiting, crash) = (std::mem::take(&mut entry.waiting), entry.crash_before);
        if let Some(cause) = crash {
            self.totals.restarts_by_caller[cause_of(cause)] += 1;
        }
        for (place, op) in waiting.into_iter().enumerate() {
            let is_second = matches!(self.ops[op].what, What::Start { verb: Verb::Start, .. }) && place > 0;
            self.complete(op, if is_second { Outcome::AlreadyStarted } else { Outcome::Started });
        }
        self.run(key);
    }

    /// The `init` of a restart.
    fn init_again(&mut self, key: usize) {
        let now = self.now;
        let entry = self.entry(key);
        entry.incarnation += 1;
        entry.remaining = None;
        match entry.plan.restart_init {
            Step::Go => self.back(key),
            Step::Fail => self.restart_failed(key, Reason::Failed),
            Step::Panic => self.restart_failed(key, Reason::Panicked),
            Step::Hang | Step::Gate => {
                entry.doing = Doing::Restarting;
                entry.timer = Some(now + INIT_TIMEOUT);
            }
        }
    }

    fn back(&mut self, key: usize) {
        let entry = self.entry(key);
        entry.is_restarting = false;
        entry.is_reported = true;
        entry.timer = None;
        entry.handled = 0;
        let reported = Reported::Restarted(entry.incarnation);
        self.keys[key].reported.push(reported);
        self.run(key);
    }

    /// A failed `init` of a restart counts as a crash.
    fn restart_failed(&mut self, key: usize, reason: Reason) {
        if self.decide(key, reason) {
            self.pause(key, reason);
        } else {
            self.close_by_worker(key);
            self.undeliver(key);
            self.exit(key, reason, false);
        }
    }

    // The loop

    /// Runs the worker until it is idle, waits in a message, or ends.
    fn run(&mut self, key: usize) {
        loop {
            let (now, idles) = (self.now, self.options.idles);
            let entry = self.entry(key);
            if entry.remaining == Some(0) {
                return self.leave(key, Reason::Normal);
            }
            let Some(op) = entry.begin() else {
                if let Some(reason) = entry.closed {
                    return self.leave(key, reason);
                }
                entry.uses = entry.uses_at(now) + std::mem::take(&mut entry.handled);
                entry.rests_since = now;
                if !entry.granted.is_empty() {
                    // It was idle, if only until the messages were accepted.
                    self.admit(key);
                    continue;
                }
                entry.doing = Doing::Resting;
                entry.timer = idles.then_some(now + IDLE_TIMEOUT);
                return;
            };
            entry.timer = None;
            entry.handled += 1;
            self.keys[key].begun.push(op);
            let What::Send { act, .. } = self.ops[op].what else { unreachable!("only messages are queued") };
            match act {
                Act::Go => self.handled(op),
                Act::Stop => {
                    self.stop_itself(key);
                    self.handled(op);
                }
                Act::Hang | Act::Gate => {
                    self.entry(key).doing = Doing::Handling(op);
                    return self.admit(key);
                }
                Act::Fail | Act::Panic => {
                    if self.is_call(op) {
                        self.complete(op, Outcome::NoReply);
                    }
                    let reason = if act == Act::Fail { Reason::Failed } else { Reason::Panicked };
                    return self.leave(key, reason);
                }
            }
        }
    }

    fn handled(&mut self, op: usize) {
        if self.is_call(op) {
            self.complete(op, Outcome::Answered);
        }
    }

    /// Senders with a permit enqueue their messages: the worker yields to them.
    fn admit(&mut self, key: usize) {
        let granted = std::mem::take(&mut self.entry(key).granted);
        for op in granted {
            self.entry(key).queue.push_back(op);
            self.taken(op);
        }
    }

    /// The mailbox accepted a message.
    fn taken(&mut self, op: usize) {
        if self.is_call(op) {
            self.polled_pending(op);
        } else {
            self.complete(op, Outcome::Sent);
        }
    }

    /// `ctx.stop()`: a permanent worker ends its run, any other one closes its gate.
    fn stop_itself(&mut self, key: usize) {
        let is_permanent = self.options.policy == Policy::Permanent;
        let entry = self.entry(key);
        if is_permanent && entry.closed.is_none() {
            let rest = entry.queue.len();
            entry.remaining = Some(entry.remaining.map_or(rest, |remaining| remaining.min(rest)));
        } else {
            self.close_by_worker(key);
        }
    }

    pub(super) fn send(&mut self, op: usize, key: usize, send: Send, target: Target) {
        let last = self.keys[key].last;
        let is_call = send == Send::Call;
        let closed = if is_call { Outcome::NotDelivered } else { Outcome::Closed };
        let entry = match (self.keys[key].entry.as_mut().filter(|entry| entry.is_open()), target) {
            (Some(entry), Target::Key) => entry,
            (None, Target::Key) => return self.complete(op, Outcome::NoWorker),
            (_, Target::Handle) if last.is_none() => return self.complete(op, Outcome::NoWorker),
            (Some(entry), Target::Handle) if last == Some(entry.serial) => entry,
            (_, Target::Handle) => return self.complete(op, closed),
        };
        if entry.queue.len() < CAPACITY {
            entry.queue.push_back(op);
            let is_at_rest = entry.doing == Doing::Resting;
            self.taken(op);
            if is_at_rest {
                self.run(key);
            }
        } else if send == Send::TryCast {
            self.complete(op, Outcome::Full);
        } else if !self.polled_pending(op) {
            self.entry(key).line.push_back(op);
        }
    }

    pub(super) fn open_gate(&mut self, key: usize) {
        let Some(entry) = &self.keys[key].entry else { return };
        match entry.doing {
            Doing::Init if entry.plan.init == Step::Gate => self.ready(key),
            Doing::Restarting if entry.plan.restart_init == Step::Gate => self.back(key),
            Doing::Handling(op) if matches!(self.ops[op].what, What::Send { act: Act::Gate, .. }) => {
                self.handled(op);
                self.run(key);
            }
            _ => {}
        }
    }

    // Timers

    pub(super) fn timer(&mut self, key: usize) {
        match self.entry(key).doing {
            Doing::Resting => {
                self.close(key, Reason::Idle);
                self.leave(key, Reason::Idle);
            }
            Doing::Terminating(reason) => self.pause(key, reason),
            Doing::Pausing => self.init_again(key),
            Doing::Restarting => self.restart_failed(key, Reason::Failed),
            doing => unreachable!("{doing:?} has no timer"),
        }
    }

    // Exits

    /// Closes the gate and arms the deadline. Returns whether the gate was open.
    pub(super) fn close(&mut self, key: usize, reason: Reason) -> bool {
        let due = matches!(self.mode, Mode::Serving).then_some(self.now + STOP_TIMEOUT);
        let entry = self.entry(key);
        if entry.closed.is_some() {
            return false;
        }
        entry.closed = Some(reason);
        entry.due = due;
        entry.remaining = None;
        let refused: Vec<usize> = entry.granted.drain(..).chain(entry.line.drain(..)).collect();
        for op in refused {
            let outcome = if self.is_call(op) { Outcome::NotDelivered } else { Outcome::Closed };
            self.complete(op, outcome);
        }
        true
    }

    fn close_by_worker(&mut self, key: usize) {
        self.close(key, Reason::Normal);
    }

    /// What the worker does when another party closes its gate.
    pub(super) fn on_close(&mut self, key: usize) {
        let entry = self.entry(key);
        let reason = entry.closed.expect("the gate is closed");
        match entry.doing {
            Doing::Resting => {
                entry.timer = None;
                self.leave(key, reason);
            }
            Doing::Pausing | Doing::Restarting => {
                self.undeliver(key);
                self.exit(key, reason, true);
            }
            _ => {}
        }
    }

    pub(super) fn kill(&mut self, key: usize) {
        let Some(entry) = &self.keys[key].entry else { return };
        if let Doing::Handling(op) = entry.doing {
            if self.is_call(op) {
                self.complete(op, Outcome::NoReply);
            }
        }
        self.close(key, Reason::Killed);
        self.undeliver(key);
        self.exit(key, Reason::Killed, false);
    }

    /// Ends the current run, if there is one.
    pub(super) fn crash(&mut self, op: usize, key: usize) {
        let doing = self.entry(key).doing;
        if doing == Doing::Pausing {
            return self.complete(op, Outcome::NotFound);
        }
        self.polled_pending(op);
        self.entry(key).timer = None;
        if let Doing::Handling(handled) = doing {
            if self.is_call(handled) {
                self.complete(handled, Outcome::NoReply);
            }
        }
        match doing {
            Doing::Resting | Doing::Handling(_) => self.leave(key, Reason::Crashed),
            // The restart was decided before.
            Doing::Terminating(_) => self.pause(key, Reason::Crashed),
            Doing::Restarting => self.restart_failed(key, Reason::Crashed),
            Doing::Exiting => self.exit(key, Reason::Crashed, false),
            Doing::Held | Doing::Init | Doing::Pausing => unreachable!("a run is in progress"),
        }
        self.complete(op, Outcome::Ended(Reason::Crashed));
    }

    pub(super) fn undeliver(&mut self, key: usize) {
        for op in std::mem::take(&mut self.entry(key).queue) {
            if self.is_call(op) {
                self.complete(op, Outcome::NotDelivered);
            } else {
                self.keys[key].undelivered.push(op);
            }
        }
    }

    /// Whether the worker restarts after this reason.
    fn decide(&mut self, key: usize, reason: Reason) -> bool {
        let is_crash = matches!(reason, Reason::Failed | Reason::Panicked | Reason::Crashed);
        let applies = match self.options.policy {
            Policy::Temporary => false,
            Policy::Transient => is_crash,
            Policy::Permanent => is_crash || reason == Reason::Normal,
        };
        let (now, most) = (self.now, self.options.intensity);
        let entry = self.entry(key);
        if !applies || entry.closed.is_some() {
            return false;
        }
        entry.history.retain(|at| now - at < PERIOD);
        if entry.history.len() >= most {
            entry.gave_up = true;
            return false;
        }
        entry.history.push(now);
        true
    }

    /// A run has ended.
    pub(super) fn leave(&mut self, key: usize, reason: Reason) {
        let comes_back = self.decide(key, reason);
        let now = self.now;
        let entry = self.entry(key);
        // After a panic or a crash from outside, `terminate` does not run.
        let is_lost = matches!(reason, Reason::Panicked | Reason::Crashed);
        let terminate = if is_lost { Terminate::Go } else { entry.plan.terminate };
        entry.timer = None;
        if comes_back {
            entry.is_restarting = true;
            return match terminate {
                Terminate::Go => self.pause(key, reason),
                Terminate::Panic => self.pause(key, Reason::Panicked),
                Terminate::Hang => {
                    entry.doing = Doing::Terminating(reason);
                    entry.timer = Some(now + STOP_TIMEOUT);
                    self.admit(key);
                }
            };
        }
        self.close_by_worker(key);
        self.undeliver(key);
        match terminate {
            Terminate::Go => self.exit(key, reason, false),
            Terminate::Panic => self.exit(key, Reason::Panicked, false),
            Terminate::Hang => self.entry(key).doing = Doing::Exiting,
        }
    }

    /// Between two runs: the state is dropped.
    fn pause(&mut self, key: usize, reason: Reason) {
        self.totals.restarts[cause_of(reason)] += 1;
        let backs_off = self.options.backs_off;
        let now = self.now;
        let entry = self.entry(key);
        let reported = std::mem::take(&mut entry.is_reported).then_some(Reported::Exited(entry.incarnation, reason));
        entry.is_restarting = true;
        entry.doing = Doing::Pausing;
        let closed = entry.closed;
        self.keys[key].reported.extend(reported);
        self.admit(key);
        if let Some(reason) = closed {
            self.undeliver(key);
            return self.exit(key, reason, true);
        }
        if backs_off {
            self.entry(key).timer = Some(now + BACKOFF);
        } else {
            self.init_again(key);
        }
    }
}

fn cause_of(reason: Reason) -> usize {
    match reason {
        Reason::Failed => 0,
        Reason::Panicked => 1,
        Reason::Crashed => 2,
        Reason::Normal => 3,
        reason => unreachable!("no restart after {reason:?}"),
    }
}
