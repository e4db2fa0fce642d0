//! The engine as an object: the node names no type of it.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};

use crate::engine::{Change, Commit, Engine, EngineError, Expect, Key, Op, Snapshot, WatchError};
use crate::id::Revision;

/// An [`Engine`] whose futures own what they need.
pub(crate) trait AnyEngine: Send + Sync {
    fn read(&self, prefix: String) -> BoxFuture<'static, Result<Snapshot, EngineError>>;
    fn commit(&self, when: Vec<(Key, Expect)>, then: Vec<Op>) -> BoxFuture<'static, Result<Commit, EngineError>>;
    fn watch(&self, prefix: String, from: Revision) -> BoxStream<'static, Result<Change, WatchError>>;
    /// Compacts, unless the history is not this cluster's alone: then it returns false.
    fn compact(&self, prefix: String, before: Revision) -> BoxFuture<'static, Result<bool, EngineError>>;
    fn most_ops(&self) -> usize;
}

pub(crate) struct Erased<E>(pub(crate) std::sync::Arc<E>);

impl<E: Engine> AnyEngine for Erased<E> {
    fn read(&self, prefix: String) -> BoxFuture<'static, Result<Snapshot, EngineError>> {
        let engine = self.0.clone();
        Box::pin(async move { engine.read(&prefix).await })
    }

    fn commit(&self, when: Vec<(Key, Expect)>, then: Vec<Op>) -> BoxFuture<'static, Result<Commit, EngineError>> {
        let engine = self.0.clone();
        Box::pin(async move { engine.commit(&when, &then).await })
    }

    fn watch(&self, prefix: String, from: Revision) -> BoxStream<'static, Result<Change, WatchError>> {
        let engine = self.0.clone();
        // The stream borrows the engine. A channel of one place is between them: what is not read is not fetched.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(async move {
            let mut changes = std::pin::pin!(engine.watch(&prefix, from));
            while let Some(change) = changes.next().await {
                if sender.send(change).await.is_err() {
                    return;
                }
            }
        });
        let task = AbortOnDrop(task);
        stream::unfold((receiver, task), async |(mut receiver, task)| Some((receiver.recv().await?, (receiver, task))))
            .boxed()
    }

    fn compact(&self, prefix: String, before: Revision) -> BoxFuture<'static, Result<bool, EngineError>> {
        let engine = self.0.clone();
        Box::pin(async move {
            if engine.serves_others(&prefix).await? {
                return Ok(false);
            }
            engine.compact(before).await.map(|()| true)
        })
    }

    fn most_ops(&self) -> usize {
        self.0.most_ops()
    }
}

/// Ends a task that nothing waits for any more.
pub(crate) struct AbortOnDrop<T>(pub(crate) tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
