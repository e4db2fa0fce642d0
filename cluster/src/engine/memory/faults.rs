//! What a test orders of the engine.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Memory;

/// What happens to one commit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    LoseRequest,
    LoseAnswer,
    AnswerLate(Duration),
    CommitLate(Duration),
    CommitTwice,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    /// For the next commits of a client, or of any if the name is empty. First ordered, first used.
    orders: Vec<(Arc<str>, Fault)>,
    is_paused: bool,
    split: HashSet<Arc<str>>,
}

impl Faults {
    /// Whether requests of the client do not reach the engine.
    pub(super) fn is_cut(&self, client: &str) -> bool {
        self.is_paused || self.split.contains(client)
    }

    pub(super) fn next(&mut self, client: &str) -> Option<Fault> {
        let mine = |(ordered, _): &(Arc<str>, Fault)| ordered.is_empty() || **ordered == *client;
        let at = self.orders.iter().position(mine)?;
        Some(self.orders.remove(at).1)
    }
}

/// Faults to order.
impl Memory {
    fn order(&self, fault: Fault) {
        self.lock().faults.orders.push((self.client.clone(), fault));
    }

    /// The next commit is done. Its answer is lost: the caller gets
    /// [`EngineError::Unknown`](crate::engine::EngineError::Unknown).
    pub fn lose_next(&self) {
        self.order(Fault::LoseAnswer);
    }

    /// The next commit is not done, and the caller gets [`EngineError::Unknown`](crate::engine::EngineError::Unknown).
    pub fn lose_next_request(&self) {
        self.order(Fault::LoseRequest);
    }

    /// The next commit is done at once. Its answer arrives this much later.
    pub fn answer_late(&self, by: Duration) {
        self.order(Fault::AnswerLate(by));
    }

    /// The caller of the next commit gets [`EngineError::Unknown`](crate::engine::EngineError::Unknown) at once. The commit is
    /// decided this much later, as if it had waited in a network.
    pub fn commit_late(&self, by: Duration) {
        self.order(Fault::CommitLate(by));
    }

    /// The next commit arrives twice. The caller gets the outcome of the first.
    pub fn commit_twice(&self) {
        self.order(Fault::CommitTwice);
    }

    /// The engine answers nothing until [`resume`](Self::resume). Requests fail after 500 ms. Commits that have arrived are
    /// decided on `resume`, whether a caller still waits or not.
    pub fn pause(&self) {
        self.change(|state| state.faults.is_paused = true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.change(|state| {
            state.faults.is_paused = false;
            state.let_through();
        });
    }

    /// Cuts a [client](Self::client) off until [`heal`](Self::heal). To this client the engine looks paused.
    pub fn split(&self, client: &str) {
        self.change(|state| state.faults.split.insert(client.into()));
    }

    /// Ends a [`split`](Self::split).
    pub fn heal(&self, client: &str) {
        self.change(|state| {
            state.faults.split.remove(client);
            state.let_through();
        });
    }
}
