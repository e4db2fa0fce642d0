//! Two of start, stop, kill, crash, idle, evict and shutdown at once, on a key that has a worker or not, while a caller
//! sends.

use std::time::Duration;

use gen_registry::{Eviction, Restart, StartError};

use crate::exec::{check, pass, spawn};
use crate::subject::{Ask, Init};
use crate::world::{KEY, LONG, OTHER, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    Kill,
    /// The worker crashes and restarts.
    Crash,
    /// The worker is idle for longer than its timeout.
    Idle,
    /// Another key takes the worker's place.
    Evict,
    Shutdown,
}

async fn act(world: World, verb: Verb) {
    let registry = &world.registry;
    match verb {
        Verb::Start => match registry.lookup_or_start(&KEY, world.plan(Init::Slow)).await {
            Ok(worker) => drop(worker.call(Ask::Echo).await),
            Err(error) => {
                use StartError::{AtCapacity, Cancelled, Shutdown};
                assert!(matches!(error, AtCapacity | Cancelled | Shutdown), "{error:?}");
            }
        },
        Verb::Stop => world.stop().await,
        Verb::Kill => world.kill().await,
        Verb::Crash => drop(registry.crash(&KEY).await),
        Verb::Idle => pass(LONG).await,
        Verb::Evict => drop(registry.lookup_or_start(&OTHER, world.plan(Init::Ready)).await),
        Verb::Shutdown => {
            let report = registry.shutdown().await;
            assert_eq!((report.stuck, registry.count()), (0, 0), "{report:?}");
        }
    }
}

async fn pair(first: Verb, second: Verb, has_worker: bool) {
    let (world, events) = World::new(|builder| {
        let builder = builder.restart(Restart::Transient).restart_backoff(Duration::ZERO, Duration::ZERO);
        let builder = builder.max_workers(1).eviction(Eviction::LeastRecentlyActive);
        if [first, second].contains(&Verb::Idle) { builder.idle_timeout(Duration::from_millis(1)) } else { builder }
    });
    if has_worker {
        world.start(KEY).await;
    }
    let acts = [first, second].map(|verb| spawn(act(world.clone(), verb)));
    let sender = world.clone();
    let sends = spawn(async move {
        sender.cast_notes(1, 2).await;
        sender.call().await;
    });
    for act in acts {
        act.await;
    }
    sends.await;
    assert!(world.registry.count() <= 1, "more than `max_workers`");
    if [first, second].iter().all(|verb| matches!(verb, Verb::Start | Verb::Idle | Verb::Evict)) {
        // Nothing stops a worker: what was accepted was handled. (G7)
        assert_eq!(world.book.undelivered_notes(), 0, "a message was lost in an idle window");
    }
    world.check(events).await;
}

macro_rules! pairs {
    ($($name:ident: $first:ident, $second:ident;)+) => {
        $(#[test]
        fn $name() {
            check(|| async {
                pair(Verb::$first, Verb::$second, false).await;
                pair(Verb::$first, Verb::$second, true).await;
            });
        })+
    };
}

pairs! {
    start_and_start: Start, Start;
    start_and_stop: Start, Stop;
    start_and_kill: Start, Kill;
    start_and_crash: Start, Crash;
    start_and_idle: Start, Idle;
    start_and_evict: Start, Evict;
    start_and_shutdown: Start, Shutdown;
    stop_and_stop: Stop, Stop;
    stop_and_kill: Stop, Kill;
    stop_and_crash: Stop, Crash;
    stop_and_idle: Stop, Idle;
    stop_and_evict: Stop, Evict;
    stop_and_shutdown: Stop, Shutdown;
    kill_and_crash: Kill, Crash;
    kill_and_idle: Kill, Idle;
    kill_and_evict: Kill, Evict;
    kill_and_shutdown: Kill, Shutdown;
    crash_and_crash: Crash, Crash;
    crash_and_idle: Crash, Idle;
    crash_and_evict: Crash, Evict;
    crash_and_shutdown: Crash, Shutdown;
    idle_and_evict: Idle, Evict;
    idle_and_shutdown: Idle, Shutdown;
    evict_and_evict: Evict, Evict;
    evict_and_shutdown: Evict, Shutdown;
    shutdown_and_shutdown: Shutdown, Shutdown;
}
