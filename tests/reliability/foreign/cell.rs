//! One cell of the table: a [`World`] in which the foreign code of one place does one deed, and what holds after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use gen_registry::{Aliases, Groups, Registry, Restart, Stats};
use test_support::{Heartbeat, assert_at_rest, within};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::device::{Deed, Device};
use crate::host::{Args, BYSTANDER, FRESH, Host, Message, STANDBY, VICTIM};
use crate::place::{Place, Row, table};
use crate::recorder::ForeignRecorder;
use crate::tracer::{self, Tracer};
use crate::triggers::{Returned, trigger};
use crate::verbs::{Started, Verbs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavor {
    /// One thread, with a paused clock.
    CurrentThread,
    MultiThread,
}

/// Runs every place with one deed, each in a thread of its own: a cell that deadlocks must not stop the others.
pub(crate) fn check_all(deed: Deed, flavor: Flavor) {
    let only = std::env::var("GEN_REGISTRY_PLACE").ok();
    // Longer than `within` waits.
    let patience = test_support::patience() + Duration::from_secs(60);
    let mut faults = Vec::new();
    for &place in Place::ALL {
        if only.as_deref().is_some_and(|only| only != format!("{place:?}")) {
            continue;
        }
        let (done, end) = mpsc::channel();
        let cell = std::thread::spawn(move || {
            check(place, deed, flavor);
            done.send(()).expect("the test waits");
        });
        let fault = match end.recv_timeout(patience) {
            Ok(()) => continue,
            Err(mpsc::RecvTimeoutError::Timeout) => "a deadlock".to_owned(),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let payload = cell.join().expect_err("it has not sent");
                let text = payload.downcast_ref::<String>().cloned();
                text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
            }
        };
        println!("{place:?}: {fault}");
        faults.push(format!("{place:?}: {fault}"));
    }
    assert!(faults.is_empty(), "{deed:?} on {flavor:?}:\n{}", faults.join("\n"));
}

fn check(place: Place, deed: Deed, flavor: Flavor) {
    let device = Device::new();
    let is_traced = matches!(
        place,
        Place::KeyDebug
            | Place::ErrorDisplay
            | Place::SpanMade
            | Place::SpanEntered
            | Place::SpanExited
            | Place::SpanClosed
            | Place::TraceEvent
    );
    let dispatch = is_traced.then(|| Tracer::dispatch(&device));
    let _own = dispatch.as_ref().map(tracer::set);
    let mut builder = match flavor {
        Flavor::CurrentThread => Builder::new_current_thread(),
        Flavor::MultiThread => Builder::new_multi_thread(),
    };
    if flavor == Flavor::CurrentThread {
        builder.start_paused(true);
    } else {
        // One for the code that blocks, and one more that may wait behind it.
        builder.worker_threads(3).on_thread_start(move || dispatch.iter().for_each(tracer::set_for_thread));
    }
    let runtime = builder.enable_all().build().expect("a runtime");
    run(&runtime, place, deed, &device);
    drop(runtime);
    assert_eq!(device.live(), 0, "values are leaked");
}

fn run(runtime: &Runtime, place: Place, deed: Deed, device: &Device) {
    // A cell that fails must not leave a thread that blocks.
    let _release = ReleaseGuard(device);
    let table = table();
    let row = &table[place.name()];
    runtime.block_on(async {
        let world = Arc::new(World::new(place, deed, device).await);
        let verbs = world.verbs.clone();
        device.set_verbs(move || verbs.call(deed));
        let heartbeat = (deed == Deed::Block).then(|| Heartbeat::start(runtime.handle()));
        let trigger = tokio::spawn(trigger(Arc::clone(&world)));
        if deed == Deed::Block {
            device.reached().await;
            world.check_block(row).await;
        }
        if !device.was_reached() {
            // The trigger ends without the deed, or still leads to it.
            let _ = timeout(Duration::from_secs(5), device.reached()).await;
        }
        if deed == Deed::Block {
            device.release();
        }
        let ended = within(trigger, "the trigger").await;
        let has_caught = ended.as_ref().is_err_and(|error| error.is_panic());
        let returned = ended.unwrap_or(Returned::Other);
        assert!(device.was_reached(), "the code did not run: {:?}", world.verbs.registry.stats());
        device.release();
        world.check_aftermath(row, has_caught, returned).await;
        drop(heartbeat);
    });
}

struct ReleaseGuard<'d>(&'d Device);

impl Drop for ReleaseGuard<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) deed: Deed,
    pub(crate) device: Device,
    pub(crate) verbs: Verbs,
    /// The trigger shuts the registry down.
    is_ended: AtomicBool,
}

impl World {
    async fn new(place: Place, deed: Deed, device: &Device) -> Self {
        let registry = Self::registry(place, device);
        let (aliases, groups) = (Aliases::new(), Groups::new());
        let verbs = Verbs { device: device.clone(), registry, aliases, groups, started: Started::default() };
        for id in [BYSTANDER, STANDBY] {
            let started = within(verbs.registry.start(&verbs.id(id), Args::quiet(device)), "a start").await;
            assert!(started.is_ok());
        }
        let world = Self { place, deed, device: device.clone(), verbs, is_ended: AtomicBool::new(false) };
        // A task that has just yielded may lie in the next-task slot of a thread, and wait there behind code that blocks.
        // From here on these wait for messages.
        world.check_echo(BYSTANDER).await;
        world.check_echo(STANDBY).await;
        world
    }

    fn registry(place: Place, device: &Device) -> Registry<Host> {
        let (accepts, undelivered) = (device.clone(), device.clone());
        let mut builder = Registry::<Host>::builder()
            .mailbox_capacity(4)
            .stop_timeout(Duration::from_secs(2))
            .accepts(move |key| {
                if key.id == VICTIM {
                    accepts.reach(Place::Accepts);
                }
                true
            })
            .on_undelivered(move |key, _| {
                if key.id == VICTIM {
                    undelivered.reach(Place::Undelivered);
                }
            });
        match place {
            Place::ArgsClone => builder = builder.restart(Restart::Transient),
            Place::KeyDebug => builder = builder.trace_keys(),
            Place::Recorder | Place::RecorderInHandling => {
                let recorder = Arc::new(ForeignRecorder::new(device));
                builder = builder.name("foreign").recorder(recorder).measure_handling();
            }
            _ => {}
        }
        builder.build().expect("the test has a runtime")
    }

    pub(crate) fn set_ended(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.deed == Deed::End || self.is_ended.load(Ordering::SeqCst)
    }

    async fn check_echo(&self, id: u32) {
        let worker = self.verbs.registry.lookup(&self.verbs.id(id)).expect("it runs");
        let answer = within(worker.call(Message::echo(&self.device)), "an answer").await;
        assert_eq!(answer.ok(), Some(id));
    }

    /// While the foreign code blocks, other workers answer, and starts and stops go on unless the table says otherwise.
    /// (G4)
    async fn check_block(&self, row: &Row) {
        if self.is_ended() {
            return;
        }
        self.check_echo(BYSTANDER).await;
        let (registry, id) = (&self.verbs.registry, self.verbs.id(FRESH + 1));
        let start_and_stop = async {
            let started = registry.start(&id, Args::quiet(&self.device)).await.map(drop);
            started.expect("the key is vacant");
            registry.stop(&id).await.expect("it runs");
        };
        let limit = if row.block == "starts and stops" { Duration::from_millis(300) } else { Duration::from_secs(60) };
        let goes_on = timeout(limit, start_and_stop).await.is_ok();
        self.check_echo(BYSTANDER).await;
        assert_eq!(if goes_on { "its own task" } else { "starts and stops" }, row.block, "what the block delays");
    }

    fn panic_end(stats: &Stats, has_caught: bool, returned: Returned) -> &'static str {
        if has_caught {
            "reaches the caller"
        } else if returned == Returned::StartPanicked || stats.starts.panic > 0 {
            "fails the start"
        } else if stats.exits.panicked + stats.restarts.panicked > 0 {
            "ends the run"
        } else if stats.task_panics > 0 {
            "ends the task"
        } else {
            "is contained"
        }
    }

    async fn check_aftermath(&self, row: &Row, has_caught: bool, returned: Returned) {
        let (registry, device) = (&self.verbs.registry, &self.device);
        self.verbs.started.finish().await;
        self.rest().await;
        if self.deed == Deed::Panic && row.panic == "ends the task" {
            // It is counted in that task.
            let counted = async {
                while registry.stats().task_panics == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            within(counted, "the panic of the task").await;
        }
        let stats = registry.stats();
        let end = Self::panic_end(&stats, has_caught, returned);
        let expected = if self.deed == Deed::Panic { row.panic } else { "is contained" };
        assert_eq!(end, expected, "where the panic ends: {stats:?}");
        if !self.is_ended() {
            self.check_echo(BYSTANDER).await;
            let (other, victim) = (self.verbs.id(FRESH + 2), self.verbs.id(VICTIM));
            let fresh = registry.start(&other, Args::quiet(device));
            assert!(within(fresh, "a start of another key").await.is_ok());
            // It runs, or it has ended.
            drop(within(registry.stop(&victim), "a stop of the victim").await);
            let again = registry.start(&victim, Args::quiet(device));
            let again = within(again, "the next start of the key").await.map(drop);
            assert!(again.is_ok(), "{again:?}: {:?}", registry.stats());
            self.check_echo(VICTIM).await;
            self.rest().await;
            assert_at_rest(registry);
        }
        let report = within(registry.shutdown(), "the shutdown").await;
        assert_eq!((report.stuck, registry.count()), (0, 0), "{report:?}");
        self.rest().await;
        assert_at_rest(registry);
    }

    async fn rest(&self) {
        let is_at_rest = async {
            loop {
                let stats = self.verbs.registry.stats();
                if stats.workers() == stats.running && stats.owner_queue == 0 {
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(Duration::from_secs(60), is_at_rest).await.is_err() {
            panic!("not at rest: {:?}", self.verbs.registry.stats());
        }
    }
}
