//! What foreign code calls: verbs of the registry whose code has reached it, of its workers and its directories.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use gen_registry::{Aliases, Groups, Registry};
use test_support::{BoxFuture, within};

use crate::device::{Deed, Device};
use crate::host::{Args, BYSTANDER, FRESH, Host, Id, Message, Name, STANDBY, VICTIM};

/// The futures of verbs that foreign code has polled once, by the name of the verb.
#[derive(Clone, Default)]
pub(crate) struct Started(Arc<Mutex<Vec<Pending>>>);

type Pending = (&'static str, BoxFuture<'static, ()>);

impl Started {
    /// Polls the future of a verb once, as code does that must not wait.
    fn poll_once(&self, verb: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let mut future: BoxFuture<'static, ()> = Box::pin(future);
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((verb, future));
        }
    }

    /// Every verb returns.
    pub(crate) async fn finish(&self) {
        let started = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (verb, future) in started {
            within(future, verb).await;
        }
    }
}

#[derive(Clone)]
pub(crate) struct Verbs {
    pub(crate) device: Device,
    pub(crate) registry: Registry<Host>,
    pub(crate) aliases: Aliases<Name, Host>,
    pub(crate) groups: Groups<Name, Host>,
    pub(crate) started: Started,
}

impl Verbs {
    pub(crate) fn id(&self, id: u32) -> Id {
        Id { id, device: self.device.clone() }
    }

    /// Runs in foreign code.
    pub(crate) fn call(self, deed: Deed) {
        self.read();
        self.send();
        if deed == Deed::End { self.end() } else { self.change() }
    }

    fn read(&self) {
        let Self { registry, aliases, groups, device, .. } = self;
        let found = registry.lookup(&self.id(VICTIM));
        drop((registry.lookup(&self.id(BYSTANDER)), registry.sample(), registry.subscribe()));
        assert!(registry.to_list().len() <= 16 && registry.count() <= 16, "the test starts few workers");
        let folded = registry.reduce(0, |sum, key, worker| sum + key.id + u32::from(worker.incarnation() > 1_000));
        let stats = registry.stats();
        assert!(u64::from(folded) < 1_000_000 && stats.running <= 16, "{stats:?}");
        let name = Name::new(device);
        drop((aliases.whereis(&name), aliases.to_list(), groups.members(&name)));
        if let Some(worker) = &found {
            drop((aliases.names_of(worker), groups.groups_of(worker)));
            assert!(worker.id() == worker.clone().id(), "{:?}", worker.state());
        }
    }

    fn send(&self) {
        for id in [VICTIM, BYSTANDER] {
            // Refused where the worker has ended.
            drop(self.registry.via(&self.id(id)).try_cast(Message::quiet(&self.device)));
            if let Some(worker) = self.registry.lookup(&self.id(id)) {
                drop(worker.try_cast(Message::quiet(&self.device)));
                drop(worker.try_call(Message::echo(&self.device)));
            }
        }
    }

    fn change(self) {
        let Self { registry, aliases, groups, device, started } = self.clone();
        if let Some(worker) = registry.lookup(&self.id(BYSTANDER)) {
            // A name that the victim has is taken.
            drop(aliases.register(Name::new(&device), &worker));
            drop(groups.join(Name::new(&device), &worker));
            drop((aliases.unregister(&Name::new(&device)), groups.leave(&Name::new(&device), &worker)));
        }
        for (verb, id) in [("lookup_or_start", FRESH), ("lookup_or_start of the victim", VICTIM)] {
            let (registry, id, args) = (registry.clone(), self.id(id), Args::quiet(&device));
            started.poll_once(verb, async move { drop(registry.lookup_or_start(&id, args).await) });
        }
        let (via, message) = (registry.via_or_start(&self.id(VICTIM), Args::quiet(&device)), Message::quiet(&device));
        started.poll_once("cast", async move { drop(via.cast(message).await) });
        let (stopped, id) = (registry, self.id(STANDBY));
        started.poll_once("stop", async move { drop(stopped.stop(&id).await) });
    }

    fn end(self) {
        let (registry, id, started) = (self.registry.clone(), self.id(VICTIM), self.started.clone());
        started.poll_once("stop of the victim", async move { drop(registry.stop(&id).await) });
        let registry = self.registry;
        started.poll_once("shutdown", async move { assert_eq!(registry.shutdown().await.stuck, 0) });
    }
}
