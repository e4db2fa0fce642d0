//! An engine of one node that fails by a plan: J6 of the design, with whole nodes.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::ready;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use test_support::Random;
use tokio::time::sleep;

use crate::engine::{Change, Commit, Engine, EngineError, Expect, Key, Memory, Op, Snapshot, WatchError};
use crate::id::Revision;

/// What a commit is for, as its operations show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Config,
    Join,
    Beat,
    Claim,
    Give,
    MarkLeaving,
    Depart,
    Remove,
}

impl Purpose {
    pub(super) const ALL: [Purpose; 8] = [
        Purpose::Config,
        Purpose::Join,
        Purpose::Beat,
        Purpose::Claim,
        Purpose::Give,
        Purpose::MarkLeaving,
        Purpose::Depart,
        Purpose::Remove,
    ];

    fn of(when: &[(Key, Expect)], then: &[Op]) -> Purpose {
        // `/<cluster>/<class>/..`
        let class = |key: &str| key.split('/').nth(2).unwrap_or_default().to_owned();
        let first = class(&when[0].0);
        match (&then[0], &*class(then[0].key()), &*first) {
            (Op::Put(..), "config", _) => Purpose::Config,
            (Op::Put(..), "m", "config") => Purpose::Join,
            (Op::Put(..), "m", "m") => Purpose::MarkLeaving,
            (Op::Put(..), "b", _) => Purpose::Beat,
            (Op::Put(..), "s", "s") => Purpose::Give,
            (Op::Put(..), "s", "m") => Purpose::Claim,
            (Op::Delete(_), "m", "m") => Purpose::Depart,
            (Op::Delete(_), "m", "b") => Purpose::Remove,
            _ => panic!("a commit of a new kind: {when:?} {then:?}"),
        }
    }
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is done, and its caller does not learn it.
    AnswerLost,
    /// It is not done, and its caller does not learn it.
    RequestLost,
    /// It arrives twice.
    Twice,
    /// It is done, and arrives again much later.
    AgainLate,
    /// Its caller waits no longer when it is done.
    DoneLate,
    /// Its caller waits no longer when the answer arrives.
    AnsweredLate,
}

impl Fault {
    pub(super) const ALL: [Fault; 6] =
        [Fault::AnswerLost, Fault::RequestLost, Fault::Twice, Fault::AgainLate, Fault::DoneLate, Fault::AnsweredLate];
    /// Longer than an attempt, and than three beats.
    const LATE: Duration = Duration::from_millis(1_700);
}

/// What becomes of the events of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Cut {
    #[default]
    Never,
    /// The watch ends after each event.
    After,
    /// The watch ends instead of each event.
    Instead,
    /// The watch fails instead of each event.
    Fails,
    /// Each event arrives so late that the history before it is forgotten.
    Compacted,
    /// After this many events the watch says nothing more, and does not end.
    Silent(usize),
}

/// What fails.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// Every second commit of this purpose, beginning with the first.
    pub(super) commits: Option<(Purpose, Fault)>,
    pub(super) cut: Cut,
    /// Every second read fails.
    pub(super) reads: bool,
    /// With this seed, each commit fails in some way by a chance of one in this.
    pub(super) random: Option<(u64, u64)>,
}

/// What the clients of one engine share.
pub(super) struct Plan {
    faults: Faults,
    state: Mutex<State>,
}

struct State {
    random: Random,
    commits: HashMap<Purpose, u64>,
    reads: u64,
    /// Faults that have happened.
    hits: u64,
}

impl Plan {
    pub(super) fn new(faults: Faults) -> Arc<Plan> {
        let random = Random::new(faults.random.map_or(0, |(seed, _)| seed));
        let state = State { random, commits: HashMap::new(), reads: 0, hits: 0 };
        Arc::new(Plan { faults, state: Mutex::new(state) })
    }

    pub(super) fn client(self: &Arc<Plan>, memory: Memory) -> Faulty {
        Faulty { memory, plan: self.clone() }
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn hits(&self) -> u64 {
        self.with(|state| state.hits)
    }

    fn of_commit(&self, purpose: Purpose) -> Option<Fault> {
        self.with(|state| {
            let number = state.commits.entry(purpose).or_default();
            *number += 1;
            let fault = match (self.faults.commits, self.faults.random) {
                (Some((of, fault)), _) if of == purpose && *number % 2 == 1 => Some(fault),
                (_, Some((_, one_in))) if state.random.below(one_in) == 0 => Some(*state.random.pick(&Fault::ALL)),
                _ => None,
            };
            state.hits += u64::from(fault.is_some());
            fault
        })
    }

    fn fails_read(&self) -> bool {
        self.with(|state| {
            state.reads += 1;
            let fails = match self.faults.random {
                Some((_, one_in)) => state.random.below(one_in) == 0,
                None => self.faults.reads && state.reads % 2 == 1,
            };
            state.hits += u64::from(fails);
            fails
        })
    }

    fn cut(&self) -> Cut {
        let Some((_, one_in)) = self.faults.random else { return self.faults.cut };
        self.with(|state| match state.random.below(one_in * 2) {
            0 => Cut::After,
            1 => Cut::Instead,
            2 => Cut::Fails,
            3 => Cut::Silent(state.random.index(40)),
            _ => Cut::Never,
        })
    }
}

/// The engine of one node.
pub(super) struct Faulty {
    memory: Memory,
    plan: Arc<Plan>,
}

impl Engine for Faulty {
    async fn read(&self, prefix: &str) -> Result<Snapshot, EngineError> {
        if self.plan.fails_read() {
            return Err(EngineError::Unavailable("by the plan".into()));
        }
        self.memory.read(prefix).await
    }

    async fn commit(&self, when: &[(Key, Expect)], then: &[Op]) -> Result<Commit, EngineError> {
        // What is ordered concerns the next commit of this client: the one below, which begins in the same poll.
        match self.plan.of_commit(Purpose::of(when, then)) {
            None => {}
            Some(Fault::AnswerLost) => self.memory.lose_next(),
            Some(Fault::RequestLost) => self.memory.lose_next_request(),
            Some(Fault::Twice) => self.memory.commit_twice(),
            Some(Fault::DoneLate) => self.memory.commit_late(Fault::LATE),
            Some(Fault::AnsweredLate) => self.memory.answer_late(Fault::LATE),
            Some(Fault::AgainLate) => {
                let (memory, when, then) = (self.memory.clone(), when.to_vec(), then.to_vec());
                tokio::spawn(async move {
                    sleep(Fault::LATE).await;
                    // Nothing waits for the outcome of the second arrival.
                    let _ = memory.commit(&when, &then).await;
                });
            }
        }
        self.memory.commit(when, then).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send {
        let watch = events(self.memory.clone(), prefix.to_owned(), from);
        let plan = self.plan.clone();
        let hit = move || plan.with(|state| state.hits += 1);
        let watch: BoxStream<'static, _> = match self.plan.cut() {
            Cut::Never => watch.boxed(),
            Cut::After => watch.take(1).inspect(move |_| hit()).boxed(),
            Cut::Instead => watch.take(1).inspect(move |_| hit()).filter(|_| ready(false)).boxed(),
            Cut::Fails => {
                watch.take(1).inspect(move |_| hit()).map(|_| Err(WatchError::Refused("by the plan".into()))).boxed()
            }
            Cut::Compacted => watch
                .inspect(move |change| {
                    if matches!(change, Err(WatchError::Compacted { .. })) {
                        hit();
                    }
                })
                .then(async |change| {
                    // What is committed meanwhile is forgotten before the watch asks for it.
                    sleep(Duration::from_millis(150)).await;
                    change
                })
                .boxed(),
            Cut::Silent(events) => {
                let silence = stream::poll_fn(move |_| {
                    hit();
                    Poll::Pending
                });
                watch.take(events).chain(silence).boxed()
            }
        };
        watch
    }
}

/// The watch of an engine, as a stream that owns what it needs.
fn events(memory: Memory, prefix: String, from: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send {
    stream::unfold((memory, prefix, Some(from)), async |(memory, prefix, from)| {
        let next = pin!(memory.watch(&prefix, from?)).next().await?;
        let resume = next.as_ref().ok().map(|change| change.revision);
        Some((next, (memory, prefix, resume)))
    })
}
