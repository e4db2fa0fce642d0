//! The cost of a hand-written start that keeps some of the guarantees of a registry.

use std::hash::RandomState;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::baselines::{Mail, Sender, serve};
use super::{Begin, Counts, Key, MAILBOX, Variant};

const STARTING: u8 = 0;
const OPEN: u8 = 1;
const CLOSED: u8 = 2;

/// A worker that is visible only after its `init` has returned and until it starts to exit.
pub(crate) struct Worker {
    sender: Sender,
    gate: AtomicU8,
    /// Callers that wait for the gate to open, and later for the exit.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Worker {
    fn waiting(&self) -> MutexGuard<'_, Vec<oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.gate.load(Ordering::Acquire) == OPEN
    }

    /// Sets the gate and returns the callers that waited for it.
    fn set(&self, gate: u8) -> Vec<oneshot::Sender<()>> {
        let mut waiting = self.waiting();
        self.gate.store(gate, Ordering::Release);
        std::mem::take(&mut waiting)
    }
}

impl Counts for Arc<Worker> {
    async fn cast(&self) {
        self.sender.cast().await;
    }

    async fn call(&self) -> u64 {
        self.sender.call().await
    }

    fn note(&self) {
        self.sender.note();
    }
}

type Map<K> = DashMap<K, Arc<Worker>, RandomState>;

/// A `DashMap` in which a key has at most one worker, starts are shared, and a lookup finds open workers only: the
/// baseline of a cold start with these guarantees (G1, G2, G3 and most of G5). It has no limits, restarts, detection of
/// cycles, counters, events or draining shutdown.
#[derive(Clone)]
pub(crate) struct Guarded<K: Key>(Arc<Map<K>>);

/// Removes the key once the worker is dropped, whatever ended it.
struct Exit<K: Key> {
    map: Arc<Map<K>>,
    key: K,
    worker: Arc<Worker>,
}

impl<K: Key> Drop for Exit<K> {
    fn drop(&mut self) {
        let waiting = self.worker.set(CLOSED);
        self.map.remove_if(&self.key, |_, worker| Arc::ptr_eq(worker, &self.worker));
        // The waiting callers look up again.
        drop(waiting);
    }
}

impl<K: Key> Guarded<K> {
    fn spawn(&self, key: K, worker: Arc<Worker>, mailbox: mpsc::Receiver<Mail>) {
        let exit = Exit { map: Arc::clone(&self.0), key, worker };
        tokio::spawn(async move {
            let run = AssertUnwindSafe(async {
                if timeout(Duration::from_secs(30), Begin::AtOnce.init()).await.is_err() {
                    return;
                }
                for waiting in exit.worker.set(OPEN) {
                    // The caller may have dropped its receiver.
                    let _ = waiting.send(());
                }
                serve(mailbox).await;
            });
            // A panic ends this worker only.
            drop(run.catch_unwind().await);
            drop(exit);
        });
    }
}

impl<K: Key> Variant<K> for Guarded<K> {
    const NAME: &'static str = "a guarded DashMap";
    type Handle = Arc<Worker>;

    fn empty() -> Self {
        Self(Arc::new(DashMap::with_hasher(RandomState::new())))
    }

    fn lookup(&self, key: &K) -> Option<Arc<Worker>> {
        self.0.get(key).filter(|worker| worker.is_open()).map(|worker| Arc::clone(&worker))
    }

    async fn start(&self, key: &K) -> Arc<Worker> {
        if let Some(worker) = self.lookup(key) {
            return worker;
        }
        loop {
            let (notify, opened) = oneshot::channel();
            let worker = match self.0.entry(key.clone()) {
                Entry::Vacant(vacant) => {
                    let (sender, mailbox) = mpsc::channel(MAILBOX);
                    let waiting = Mutex::new(vec![notify]);
                    let worker = Arc::new(Worker { sender, gate: AtomicU8::new(STARTING), waiting });
                    vacant.insert(Arc::clone(&worker));
                    self.spawn(key.clone(), Arc::clone(&worker), mailbox);
                    worker
                }
                Entry::Occupied(taken) => {
                    let worker = Arc::clone(taken.get());
                    let mut waiting = worker.waiting();
                    if worker.is_open() {
                        drop(waiting);
                        return worker;
                    }
                    waiting.push(notify);
                    drop(waiting);
                    worker
                }
            };
            if opened.await.is_ok() {
                return worker;
            }
        }
    }

    async fn end(self) {
        // Each worker keeps its own sender.
        for worker in self.0.iter() {
            worker.sender.try_send(Mail::Stop).expect("the mailbox has room");
        }
    }
}
