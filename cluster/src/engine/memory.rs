//! An engine within one process.

mod faults;
mod store;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::{oneshot, watch};
use tokio::time;

use crate::engine::memory::faults::{Fault, Faults};
use crate::engine::memory::store::Store;
use crate::engine::{Change, Commit, Engine, EngineError, Expect, Key, Op, Snapshot, WatchError, check};
use crate::id::Revision;

/// How long a request waits while the engine is paused or the client is cut off.
const ATTEMPT: Duration = Duration::from_millis(500);

/// An engine within one process, shared by all clusters that have a clone of it.
///
/// It keeps nothing when the process ends, so it serves clusters of one process: a program without etcd, and tests. It waits
/// for nothing but what a test orders, and works under `tokio::time::pause`.
///
/// # Faults to order
///
/// A test makes it fail as a real engine fails. [`client`](Self::client) names a client. A fault that is ordered through such
/// a value concerns the requests of that client, and otherwise those of all.
///
/// ```
/// use gen_registry_cluster::engine::{Commit, Engine, EngineError, Expect, Memory, Op};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), EngineError> {
/// let engine = Memory::new();
/// let when = [("a".to_owned(), Expect::Absent)];
/// let then = [Op::Put("a".to_owned(), "1".into())];
///
/// engine.lose_next(); // done, but its answer does not arrive
/// assert!(matches!(engine.commit(&when, &then).await, Err(EngineError::Unknown(_))));
/// assert_eq!(engine.read("").await?.entries.len(), 1);
/// assert_eq!(engine.commit(&when, &then).await?, Commit::Conflict);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Shared>,
    /// Requests are made in the name of this client. Empty: the value was not made by `client`.
    client: Arc<str>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts the changes of the state. What waits looks again at each.
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    faults: Faults,
    /// Commits that have not reached the store yet, in the order of their arrival.
    queue: VecDeque<Request>,
}

/// A commit on its way. It stays on its way if its caller drops the future.
#[derive(Debug)]
struct Request {
    client: Arc<str>,
    when: Vec<(Key, Expect)>,
    then: Vec<Op>,
    answer: oneshot::Sender<Commit>,
}

impl State {
    fn perform(&mut self, request: Request) {
        let outcome = self.store.commit(&request.when, &request.then);
        // The caller may have dropped the future. What is done stays done.
        let _ = request.answer.send(outcome);
    }

    fn submit(&mut self, request: Request) {
        if self.faults.is_cut(&request.client) {
            self.queue.push_back(request);
        } else {
            self.perform(request);
        }
    }

    /// Performs the commits that were held up and are not any more.
    fn let_through(&mut self) {
        for request in std::mem::take(&mut self.queue) {
            self.submit(request);
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Memory {
    /// An engine without records.
    pub fn new() -> Memory {
        let shared = Shared { state: Mutex::default(), version: watch::Sender::new(0) };
        Memory { shared: Arc::new(shared), client: "".into() }
    }

    /// The same engine, for the client with this name.
    #[must_use]
    pub fn client(&self, name: &str) -> Memory {
        Memory { shared: self.shared.clone(), client: name.into() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes what waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.shared.version.send_modify(|version| *version = version.wrapping_add(1));
        result
    }

    /// What `look` finds, if requests of the client reach the engine.
    fn now<T>(&self, look: impl FnOnce(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        if state.faults.is_cut(&self.client) { None } else { look(&mut state) }
    }

    /// Waits until requests of the client reach the engine, and `look` finds something there.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut version = self.shared.version.subscribe();
        loop {
            // Before the look: a change that comes after the look is then a new version.
            version.borrow_and_update();
            if let Some(found) = self.now(&mut look) {
                return found;
            }
            // `self` keeps the sender.
            let _ = version.changed().await;
        }
    }

    /// Awaits the outcome of a commit that was submitted, for as long as an attempt may take.
    async fn outcome(&self, mut answer: oneshot::Receiver<Commit>) -> Result<Commit, EngineError> {
        // First without a timer: an engine without faults answers at once, and needs none.
        if let Ok(outcome) = answer.try_recv() {
            return Ok(outcome);
        }
        match time::timeout(ATTEMPT, answer).await {
            Ok(Ok(outcome)) => Ok(outcome),
            _ => Err(EngineError::Unknown("no answer in time".into())),
        }
    }

    fn request(&self, when: &[(Key, Expect)], then: &[Op]) -> (Request, oneshot::Receiver<Commit>) {
        let (answer, answered) = oneshot::channel();
        (Request { client: self.client.clone(), when: when.to_vec(), then: then.to_vec(), answer }, answered)
    }

    fn submit_late(&self, by: Duration, request: Request) {
        let memory = self.clone();
        tokio::spawn(async move {
            time::sleep(by).await;
            memory.change(|state| state.submit(request));
        });
    }
}

impl Engine for Memory {
    async fn read(&self, prefix: &str) -> Result<Snapshot, EngineError> {
        let look = |state: &mut State| Some(state.store.read(prefix));
        // First without a timer, as in `outcome`.
        if let Some(snapshot) = self.now(look) {
            return Ok(snapshot);
        }
        let answer = time::timeout(ATTEMPT, self.until(look)).await;
        answer.map_err(|_| EngineError::Unavailable("no answer in time".into()))
    }

    async fn commit(&self, when: &[(Key, Expect)], then: &[Op]) -> Result<Commit, EngineError> {
        check(when, then, self.most_ops())?;
        let lost = |what: &str| Err(EngineError::Unknown(format!("the {what} was lost")));
        let (request, answer) = self.request(when, then);
        let fault = self.lock().faults.next(&self.client);
        // No await before the submission: a future that was polled once has sent its commit.
        match fault {
            Some(Fault::LoseRequest) => return lost("request"),
            Some(Fault::CommitLate(by)) => {
                self.submit_late(by, request);
                return lost("answer");
            }
            _ => self.change(|state| state.submit(request)),
        }
        match fault {
            Some(Fault::LoseAnswer) => return lost("answer"),
            Some(Fault::AnswerLate(by)) => time::sleep(by).await,
            Some(Fault::CommitTwice) => {
                let (again, _) = self.request(when, then);
                self.change(|state| state.submit(again));
            }
            _ => {}
        }
        self.outcome(answer).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send {
        stream::unfold(Some(from), move |from| async move {
            let from = from?;
            let next = self.until(|state| state.store.next(prefix, from)).await;
            let resume = next.as_ref().ok().map(|change| change.revision);
            Some((next, resume))
        })
    }

    async fn compact(&self, before: Revision) -> Result<(), EngineError> {
        self.change(|state| state.store.compact(before))
    }
}
