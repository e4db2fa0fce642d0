//! Requests to the engine, and their answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::{Change, Commit, EngineError, Snapshot, WatchError};
use crate::events::ClusterEvent;
use crate::machine::wire::outcome;
use crate::machine::{CommitId, Condition, Input, Key, Write};
use crate::metrics::measures::EngineVerb;
use crate::node::driver::Driver;
use crate::node::{Ended, lock};

/// What the engine answered.
pub(super) enum Answer {
    Read(u64, Result<Snapshot, EngineError>, Duration),
    Committed(CommitId, Result<Commit, EngineError>, EngineVerb, Duration),
    Compacted(Result<bool, EngineError>, Duration),
}

impl Driver {
    pub(super) fn read(&mut self, read: u64, watch: bool) {
        if watch {
            self.state.watch = None;
            self.state.watch_after = Some(read);
        } else if self.state.watch_after.is_some() {
            // The read after which a watch was to begin has failed: this one takes its place.
            self.state.watch_after = Some(read);
        }
        let request = self.engine.read(self.wire.prefix().to_owned());
        let began = Instant::now();
        self.state.requests.push(Box::pin(async move { Answer::Read(read, request.await, began.elapsed()) }));
    }

    pub(super) fn commit(&mut self, id: CommitId, when: &[Condition], then: &[Write]) {
        let request = self.engine.commit(self.wire.conditions(when), self.wire.ops(then));
        let is_beat = matches!(then, [Write::Put(Key::Beat(_), _)]);
        let (verb, began) = (if is_beat { EngineVerb::Beat } else { EngineVerb::Commit }, Instant::now());
        self.state.requests.push(Box::pin(async move { Answer::Committed(id, request.await, verb, began.elapsed()) }));
    }

    pub(super) fn answered(&mut self, answer: Answer) -> Option<Input> {
        let measures = &self.node.measures;
        match &answer {
            Answer::Read(_, answer, took) => {
                measures.engine_answered(EngineVerb::Read, *took, answer, false);
                answer.iter().for_each(|snapshot| measures.confirm(snapshot.revision));
            }
            Answer::Committed(_, answer, verb, took) => measures.committed(*verb, *took, answer),
            Answer::Compacted(answer, took) => {
                measures.engine_answered(EngineVerb::Compact, *took, answer, false);
            }
        }
        match answer {
            Answer::Read(read, Ok(snapshot), _) => self.snapshot(read, &snapshot),
            Answer::Read(read, Err(error), _) => {
                self.note(&error);
                Some(Input::ReadFailed { read })
            }
            Answer::Committed(id, answer, ..) => {
                if let Err(error) = &answer {
                    self.note(error);
                }
                Some(Input::Committed { id, outcome: outcome(&answer) })
            }
            Answer::Compacted(Ok(true), _) => None,
            Answer::Compacted(Ok(false), _) => {
                if !std::mem::replace(&mut self.state.is_history_of_others, true) {
                    self.node.emit(ClusterEvent::HistoryOfOthers);
                }
                None
            }
            // It is repeated in five minutes.
            Answer::Compacted(Err(error), _) => {
                self.note(&error);
                None
            }
        }
    }

    fn snapshot(&mut self, read: u64, snapshot: &Snapshot) -> Option<Input> {
        let input = match self.wire.snapshot(read, snapshot) {
            Ok(input) => input,
            Err(damaged) => {
                lock(&self.node.engine).last_error = Some(damaged.to_string());
                if !self.state.was_up {
                    self.end(Ended::Damaged(damaged.to_string()));
                    return None;
                }
                return Some(Input::ReadFailed { read });
            }
        };
        // What comes after the snapshot is watched, so nothing is missed between the two.
        if self.state.watch_after == Some(read) {
            self.state.watch_after = None;
            self.state.watch = Some(self.engine.watch(self.wire.prefix().to_owned(), snapshot.revision));
        }
        Some(input)
    }

    /// The next commit of the watch, or its end.
    pub(super) fn changed(&mut self, change: Option<Result<Change, WatchError>>) -> Input {
        let error = match change {
            // The changes of one commit come together.
            Some(Ok(change)) => match self.wire.changes(&change) {
                Ok(input) => return input,
                Err(damaged) => damaged.to_string(),
            },
            Some(Err(error)) => error.to_string(),
            None => "the watch ended".to_owned(),
        };
        lock(&self.node.engine).last_error = Some(error);
        self.state.watch = None;
        Input::WatchLost
    }

    fn note(&mut self, error: &EngineError) {
        lock(&self.node.engine).last_error = Some(error.to_string());
        if let (EngineError::Refused(why), false) = (error, self.state.was_up) {
            // An operator must change something first. A node that was a member waits for that, because it has its shards.
            self.end(Ended::EngineRefused(why.clone()));
        }
    }
}
