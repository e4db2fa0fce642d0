//! The operations on a registry and their outcomes: the types that model and system share.

use std::fmt;

/// Few keys, so that most operations meet a worker.
pub(crate) const KEYS: usize = 4;
/// Messages per mailbox. Few, so that senders wait.
pub(crate) const CAPACITY: usize = 2;

// All times are in milliseconds of a paused clock. Each step takes at least one, so that few things happen at once.
pub(crate) const INIT_TIMEOUT: u64 = 7;
pub(crate) const STOP_TIMEOUT: u64 = 5;
/// The registry has an idle timeout of 15.01 ms, and a worker idles up to a sixteenth later: in whole milliseconds, at
/// this time.
pub(crate) const IDLE_TIMEOUT: u64 = 16;
pub(crate) const IDLE_MICROS: u64 = 15_010;
/// The backoff is a random share of this, which the timer rounds up to one millisecond.
pub(crate) const BACKOFF: u64 = 1;
/// Long on the real clock too, by which the memory of keys is cleared.
pub(crate) const PERIOD: u64 = 30_000;
pub(crate) const FAILED_FOR: u64 = 20_000;

/// What `init` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Go,
    Fail,
    Panic,
    Hang,
    /// Continues when the key's gate is opened.
    Gate,
}

/// What `terminate` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminate {
    Go,
    Panic,
    Hang,
}

/// What a worker is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The first `init`.
    pub(crate) init: Step,
    /// The `init` of restarts.
    pub(crate) restart_init: Step,
    pub(crate) terminate: Terminate,
}

/// What `handle` does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Go,
    Fail,
    Panic,
    Hang,
    Gate,
    /// Calls `ctx.stop()`.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Temporary,
    Transient,
    Permanent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eviction {
    Reject,
    LeastRecent,
    LeastFrequent,
}

/// How the registry is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) policy: Policy,
    /// The number of restarts within a period.
    pub(crate) intensity: usize,
    pub(crate) backs_off: bool,
    pub(crate) idles: bool,
    pub(crate) max_workers: Option<usize>,
    pub(crate) eviction: Eviction,
    pub(crate) remembers_failures: bool,
}

impl Options {
    /// Whether the last activity of a worker matters.
    pub(crate) fn evicts(&self) -> bool {
        self.max_workers.is_some() && self.eviction != Eviction::Reject
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    LookupOrStart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Stop,
    /// No queued message begins.
    Discard,
    Kill,
    /// Ends this run only.
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Send {
    Cast,
    TryCast,
    Call,
}

/// The target of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The worker that has the key now.
    Key,
    /// The worker of the last lookup, which may have exited.
    Handle,
}

/// An operation of a caller. With `polls`, the caller is dropped after this many pending polls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Todo {
    Nothing,
    Start {
        key: usize,
        verb: Verb,
        plan: Plan,
        polls: Option<u8>,
    },
    End {
        key: usize,
        end: End,
        target: Target,
        polls: Option<u8>,
    },
    Send {
        key: usize,
        send: Send,
        act: Act,
        target: Target,
        polls: Option<u8>,
    },
    OpenGate {
        key: usize,
    },
    /// Drops one of the waiting callers.
    Leave {
        which: usize,
    },
    Shutdown {
        polls: Option<u8>,
    },
}

/// One step: time passes, an operation is performed, then every task runs until it waits.
#[derive(Clone, Copy)]
pub(crate) struct Transition {
    pub(crate) after: u64,
    pub(crate) todo: Todo,
}

impl fmt::Debug for Transition {
    /// On one line, also when a failing case is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms, {:?}", self.after, self.todo)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    Normal,
    Stopped,
    Idle,
    Evicted,
    Shutdown,
    Killed,
    Failed,
    Panicked,
    Crashed,
}

/// What a caller got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The caller was dropped.
    Left,
    Started,
    AlreadyStarted,
    Init,
    RecentlyFailed,
    Panicked,
    TimedOut,
    AtCapacity,
    RestartLimit {
        retry_after: u64,
    },
    Cancelled,
    Shutdown,
    Ended(Reason),
    NotFound,
    /// There was no worker.
    NoWorker,
    Sent,
    Full,
    Closed,
    Answered,
    NotDelivered,
    NoReply,
    Report {
        drained: usize,
        crashed: usize,
        aborted: usize,
        cancelled: usize,
    },
    /// An outcome that no step can have.
    Unexpected,
}

/// The events of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reported {
    Started,
    Restarted(u64),
    Exited(u64, Reason),
    NotRestarted(u64, Reason),
    GaveUp(u64, Reason),
}

/// Picks by weight. The first entry is the simplest one: what generates the rolls shrinks them towards 0.
fn pick<T: Copy>(roll: u16, weighted: &[(u16, T)]) -> T {
    let all: u16 = weighted.iter().map(|(weight, _)| weight).sum();
    let mut left = roll % all;
    for &(weight, value) in weighted {
        if left < weight {
            return value;
        }
        left -= weight;
    }
    unreachable!("the roll is less than the sum of all weights")
}

/// What options are made of: whatever the numbers are, there are options of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionRolls {
    pub(crate) policy: u16,
    pub(crate) intensity: u16,
    pub(crate) flags: [bool; 3],
    pub(crate) room: u16,
    pub(crate) eviction: u16,
}

impl From<OptionRolls> for Options {
    fn from(rolls: OptionRolls) -> Self {
        let [backs_off, idles, remembers_failures] = rolls.flags;
        Self {
            policy: pick(rolls.policy, &[(1, Policy::Temporary), (1, Policy::Transient), (1, Policy::Permanent)]),
            intensity: usize::from(rolls.intensity % 3),
            backs_off,
            idles,
            max_workers: pick(rolls.room, &[(1, None), (1, Some(3)), (1, Some(2)), (1, Some(1))]),
            eviction: pick(
                rolls.eviction,
                &[(1, Eviction::Reject), (2, Eviction::LeastRecent), (2, Eviction::LeastFrequent)],
            ),
            remembers_failures,
        }
    }
}

fn step(roll: u16) -> Step {
    pick(roll, &[(8, Step::Go), (1, Step::Fail), (1, Step::Panic), (2, Step::Gate), (1, Step::Hang)])
}

/// The kind of an operation, before its caller and arguments are chosen.
#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Start,
    Send,
    OpenGate,
    End,
    Leave,
    Shutdown,
}

/// What a step is made of: whatever the numbers are, there is a step of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepRolls {
    pub(crate) after: u16,
    pub(crate) kind: u16,
    pub(crate) key: usize,
    pub(crate) polls: u16,
    pub(crate) others: [u16; 3],
}

impl From<StepRolls> for Transition {
    fn from(StepRolls { after, kind, key, polls, others }: StepRolls) -> Self {
        let times = [
            (40, 1),
            (2, 2),
            (3, STOP_TIMEOUT),
            (3, INIT_TIMEOUT),
            (2, IDLE_TIMEOUT + 1),
            (1, 11_111),
            (1, FAILED_FOR),
            (1, PERIOD),
            (1, 2 * PERIOD + 1),
        ];
        Self { after: pick(after, &times), todo: todo(kind, key % KEYS, polls, others) }
    }
}

fn todo(kind: u16, key: usize, polls: u16, [first, second, third]: [u16; 3]) -> Todo {
    let kinds = [
        (4, Kind::Nothing),
        (42, Kind::Start),
        (54, Kind::Send),
        (15, Kind::OpenGate),
        (16, Kind::End),
        (6, Kind::Leave),
        (1, Kind::Shutdown),
    ];
    let polls = pick(polls, &[(12, None), (1, Some(0)), (2, Some(1)), (1, Some(2))]);
    let target = pick(third, &[(3, Target::Key), (1, Target::Handle)]);
    match pick(kind, &kinds) {
        Kind::Nothing => Todo::Nothing,
        Kind::Start => {
            let terminate = pick(third, &[(6, Terminate::Go), (1, Terminate::Panic), (2, Terminate::Hang)]);
            let plan = Plan { init: step(first), restart_init: step(second), terminate };
            // From its own roll, independent of the plan.
            let verb = if kind % 2 == 0 { Verb::Start } else { Verb::LookupOrStart };
            Todo::Start { key, verb, plan, polls }
        }
        Kind::Send => {
            let send = pick(first, &[(3, Send::Cast), (4, Send::Call), (1, Send::TryCast)]);
            let acts = [(6, Act::Go), (4, Act::Gate), (3, Act::Fail), (2, Act::Panic), (1, Act::Hang), (1, Act::Stop)];
            Todo::Send { key, send, act: pick(second, &acts), target, polls }
        }
        Kind::OpenGate => Todo::OpenGate { key },
        Kind::End => Todo::End {
            key,
            end: pick(first, &[(3, End::Stop), (2, End::Discard), (1, End::Kill), (2, End::Crash)]),
            target,
            polls,
        },
        Kind::Leave => Todo::Leave { which: usize::from(first) },
        Kind::Shutdown => Todo::Shutdown { polls },
    }
}
