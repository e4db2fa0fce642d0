//! [`World`]: a registry, and what must hold after each scenario.

use std::time::Duration;

use gen_registry::{Builder, CallError, Event, Events, Registry, WorkerHandle};

use crate::exec::{pass, yield_now};
use crate::subject::{Ask, Book, Init, Plan, Subject};

pub(crate) const KEY: u32 = 1;
pub(crate) const OTHER: u32 = 2;

/// Longer than any timeout of a scenario.
pub(crate) const LONG: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) registry: Registry<Subject>,
    pub(crate) book: Book,
}

impl World {
    /// A registry with options, and a subscription to its events.
    pub(crate) fn new(options: impl FnOnce(Builder<Subject>) -> Builder<Subject>) -> (Self, Events<Subject>) {
        let book = Book::default();
        let undelivered = book.clone();
        let builder = Registry::<Subject>::builder().on_undelivered(move |_, ask| {
            if let Ask::Note(note) = ask {
                undelivered.undelivered(note);
            }
        });
        let registry = options(builder).build().expect("the scenario has a runtime");
        let events = registry.subscribe();
        (Self { registry, book }, events)
    }

    pub(crate) fn plain() -> (Self, Events<Subject>) {
        Self::new(|builder| builder)
    }

    pub(crate) fn plan(&self, init: Init) -> Plan {
        Plan { init, book: self.book.clone() }
    }

    pub(crate) async fn start(&self, key: u32) -> WorkerHandle<Subject> {
        self.registry.start(&key, self.plan(Init::Ready)).await.expect("the key is vacant")
    }

    /// Sends notes to whichever worker the key has, and records those that were accepted. Their numbers begin with the
    /// sender.
    pub(crate) async fn cast_notes(&self, sender: u32, notes: u32) {
        for note in (1..=notes).map(|note| sender * 100 + note) {
            if self.registry.via(&KEY).cast(Ask::Note(note)).await.is_ok() {
                self.book.accept(note);
            }
        }
    }

    /// Calls whichever worker the key has.
    pub(crate) async fn call(&self) {
        match self.registry.via(&KEY).call(Ask::Echo).await {
            Ok(answer) => assert_eq!(answer, KEY),
            Err(error) => {
                let is_expected = matches!(error, CallError::NotDelivered | CallError::NotFound | CallError::NoReply);
                assert!(is_expected, "{error:?}");
            }
        }
    }

    /// Stops the worker of the key. A lookup that follows a stop finds no worker that was there before. (G3)
    pub(crate) async fn stop(&self) {
        let before = self.registry.lookup(&KEY).map(|worker| worker.id());
        if self.registry.stop(&KEY).await.is_ok() {
            let after = self.registry.lookup(&KEY).map(|worker| worker.id());
            assert!(before.is_none() || before != after, "a worker is found after its stop");
        }
    }

    pub(crate) async fn kill(&self) {
        let before = self.registry.lookup(&KEY).map(|worker| worker.id());
        if self.registry.kill(&KEY).await.is_ok() {
            let after = self.registry.lookup(&KEY).map(|worker| worker.id());
            assert!(before.is_none() || before != after, "a worker is found after its kill");
        }
    }

    /// Every verb has returned. Now the registry comes to rest, the counts agree (G9), a shutdown ends it (G10), and
    /// nothing is left or lost.
    pub(crate) async fn check(self, mut events: Events<Subject>) {
        let Self { registry, book } = self;
        // A loop that never ends is too long a schedule, which fails. While the owner is in the middle of an operation, the
        // counts of it are.
        loop {
            let stats = registry.stats();
            let is_at_rest = stats.workers() == stats.running && stats.owner_queue == 0 && stats.queued == 0;
            let has_no_waiters = stats.waiting_for_turn == 0 && stats.waiting_for_room == 0;
            let listed = registry.to_list().len();
            let counts = [registry.count(), stats.running, (stats.starts.ok - stats.exits.total()) as usize];
            if is_at_rest && has_no_waiters && counts == [listed; 3] {
                break;
            }
            // A restart may wait for its backoff.
            pass(Duration::from_millis(1)).await;
            yield_now().await;
        }
        let report = registry.shutdown().await;
        let stats = registry.stats();
        assert_eq!((report.stuck, registry.count(), stats.workers()), (0, 0, 0), "{report:?} {stats:?}");
        assert_eq!(stats.starts.ok, stats.exits.total(), "{stats:?}");
        assert_eq!(book.alive(), 0, "a state is left");
        assert!(registry.lookup(&KEY).is_none());
        book.check();
        let (mut begun, mut ended) = (0, 0);
        while let Some(event) = events.recv().await {
            match event.expect("there are few events") {
                Event::Started { .. } | Event::Restarted { .. } => begun += 1,
                Event::Exited { .. } => ended += 1,
                _ => {}
            }
            assert!(ended <= begun, "an exit is reported before its start");
        }
        assert_eq!(begun, ended, "each run that began has ended: {stats:?}");
    }
}
