//! Hand-written baselines: a concurrent map, a task per key, a bounded channel.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::FutureExt as _;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::hash::SipBuilder;
use super::{Begin, Counts, Key, MAILBOX, TALLY, Variant};

pub(crate) enum Mail {
    Add(u64),
    Get(oneshot::Sender<u64>),
    Note,
    Stop,
}

pub(crate) type Sender = mpsc::Sender<Mail>;

/// Spawns a worker. The receiver resolves when its `init` has returned.
pub(crate) fn spawn(mailbox: mpsc::Receiver<Mail>) -> (oneshot::Receiver<()>, JoinHandle<()>) {
    spawn_that(Begin::AtOnce, mailbox)
}

pub(crate) fn spawn_that(begin: Begin, mailbox: mpsc::Receiver<Mail>) -> (oneshot::Receiver<()>, JoinHandle<()>) {
    let (ready, is_ready) = oneshot::channel();
    let task = spawn_then(begin, mailbox, move || {
        // The caller may have dropped its receiver.
        let _ = ready.send(());
    });
    (is_ready, task)
}

/// Spawns a worker that calls `ready` when its `init` has returned.
fn spawn_then(begin: Begin, mailbox: mpsc::Receiver<Mail>, ready: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        begin.init().await;
        ready();
        serve(mailbox).await;
    })
}

/// The worker's loop.
pub(crate) async fn serve(mut mailbox: mpsc::Receiver<Mail>) {
    let mut count = 0;
    while let Some(mail) = mailbox.recv().await {
        match mail {
            Mail::Add(n) => count += n,
            // The caller may have dropped its receiver.
            Mail::Get(reply) => drop(reply.send(count)),
            Mail::Note => TALLY.count(),
            Mail::Stop => break,
        }
    }
}

/// Ends a worker that was removed from its map: it handles its mailbox, then drops it.
pub(crate) async fn stop(sender: &Sender) {
    sender.send(Mail::Stop).await.expect("the worker is running");
    sender.closed().await;
}

impl Counts for Sender {
    async fn cast(&self) {
        self.send(Mail::Add(1)).await.expect("the worker is running");
    }

    async fn call(&self) -> u64 {
        let (reply, answer) = oneshot::channel();
        self.send(Mail::Get(reply)).await.expect("the worker is running");
        answer.await.expect("the worker replies")
    }

    fn note(&self) {
        self.try_send(Mail::Note).expect("the mailbox has room");
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

/// A `papaya` map of `Arc`s: the baseline of a lookup, with the hasher of gen-registry.
#[derive(Clone)]
pub(crate) struct Papaya<K: Key>(pub(crate) Arc<papaya::HashMap<K, Arc<Sender>, SipBuilder>>);

impl<K: Key> Variant<K> for Papaya<K> {
    const NAME: &'static str = "papaya";
    type Handle = Arc<Sender>;

    fn empty() -> Self {
        Self(Arc::new(papaya::HashMap::with_hasher(SipBuilder::new())))
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
        spawn(mailbox).0.await.expect("the start succeeds");
        sender
    }

    async fn end(self) {
        // Not `clear`: papaya frees removed entries later, and until then the senders keep the tasks alive.
        drop(self);
    }
}

/// A `papaya` set of `Arc`s that hold the key beside the sender, so that a handle has its key and no key is stored
/// twice: the baseline of a lookup for a registry whose handles have keys. The key is one pointer further away than in
/// a map.
#[derive(Clone)]
pub(crate) struct Beside<K: Key>(pub(crate) Arc<papaya::HashSet<Named<K>, SipBuilder>>);

#[derive(Clone)]
pub(crate) struct Named<K>(pub(crate) Arc<(K, Sender)>);

impl<K: Key> PartialEq for Named<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}

impl<K: Key> Eq for Named<K> {}

impl<K: Key> Hash for Named<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.0.hash(state);
    }
}

impl<K: Key> Borrow<K> for Named<K> {
    fn borrow(&self) -> &K {
        &self.0.0
    }
}

impl<K: Key> Counts for Named<K> {
    async fn cast(&self) {
        self.0.1.cast().await;
    }

    async fn call(&self) -> u64 {
        self.0.1.call().await
    }

    fn note(&self) {
        self.0.1.note();
    }
}

impl<K: Key> Variant<K> for Beside<K> {
    const NAME: &'static str = "papaya, key beside the sender";
    type Handle = Named<K>;

    fn empty() -> Self {
        Self(Arc::new(papaya::HashSet::with_hasher(SipBuilder::new())))
    }

    fn lookup(&self, key: &K) -> Option<Named<K>> {
        self.0.pin().get(key).cloned()
    }

    async fn start(&self, key: &K) -> Named<K> {
        if let Some(named) = self.lookup(key) {
            return named;
        }
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let named = Named(Arc::new((key.clone(), sender)));
        self.0.pin().insert(named.clone());
        spawn(mailbox).0.await.expect("the start succeeds");
        named
    }

    async fn end(self) {
        drop(self);
    }
}

/// A task that owns a `papaya` map, receives start requests and spawns the workers, which reply to the callers
/// themselves: the baseline of a cold start through an owner task. It has no failures, timeouts, limits, stops or
/// exits.
#[derive(Clone)]
pub(crate) struct Owned<K: Key> {
    map: Arc<papaya::HashMap<K, Sender, RandomState>>,
    requests: mpsc::Sender<(K, oneshot::Sender<Sender>)>,
}

impl<K: Key> Variant<K> for Owned<K> {
    const NAME: &'static str = "a bare owner task";
    type Handle = Sender;

    fn empty() -> Self {
        let map = Arc::new(papaya::HashMap::with_hasher(RandomState::new()));
        let (requests, mut requested) = mpsc::channel::<(K, oneshot::Sender<Sender>)>(1_024);
        let owned = Arc::clone(&map);
        tokio::spawn(async move {
            while let Some((key, reply)) = requested.recv().await {
                let map = owned.pin();
                if let Some(sender) = map.get(&key) {
                    // The caller may have dropped its receiver.
                    drop(reply.send(Sender::clone(sender)));
                    continue;
                }
                let (sender, mailbox) = mpsc::channel(MAILBOX);
                map.insert(key, sender.clone());
                spawn_then(Begin::AtOnce, mailbox, || drop(reply.send(sender)));
            }
        });
        Self { map, requests }
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        self.map.pin().get(key).cloned()
    }

    async fn start(&self, key: &K) -> Sender {
        if let Some(sender) = self.lookup(key) {
            return sender;
        }
        let (reply, answer) = oneshot::channel();
        self.requests.send((key.clone(), reply)).await.expect("the owner runs");
        answer.await.expect("the start succeeds")
    }

    async fn end(self) {
        drop(self);
    }
}

type Waiting = Vec<oneshot::Sender<Sender>>;

/// A `papaya` map, with a lock around the callers that wait for each start. A caller locks it to claim the key, and the
/// worker when its `init` has returned: a cold start that is ordered by a lock. It has no failures, timeouts, limits,
/// stops or exits.
#[derive(Clone)]
pub(crate) struct OneLock<K: Key> {
    map: Arc<papaya::HashMap<K, Sender, RandomState>>,
    starting: Arc<Mutex<HashMap<K, Waiting>>>,
}

impl<K: Key> OneLock<K> {
    fn starting(&self) -> MutexGuard<'_, HashMap<K, Waiting>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the worker visible and notifies its callers.
    fn open(&self, key: &K, sender: &Sender) {
        let waiting = {
            let mut starting = self.starting();
            self.map.pin().insert(key.clone(), sender.clone());
            starting.remove(key)
        };
        for reply in waiting.into_iter().flatten() {
            // The caller may have dropped its receiver.
            drop(reply.send(sender.clone()));
        }
    }
}

impl<K: Key> Variant<K> for OneLock<K> {
    const NAME: &'static str = "one lock";
    type Handle = Sender;

    fn empty() -> Self {
        Self { map: Arc::new(papaya::HashMap::with_hasher(RandomState::new())), starting: Arc::default() }
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        self.map.pin().get(key).cloned()
    }

    async fn start(&self, key: &K) -> Sender {
        if let Some(sender) = self.lookup(key) {
            return sender;
        }
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut starting = self.starting();
            // Check again: the start may have completed meanwhile.
            if let Some(sender) = self.lookup(key) {
                return sender;
            }
            let waiting = starting.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
            waiting.push(reply);
            waiting.len() == 1
        };
        if is_first {
            let (sender, mailbox) = mpsc::channel(MAILBOX);
            let (this, key) = (self.clone(), key.clone());
            // The closure owns the sender. The worker has none.
            spawn_then(Begin::AtOnce, mailbox, move || this.open(&key, &sender));
        }
        answer.await.expect("the start succeeds")
    }

    async fn end(self) {
        drop(self);
    }
}

/// A `DashMap` of senders: what most services use. A second caller of a starting key does not wait for its `init`.
#[derive(Clone)]
pub(crate) struct Dash<K: Key>(pub(crate) Arc<DashMap<K, Sender, RandomState>>);

impl<K: Key> Variant<K> for Dash<K> {
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
        ready.await.expect("the start succeeds");
        sender
    }

    async fn end(self) {
        drop(self);
    }
}

/// A `HashMap` under a lock of the standard library. A second caller behaves as in [`Dash`].
#[derive(Clone)]
pub(crate) struct Locked<K: Key>(pub(crate) Arc<RwLock<HashMap<K, Sender>>>);

impl<K: Key> Variant<K> for Locked<K> {
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
        ready.await.expect("the start succeeds");
        sender
    }

    async fn end(self) {
        drop(self);
    }
}

/// A `DashMap` of once-cells: concurrent callers share a start, and all of them wait for its `init`.
#[derive(Clone)]
pub(crate) struct DashOnce<K: Key>(pub(crate) Arc<DashMap<K, Arc<OnceCell<Sender>>, RandomState>>);

impl<K: Key> Variant<K> for DashOnce<K> {
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
            spawn(mailbox).0.await.expect("the start succeeds");
            sender
        });
        sender.await.clone()
    }

    async fn end(self) {
        drop(self);
    }
}

/// An unbounded cache of `moka` with senders. Callers share a start, and all of them wait for its `init`.
#[derive(Clone)]
pub(crate) struct Moka<K: Key>(pub(crate) moka::future::Cache<K, Sender, RandomState>);

impl<K: Key> Variant<K> for Moka<K> {
    const NAME: &'static str = "moka";
    type Handle = Sender;

    fn empty() -> Self {
        Self(moka::future::Cache::builder().build_with_hasher(RandomState::new()))
    }

    fn lookup(&self, key: &K) -> Option<Sender> {
        // `get` is asynchronous, but only waits for interrupted calls, of which there are none.
        self.0.get(key).now_or_never().expect("`get` is ready at once")
    }

    async fn start(&self, key: &K) -> Sender {
        let started = self.0.get_with_by_ref(key, async {
            let (sender, mailbox) = mpsc::channel(MAILBOX);
            spawn(mailbox).0.await.expect("the start succeeds");
            sender
        });
        started.await
    }

    async fn end(self) {
        // Dropping the cache is not enough: moka frees its entries later, or never.
        for (_, sender) in &self.0 {
            sender.try_send(Mail::Stop).expect("the mailbox has room");
        }
    }
}

/// A `DashMap` that also keeps the tasks, to await and abort them.
#[derive(Clone)]
pub(crate) struct Joined(pub(crate) Arc<DashMap<String, Task, RandomState>>);

pub(crate) type Task = (Sender, Option<JoinHandle<()>>);

impl Variant<String> for Joined {
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
        ready.await.expect("the start succeeds");
        sender
    }

    async fn end(self) {
        let mut tasks = Vec::with_capacity(self.0.len());
        // The last sender is dropped with the entry, which ends the task.
        self.0.retain(|_, (_sender, task)| {
            tasks.extend(task.take());
            false
        });
        for task in tasks {
            task.await.expect("a worker must not panic");
        }
    }
}
