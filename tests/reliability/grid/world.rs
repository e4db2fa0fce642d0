//! Runs one cell: a registry, a worker with its faults, callers, and the event.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use gen_registry::{CallError, Event as Observed, Events, Registry, WorkerHandle};
use test_support::{assert_at_rest, within};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::callers::{Answer, Callers};
use super::cells::{Cell, Event, Moment};
use super::worker::{Ask, Book, Fault, Faults, Faulty, Phase, Plan};
use crate::ledger::{Ledger, Note};

const KEY: u32 = 1;

/// The cell's event is the end of the runtime.
pub(crate) struct RuntimeEnds;

/// The time limits of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Paused,
    /// Some code blocks its thread.
    Real,
}

pub(crate) struct World {
    cell: Cell,
    clock: Clock,
    registry: Option<Registry<Faulty>>,
    events: Events<Faulty>,
    book: Arc<Book>,
    ledger: Arc<Ledger>,
    callers: Callers,
    has_stoppers: bool,
}

fn any<T, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |_| "ok".to_owned())
}

/// An answered call was handled, and one that was not delivered was not. (G6)
fn called(ledger: &Ledger, id: usize, result: Result<u32, CallError<Faulty>>) -> String {
    let has_begun = ledger.has_begun(id);
    match &result {
        Ok(_) | Err(CallError::NoReply) => assert!(has_begun, "{result:?} without a handler"),
        Err(error) => assert!(!has_begun, "{error:?}, but the handler ran"),
    }
    any(result)
}

impl World {
    /// Must run in the runtime of the workers.
    pub(crate) fn new(cell: Cell, clock: Clock, book: &Arc<Book>, ledger: &Arc<Ledger>) -> Self {
        let limit = match clock {
            Clock::Paused => Duration::from_secs(5),
            // Long enough for a task to begin on a busy machine.
            Clock::Real => Duration::from_millis(120),
        };
        let registry = Registry::<Faulty>::builder()
            .init_timeout(limit)
            .stop_timeout(limit)
            .restart(cell.policy)
            .on_undelivered(|_, ask| ask.note().undelivered())
            .build()
            .expect("the test has a runtime");
        let events = registry.subscribe();
        let (book, ledger) = (Arc::clone(book), Arc::clone(ledger));
        let callers = Callers::default();
        Self { cell, clock, registry: Some(registry), events, book, ledger, callers, has_stoppers: false }
    }

    fn plan(&self, faults: Faults) -> Plan {
        Plan { book: Arc::clone(&self.book), faults }
    }

    fn registry(&self) -> Registry<Faulty> {
        self.registry.clone().expect("it is dropped by the last event")
    }

    /// Lets the worker live until the event has come and every caller has its answer.
    pub(crate) async fn drive(&mut self) -> Result<(), RuntimeEnds> {
        let Cell { event, moment, faults, .. } = self.cell;
        self.add_first_starter().await;
        self.occur(Moment::Requested).await?;
        self.add_other_starters().await;
        if self.reach(Phase::Init).await {
            self.send().await;
        } else {
            assert!(event.ends() && moment == Moment::Requested, "{}: `init` does not begin", self.cell);
        }
        for phase in [Phase::Init, Phase::Handle, Phase::Restart] {
            if moment == Moment::Reached(phase) {
                assert!(self.reach(phase).await, "{}: {phase:?} does not begin", self.cell);
                self.occur(moment).await?;
            }
        }
        if moment == Moment::Reached(Phase::Terminate) {
            assert!(self.reach(Phase::Handle).await, "{}: the handler does not begin", self.cell);
            // After an error `terminate` runs without a stop.
            if faults.handle != Fault::Error {
                self.callers.until(self.after_turns()).await;
                self.add_stoppers().await;
            }
            let terminates = self.reach(Phase::Terminate).await;
            assert!(terminates, "{}: `terminate` does not begin", self.cell);
            self.occur(moment).await?;
        }
        if self.clock == Clock::Paused {
            self.callers.until(sleep(Duration::from_secs(60))).await;
            let waiting = self.callers.waiting();
            assert!(!event.ends() || waiting.is_empty(), "{}: {waiting:?} have no answer", self.cell);
        }
        if !self.has_stoppers {
            self.add_stoppers().await;
        }
        self.answered().await;
        Ok(())
    }

    fn after_turns(&self) -> impl Future<Output = ()> + use<> {
        let is_paused = self.clock == Clock::Paused;
        async move {
            if is_paused {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Waits until the phase begins. Nothing but the phase takes as long as this waits.
    async fn reach(&mut self, phase: Phase) -> bool {
        let book = Arc::clone(&self.book);
        self.callers.until(timeout(Duration::from_secs(20), book.reached(phase))).await.is_ok()
    }

    /// The event comes now, if this is its moment.
    async fn occur(&mut self, moment: Moment) -> Result<(), RuntimeEnds> {
        if moment != self.cell.moment {
            return Ok(());
        }
        for _ in 0..self.cell.turns {
            self.callers.until(yield_now()).await;
        }
        match self.cell.event {
            Event::None => {}
            Event::CallerDropped | Event::CallerAborted => {
                let target = self.target();
                self.callers.cancel(target);
            }
            Event::Stop => {
                let registry = self.registry();
                self.callers.add("stop", async move { any(registry.stop(&KEY).await) }).await;
            }
            Event::Kill => {
                let registry = self.registry();
                self.callers.add("kill", async move { any(registry.kill(&KEY).await) }).await;
            }
            Event::Crash => {
                let registry = self.registry();
                self.callers.add("crash", async move { any(registry.crash(&KEY).await) }).await;
            }
            Event::Shutdown => {
                let registry = self.registry();
                self.callers.add("shutdown", async move { format!("{:?}", registry.shutdown().await) }).await;
            }
            Event::Abort => {
                let registry = self.registry();
                self.callers.add("abort", async move { format!("{:?}", registry.abort().await) }).await;
            }
            Event::RegistryDropped => {
                let registry = self.registry.take().expect("it is dropped once");
                let weak = registry.downgrade();
                drop(registry);
                assert!(weak.upgrade().is_none(), "{}: this was not the last registry", self.cell);
            }
            Event::RuntimeDropped => return Err(RuntimeEnds),
        }
        if self.cell.is_released_early {
            self.book.release();
        }
        Ok(())
    }

    /// The caller that is dropped: one that waits for what the worker does.
    fn target(&self) -> &'static str {
        match self.cell.moment {
            Moment::Requested | Moment::Reached(Phase::Init) => "first starter",
            // After an error of the handler `terminate` runs without a stop.
            Moment::Reached(Phase::Terminate) if self.cell.faults.handle != Fault::Error => "first stopper",
            _ => "pending call",
        }
    }

    async fn add(&mut self, name: &'static str, future: impl Future<Output = String> + Send + 'static) {
        // Only the caller that is aborted is a task: one that was woken on a thread that blocks has to wait for it.
        if self.cell.event == Event::CallerAborted && name == self.target() {
            self.callers.spawn(name, future);
        } else {
            self.callers.add(name, future).await;
        }
    }

    /// Starters keep the registry alive, so they are addresses if the event is its drop.
    async fn add_first_starter(&mut self) {
        let (registry, plan) = (self.registry(), self.plan(self.cell.faults));
        if self.cell.event == Event::RegistryDropped {
            let via = registry.via_or_start(&KEY, plan);
            drop(registry);
            self.add("first starter", async move { any(via.reserve().await) }).await;
        } else {
            self.add("first starter", async move { any(registry.lookup_or_start(&KEY, plan).await) }).await;
        }
    }

    async fn add_other_starters(&mut self) {
        let Some(registry) = self.registry.clone() else { return };
        let plan = self.plan(self.cell.faults);
        let via = registry.via_or_start(&KEY, plan.clone());
        let (ledger, note) = (Arc::clone(&self.ledger), Note::new(&self.ledger));
        let id = note.id;
        let call = async move { called(&ledger, id, via.call(|reply| Ask::Value(note, reply)).await) };
        self.add("calling starter", call).await;
        if self.cell.event == Event::RegistryDropped {
            let via = registry.via_or_start(&KEY, plan);
            drop(registry);
            self.add("last starter", async move { any(via.reserve().await) }).await;
        } else {
            self.add("last starter", async move { any(registry.start(&KEY, plan).await) }).await;
        }
    }

    fn handle(&self) -> Option<WorkerHandle<Faulty>> {
        self.book.record().handle.clone()
    }

    fn cast(&self, worker: &WorkerHandle<Faulty>, ask: fn(Note) -> Ask) {
        let note = Note::new(&self.ledger);
        let id = note.id;
        // Refused once the worker ends.
        if worker.try_cast(ask(note)).is_ok() {
            self.ledger.accept(id);
        }
    }

    /// Sends the message with the fault, and others that wait behind it.
    async fn send(&mut self) {
        let worker = self.handle().expect("`init` has begun");
        self.cast(&worker, Ask::Fault);
        let (ledger, note) = (Arc::clone(&self.ledger), Note::new(&self.ledger));
        let id = note.id;
        let pending = worker.try_call(|reply| Ask::Value(note, reply));
        let call = async move {
            match pending {
                Ok(pending) => called(&ledger, id, pending.await),
                Err(error) => format!("{error:?}"),
            }
        };
        self.add("pending call", call).await;
        let (ledger, note) = (Arc::clone(&self.ledger), Note::new(&self.ledger));
        let (id, other) = (note.id, worker.clone());
        let call = async move { called(&ledger, id, other.call(|reply| Ask::Value(note, reply)).await) };
        self.add("call", call).await;
        self.cast(&worker, Ask::Note);
    }

    async fn add_stoppers(&mut self) {
        self.has_stoppers = true;
        let Some(worker) = self.handle() else { return };
        for name in ["first stopper", "second stopper"] {
            let worker = worker.clone();
            self.add(name, async move { any(worker.stop().await) }).await;
        }
    }

    /// Every caller gets its answer, also while code blocks.
    pub(crate) async fn answered(&mut self) {
        if self.clock == Clock::Paused {
            self.callers.until(sleep(Duration::from_secs(60))).await;
            let waiting = self.callers.waiting();
            assert!(waiting.is_empty(), "{}: {waiting:?} have no answer", self.cell);
        } else if timeout(Duration::from_secs(60), self.callers.all()).await.is_err() {
            panic!("{}: {:?} have no answer", self.cell, self.callers.waiting());
        }
        for (name, answer) in self.callers.answers() {
            let is_refused = matches!(answer, Answer::Answered(text)
                if ["WouldDeadlock", "AtCapacity", "RecentlyFailed", "TimedOut("].iter().any(|no| text.contains(no)));
            assert!(!is_refused, "{}: {name} got {answer:?}", self.cell);
        }
    }

    /// After the event: nothing is left, and the key can be used again.
    pub(crate) async fn finish(&mut self) {
        self.book.release();
        let Some(registry) = self.registry.clone() else {
            self.wait_until(|world| world.book.record().live == 0).await;
            self.check_events(None).await;
            return;
        };
        self.rest(&registry).await;
        self.check_at_rest(&registry);
        let next = within(registry.lookup_or_start(&KEY, self.plan(Faults::NONE)), "the next start").await;
        assert_eq!(next.is_ok(), !self.cell.event.is_final(), "{}: the next start: {next:?}", self.cell);
        if let Ok(worker) = next {
            let note = Note::new(&self.ledger);
            let answer = within(worker.call(|reply| Ask::Value(note, reply)), "the next call").await;
            assert_eq!(answer.ok(), Some(7), "{}: the next call", self.cell);
        }
        let stuck = within(registry.shutdown(), "the shutdown").await.stuck;
        assert!(stuck == 0 || self.is_stuck_at_shutdown(), "{}: {stuck} are stuck", self.cell);
        self.check_at_rest(&registry);
        assert_eq!((registry.count(), self.book.record().live), (0, 0), "{}: something still runs", self.cell);
        self.check_events(Some(&registry)).await;
    }

    /// Waits until no worker is about to start or to end.
    async fn rest(&self, registry: &Registry<Faulty>) {
        self.wait_until(|world| {
            let stats = registry.stats();
            let alive = world.book.record().live;
            stats.workers() == stats.running && stats.running == alive && stats.owner_queue == 0
        })
        .await;
    }

    fn is_stuck_at_shutdown(&self) -> bool {
        let is_late = self.clock == Clock::Real && !self.cell.is_released_early;
        is_late && matches!(self.cell.event, Event::Shutdown | Event::Abort)
    }

    async fn wait_until(&self, is_over: impl Fn(&Self) -> bool) {
        let over = async {
            while !is_over(self) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(Duration::from_secs(20), over).await.is_err() {
            let stats = self.registry.as_ref().map(Registry::stats);
            panic!("{}: not at rest: {} are alive, {stats:?}", self.cell, self.book.record().live);
        }
    }

    /// G1 and G9.
    fn check_at_rest(&self, registry: &Registry<Faulty>) {
        assert_at_rest(registry);
        let (stats, record) = (registry.stats(), self.book.record());
        let (live, most_live) = (record.live, record.most_live);
        assert_eq!(live, registry.count(), "{}: {stats:?}", self.cell);
        assert!(most_live <= 1, "{}: {most_live} workers at once", self.cell);
        assert_eq!(stats.handled, self.ledger.begun(), "{}: {stats:?}", self.cell);
        assert_eq!((stats.queued, stats.owner_queue), (0, 0), "{}: {stats:?}", self.cell);
        let (starts, inits) = (stats.starts, record.times(Phase::Init));
        let ended = starts.ok + starts.error + starts.panic + starts.timeout + starts.cancelled;
        assert!(ended >= inits, "{}: {inits} inits, {stats:?}", self.cell);
        let failed = match self.cell.faults.init {
            Fault::Error => (inits, 0),
            Fault::Panic => (0, inits),
            _ => (0, 0),
        };
        // The start that follows the event has no faults.
        let tolerance = u64::from(stats.starts.ok > 0);
        let counted = (starts.error, starts.panic);
        assert!(counted.0 <= failed.0 && counted.1 <= failed.1, "{}: {stats:?}", self.cell);
        let uncounted = failed.0 + failed.1 - counted.0 - counted.1;
        assert!(uncounted <= tolerance, "{}: {inits} inits, {stats:?}", self.cell);
    }

    /// Each run has one event that begins it and one that ends it.
    async fn check_events(&mut self, registry: Option<&Registry<Faulty>>) {
        let (mut starts, mut restarts, mut exits) = (0, 0, 0);
        while let Some(event) = within(self.events.recv(), "the end of the events").await {
            match event.expect("there are few events") {
                Observed::Started { .. } => starts += 1,
                Observed::Restarted { .. } => restarts += 1,
                Observed::Exited { .. } => exits += 1,
                _ => {}
            }
        }
        let is_late = self.clock == Clock::Real && !self.cell.is_released_early;
        assert!(exits == starts + restarts || is_late, "{}: {starts}, {restarts}, {exits} events", self.cell);
        if let Some(stats) = registry.map(Registry::stats) {
            assert_eq!(stats.starts.ok, starts, "{}: {stats:?}", self.cell);
            assert!(stats.restarts.total() >= restarts, "{}: {stats:?}", self.cell);
        }
    }

    /// After the runtime of the workers was dropped: every caller has its answer, and nothing is left.
    pub(crate) async fn finish_elsewhere(&mut self) {
        self.book.release();
        if timeout(Duration::from_secs(60), self.callers.all()).await.is_err() {
            panic!("{}: {:?} have no answer", self.cell, self.callers.waiting());
        }
        let registry = self.registry();
        // Code that was released may have answered every caller before a runtime that ends in the background has dropped
        // its tasks.
        self.wait_until(|world| registry.stats().workers() == 0 && world.book.record().live == 0).await;
        self.check_at_rest(&registry);
        let next = within(registry.lookup_or_start(&KEY, self.plan(Faults::NONE)), "the refusal").await;
        assert!(next.is_err(), "{}: a start on a runtime that is dropped", self.cell);
        let _ = within(registry.shutdown(), "the report").await;
    }

    /// Drops everything that the test holds, and lets other tasks end.
    pub(crate) async fn clear(self) {
        let handle = self.book.record().handle.take();
        drop((handle, self));
        // The owner ends after the last registry.
        for _ in 0..8 {
            yield_now().await;
        }
        poll_fn(|_| Poll::Ready(())).await;
    }
}

impl Drop for World {
    /// A test that fails must not wait for code that blocks.
    fn drop(&mut self) {
        self.book.release();
    }
}
