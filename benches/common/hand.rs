//! What one writes by hand: a concurrent map, a task per key, a bounded channel.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::FutureExt as _;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Begin, Counts, Key, MAILBOX, TALLY, Way};

pub(crate) enum Mail {
    Add(u64),
    Get(oneshot::Sender<u64>),
    Note,
    Stop,
}

pub(crate) type Sender = mpsc::Sender<Mail>;

/// Spawns a worker, and tells when its init is through.
pub(crate) fn spawn(mailbox: mpsc::Receiver<Mail>) -> (oneshot::Receiver<()>, JoinHandle<()>) {
    spawn_that(Begin::AtOnce, mailbox)
}

pub(crate) fn spawn_that(begin: Begin, mut mailbox: mpsc::Receiver<Mail>) -> (oneshot::Receiver<()>, JoinHandle<()>) {
    let (ready, is_ready) = oneshot::channel();
    let task = tokio::spawn(async move {
        begin.init().await;
        let mut count = 0;
        // Who asked for it may have gone away.
        let _ = ready.send(());
        while let Some(mail) = mailbox.recv().await {
            match mail {
                Mail::Add(n) => count += n,
                // Likewise.
                Mail::Get(reply) => drop(reply.send(count)),
                Mail::Note => TALLY.count(),
                Mail::Stop => break,
            }
        }
    });
    (is_ready, task)
}

/// Ends a worker that is in no map any more, after what it has in its mailbox, and waits until it has let go of that.
pub(crate) async fn stop(sender: &Sender) {
    sender.send(Mail::Stop).await.expect("it runs");
    sender.closed().await;
}

impl Counts for Sender {
    async fn cast(&self) {
        self.send(Mail::Add(1)).await.expect("it runs");
    }

    async fn call(&self) -> u64 {
        let (reply, answer) = oneshot::channel();
        self.send(Mail::Get(reply)).await.expect("it runs");
        answer.await.expect("it answers")
    }

    fn note(&self) {
        self.try_send(Mail::Note).expect("it has room");
    }
}

impl Counts for Arc<Sender> {
    async fn cast(&self) {
        Sender::cast(self).await;
    }

    async fn call(&self) -> u64 {
        Sender::call(self).await
    }

    fn note(&self) {
        Sender::note(self);
    }
}

/// A `papaya` map of `Arc`s: the floor of a lookup, with the hasher that gen-registry uses.
#[derive(Clone)]
pub(crate) struct Papaya<K: Key>(pub(crate) Arc<papaya::HashMap<K, Arc<Sender>, RandomState>>);

impl<K: Key> Way<K> for Papaya<K> {
    const NAME: &'static str = "papaya";
    type Handle = Arc<Sender>;

    fn empty() -> Self {
        Self(Arc::new(papaya::HashMap::with_hasher(RandomState::new())))
    }

    fn lookup(&self, key: &K) -> Option<Arc<Sender>> {
        self.0.pin().get(key).cloned()
    }

    async fn start(&self, key: &K) -> Arc<Sender> {
        if let Some(sender) = self.lookup(key) {
            return sender;
        }
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let sender = Arc::new(sender);
        if let Err(taken) = self.0.pin().try_insert(key.clone(), Arc::clone(&sender)) {
            return Arc::clone(taken.current);
        }
        spawn(mailbox).0.await.expect("it starts");
        sender
    }

    async fn end(self) {
        // Not `clear`: papaya frees what was removed some time later, and until then the senders keep the tasks.
        drop(self);
    }
}

/// A `DashMap` of senders: what most services have. A second caller of a starting key does not wait for its init.
#[derive(Clone)]
pub(crate) struct Dash<K: Key>(pub(crate) Arc<DashMap<K, Sender, RandomState>>);

impl<K: Key> Way<K> for Dash<K> {
    const NAME: &'static str = "DashMap";
    type Handle = Sender;

    fn empty() -> Self {
        Self(Arc::new(DashMap::with_hasher(RandomState::new())))
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        self.0.get(key).map(|sender| sender.clone())
    }

    async fn start(&self, key: &K) -> Sender {
        if let Some(sender) = self.lookup(key) {
            return sender;
        }
        let (sender, ready) = match self.0.entry(key.clone()) {
            Entry::Occupied(taken) => return taken.get().clone(),
            Entry::Vacant(vacant) => {
                let (sender, mailbox) = mpsc::channel(MAILBOX);
                let (ready, _) = spawn(mailbox);
                vacant.insert(sender.clone());
                (sender, ready)
            }
        };
        ready.await.expect("it starts");
        sender
    }

    async fn end(self) {
        drop(self);
    }
}

/// A `HashMap` under a lock of the standard library. As for the second caller, see [`Dash`].
#[derive(Clone)]
pub(crate) struct Locked<K: Key>(pub(crate) Arc<RwLock<HashMap<K, Sender>>>);

impl<K: Key> Way<K> for Locked<K> {
    const NAME: &'static str = "RwLock<HashMap>";
    type Handle = Sender;

    fn empty() -> Self {
        Self(Arc::default())
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    async fn start(&self, key: &K) -> Sender {
        if let Some(sender) = self.lookup(key) {
            return sender;
        }
        let (sender, ready) = match self.0.write().unwrap_or_else(PoisonError::into_inner).entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(taken) => return taken.get().clone(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let (sender, mailbox) = mpsc::channel(MAILBOX);
                let (ready, _) = spawn(mailbox);
                vacant.insert(sender.clone());
                (sender, ready)
            }
        };
        ready.await.expect("it starts");
        sender
    }

    async fn end(self) {
        drop(self);
    }
}

/// A `DashMap` of once-cells: any number of callers share one start, and all of them wait for its init.
#[derive(Clone)]
pub(crate) struct DashOnce<K: Key>(pub(crate) Arc<DashMap<K, Arc<OnceCell<Sender>>, RandomState>>);

impl<K: Key> Way<K> for DashOnce<K> {
    const NAME: &'static str = "DashMap of OnceCell";
    type Handle = Sender;

    fn empty() -> Self {
        Self(Arc::new(DashMap::with_hasher(RandomState::new())))
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        self.0.get(key)?.get().cloned()
    }

    async fn start(&self, key: &K) -> Sender {
        let found = self.0.get(key).map(|cell| Arc::clone(&cell));
        let cell = found.unwrap_or_else(|| Arc::clone(&self.0.entry(key.clone()).or_default()));
        let sender = cell.get_or_init(|| async {
            let (sender, mailbox) = mpsc::channel(MAILBOX);
            spawn(mailbox).0.await.expect("it starts");
            sender
        });
        sender.await.clone()
    }

    async fn end(self) {
        drop(self);
    }
}

/// A cache of `moka` without a bound, of senders. Callers share a start, and all of them wait for its init.
#[derive(Clone)]
pub(crate) struct Moka<K: Key>(pub(crate) moka::future::Cache<K, Sender, RandomState>);

impl<K: Key> Way<K> for Moka<K> {
    const NAME: &'static str = "moka";
    type Handle = Sender;

    fn empty() -> Self {
        Self(moka::future::Cache::builder().build_with_hasher(RandomState::new()))
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        // Asynchronous, but all it waits for is the calls that were dropped half way: there are none.
        self.0.get(key).now_or_never().expect("a get that is ready at once")
    }

    async fn start(&self, key: &K) -> Sender {
        let started = self.0.get_with_by_ref(key, async {
            let (sender, mailbox) = mpsc::channel(MAILBOX);
            spawn(mailbox).0.await.expect("it starts");
            sender
        });
        started.await
    }

    async fn end(self) {
        // Not by dropping the cache: moka frees what was in it some time later, maybe never.
        for (_, sender) in &self.0 {
            sender.try_send(Mail::Stop).expect("it has room");
        }
    }
}

/// A `DashMap` that keeps the tasks too, to wait for and to abort.
#[derive(Clone)]
pub(crate) struct Joined(pub(crate) Arc<DashMap<String, Task, RandomState>>);

pub(crate) type Task = (Sender, Option<JoinHandle<()>>);

impl Way<String> for Joined {
    const NAME: &'static str = "DashMap of tasks";
    type Handle = Sender;

    fn empty() -> Self {
        Self(Arc::new(DashMap::with_hasher(RandomState::new())))
    }

    fn lookup(&self, key: &String) -> Option<Sender> {
        self.0.get(key).map(|task| task.0.clone())
    }

    async fn start(&self, key: &String) -> Sender {
        let (sender, ready) = match self.0.entry(key.clone()) {
            Entry::Occupied(taken) => return taken.get().0.clone(),
            Entry::Vacant(vacant) => {
                let (sender, mailbox) = mpsc::channel(MAILBOX);
                let (ready, task) = spawn(mailbox);
                vacant.insert((sender.clone(), Some(task)));
                (sender, ready)
            }
        };
        ready.await.expect("it starts");
        sender
    }

    async fn end(self) {
        let mut tasks = Vec::with_capacity(self.0.len());
        // The last sender goes with the entry, and so the task ends.
        self.0.retain(|_, (_sender, task)| {
            tasks.extend(task.take());
            false
        });
        for task in tasks {
            task.await.expect("a worker must not panic");
        }
    }
}
