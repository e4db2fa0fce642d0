//! `ctx.own`: a registry that ends with a worker of another one, before that worker's key is free.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Registry, Restart, StartError, StopError};
use test_support::{
    Ask, BoxFuture, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Scripted, Step, fallible_job,
    poll_once, run_in_restartable, until_idle, value_of, within, yield_many,
};
use tokio::time::{Instant, advance};

/// Where a parent puts the registry that it made, for the test to look at.
type Shelf = Arc<Mutex<Vec<Registry<Probe>>>>;

/// An `init` that owns a new registry with a child "c", which is recorded.
fn parent(record: &Record, shelf: &Shelf, child: Plan) -> RestartableArgs {
    let (shelf, child) = (Arc::clone(shelf), child.recorded(record));
    RestartableArgs::init(move |ctx| own_one(ctx, &shelf, &child))
}

fn own_one<'a>(
    ctx: &'a mut Context<RestartableWorker>,
    shelf: &Shelf,
    child: &Plan,
) -> BoxFuture<'a, Result<(), Scripted>> {
    let (shelf, child) = (Arc::clone(shelf), child.clone());
    Box::pin(async move {
        let children = Registry::<Probe>::new();
        ctx.own(&children);
        shelf.lock().unwrap().push(children.clone());
        children.start("c", child).await.expect("a new registry is empty");
        Ok(())
    })
}

fn last(shelf: &Shelf) -> Registry<Probe> {
    shelf.lock().unwrap().last().expect("the parent made one").clone()
}

#[tokio::test(start_paused = true)]
async fn key_is_free_only_after_children_end() {
    for end in ["stop", "kill", "crash", "ctx.stop", "shutdown", "panic"] {
        let (record, shelf) = (Record::default(), Shelf::default());
        let registry = Registry::<RestartableWorker>::new();
        let endless = Plan::terminate(Step::Hang);
        let worker = within(registry.start("p", parent(&record, &shelf, endless)), "a start").await.unwrap();
        let child = last(&shelf).lookup("c").expect("it was started");
        let began = Instant::now();
        match end {
            "stop" => drop(within(registry.stop("p"), "a stop").await.unwrap()),
            "kill" => drop(within(registry.kill("p"), "a kill").await.unwrap()),
            "shutdown" => drop(within(registry.shutdown(), "a shutdown").await),
            "crash" => worker.try_cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).unwrap(),
            "panic" => worker.try_cast(fallible_job(|_| panic!("a scripted panic"))).unwrap(),
            _ => worker
                .try_cast(fallible_job(|ctx| {
                    Box::pin(async move {
                        ctx.stop();
                        Ok(())
                    })
                }))
                .unwrap(),
        }
        let reason = within(worker.closed(), "the parent's end").await;
        // At this moment, not a turn later.
        assert_eq!(record.alive("c"), 0, "{end}: {reason}");
        assert!(child.try_cast(Ask::Note(1)).is_err(), "{end}");
        let waited = if matches!(end, "stop" | "ctx.stop" | "shutdown") { 5 } else { 0 };
        assert_eq!(began.elapsed().as_secs(), waited, "{end}: good order has until `stop_timeout`");
        within(child.closed(), "the child's end").await;
        let refused = within(last(&shelf).start("d", Plan::default()), "a start").await;
        assert!(matches!(refused, Err(StartError::Shutdown)), "{end}: its registry is over");
    }
}

#[tokio::test(start_paused = true)]
async fn children_drain_on_stop_but_not_on_kill() {
    for is_kill in [false, true] {
        let (record, shelf) = (Record::default(), Shelf::default());
        let registry = Registry::<RestartableWorker>::new();
        let worker = within(registry.start("p", parent(&record, &shelf, Plan::default())), "a start").await.unwrap();
        let (child, gate) = (last(&shelf).lookup("c").unwrap(), Gate::new());
        child.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
        gate.reached().await;
        child.cast(Ask::Note(1)).await.unwrap();
        let mut ended: BoxFuture<'_, _> = if is_kill { Box::pin(worker.kill()) } else { Box::pin(worker.stop()) };
        assert!(poll_once(ended.as_mut()).await.is_pending());
        until_idle().await;
        if !is_kill {
            assert!(poll_once(ended.as_mut()).await.is_pending(), "the key is not free: a child lives");
            assert!(registry.lookup("p").is_none());
        }
        gate.open();
        within(ended, "the end").await.unwrap();
        assert_eq!(record.noted("c").len(), usize::from(!is_kill));
        assert_eq!(record.terminated("c").len(), usize::from(!is_kill));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_init_ends_its_children_first() {
    for is_panic in [false, true] {
        let (record, shelf) = (Record::default(), Shelf::default());
        let registry = Registry::<RestartableWorker>::new();
        let (shelf_of, child) = (Arc::clone(&shelf), Plan::default().recorded(&record));
        let part = RestartableArgs::init(move |ctx| {
            let (shelf, child) = (Arc::clone(&shelf_of), child.clone());
            Box::pin(async move {
                own_one(ctx, &shelf, &child).await?;
                assert!(!is_panic, "a scripted panic");
                Err(Scripted)
            })
        });
        let failed = within(registry.start("p", part), "a failed start").await;
        assert!(matches!(failed, Err(StartError::Init(_) | StartError::Panicked(_))), "{failed:?}");
        assert_eq!((record.inits("c"), record.alive("c")), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn restart_replaces_the_children() {
    let (record, shelf) = (Record::default(), Shelf::default());
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let worker = within(registry.start("p", parent(&record, &shelf, Plan::value(4))), "a start").await.unwrap();
    let old = last(&shelf).lookup("c").unwrap();
    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
    within(old.closed(), "the old child").await;
    let new = last(&shelf).lookup("c").expect("it was made anew");
    assert_eq!((value_of(&new).await, shelf.lock().unwrap().len()), (4, 2));
    assert_ne!(old, new);
    assert_eq!((record.most_at_once("c"), record.alive("c")), (1, 1));
    within(registry.stop("p"), "a stop").await.unwrap();
    assert_eq!(record.alive("c"), 0);
}

/// A child that runs code which nobody can end, until it is told to.
async fn stuck_child(children: &Registry<RestartableWorker>) -> mpsc::Sender<()> {
    let worker = within(children.start("stuck", RestartableArgs::default()), "a start").await.unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    run_in_restartable(&worker, move |ctx| {
        Box::pin(async move {
            ctx.spawn_blocking(move || {
                began.send(()).expect("the test holds the receiver");
                held.recv().expect_err("it is released by a drop");
            });
        })
    })
    .await
    .unwrap();
    within(begun, "blocking code that runs").await.unwrap();
    release
}

/// The clock does not move by itself while blocking code runs.
async fn pass(seconds: u64) {
    for _ in 0..seconds {
        advance(Duration::from_secs(1)).await;
        yield_many().await;
    }
}

async fn owner_of(registry: &Registry<RestartableWorker>, key: &str, children: &Registry<RestartableWorker>) {
    let worker = within(registry.start(key, RestartableArgs::default()), "a start").await.unwrap();
    let children = children.clone();
    run_in_restartable(&worker, move |ctx| Box::pin(async move { ctx.own(&children) })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stuck_grandchild_blocks_its_ancestors() {
    let (top, middle, bottom) = (
        Registry::<RestartableWorker>::new(),
        Registry::<RestartableWorker>::new(),
        Registry::<RestartableWorker>::new(),
    );
    owner_of(&top, "p", &middle).await;
    owner_of(&middle, "p", &bottom).await;
    let release = stuck_child(&bottom).await;
    let parent = top.lookup("p").unwrap();
    let mut kill = Box::pin(top.kill("p"));
    assert!(poll_once(kill.as_mut()).await.is_pending());
    pass(12).await;
    assert!(matches!(within(kill, "the kill").await, Err(StopError::Stuck)));
    assert!(matches!(within(top.stop("p"), "a stop").await, Err(StopError::Stuck)));
    assert!(
        matches!(within(top.start("p", RestartableArgs::default()), "a start").await, Err(StartError::TimedOut)),
        "G1"
    );
    assert_eq!(top.stats().stopping, 1);
    pass(60).await;
    assert!(poll_once(Box::pin(parent.closed()).as_mut()).await.is_pending());
    drop(release);
    assert!(matches!(within(parent.closed(), "its exit").await, ExitReason::Killed));
    within(top.start("p", RestartableArgs::default()), "a start").await.expect("the key is free");
}

#[tokio::test(start_paused = true)]
async fn shared_stuck_child_blocks_every_owner() {
    let (top, children) = (Registry::<RestartableWorker>::new(), Registry::<RestartableWorker>::new());
    owner_of(&top, "one", &children).await;
    owner_of(&top, "two", &children).await;
    let release = stuck_child(&children).await;
    let ends: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|key| {
            let worker = top.lookup(key).unwrap();
            let killed = worker.clone();
            tokio::spawn(async move { killed.kill().await });
            tokio::spawn(async move { worker.closed().await })
        })
        .collect();
    pass(30).await;
    for end in &ends {
        assert!(!end.is_finished(), "its key is free, and a child of it runs (G1)");
    }
    drop(release);
    for end in ends {
        within(end, "the end of an owner").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn all_three_levels_end_on_stop() {
    let order = Arc::<Mutex<Vec<&str>>>::default();
    let level = |name: &'static str| {
        let order = Arc::clone(&order);
        /// Says when it is dropped.
        struct Says(&'static str, Arc<Mutex<Vec<&'static str>>>);
        impl Drop for Says {
            fn drop(&mut self) {
                self.1.lock().unwrap().push(self.0);
            }
        }
        RestartableArgs::init(move |ctx| {
            let says = Says(name, Arc::clone(&order));
            Box::pin(async move {
                ctx.spawn(async move {
                    let _says = says;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                });
                Ok(())
            })
        })
    };
    let (top, middle, bottom) = (
        Registry::<RestartableWorker>::new(),
        Registry::<RestartableWorker>::new(),
        Registry::<RestartableWorker>::new(),
    );
    for (registry, name, owns) in
        [(&top, "top", Some(&middle)), (&middle, "middle", Some(&bottom)), (&bottom, "bottom", None)]
    {
        let worker = within(registry.start("p", level(name)), "a start").await.unwrap();
        if let Some(owns) = owns.cloned() {
            run_in_restartable(&worker, move |ctx| Box::pin(async move { ctx.own(&owns) })).await.unwrap();
        }
    }
    let handles: Vec<_> = [&top, &middle, &bottom].map(|registry| registry.lookup("p").unwrap()).into();
    within(top.stop("p"), "a stop of the whole tree").await.unwrap();
    assert_eq!(order.lock().unwrap().len(), 3);
    for handle in &handles {
        assert!(poll_once(Box::pin(handle.closed()).as_mut()).await.is_ready(), "one has not ended");
    }
    assert_eq!((middle.count(), bottom.count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn owned_registry_is_a_one_for_one_supervisor() {
    let record = Record::default();
    let shelf = Shelf::default();
    let top = Registry::<RestartableWorker>::builder().restart(Restart::Permanent).build().unwrap();
    let (seen, plan) = (Arc::clone(&shelf), Plan::default().recorded(&record));
    let supervisor = RestartableArgs::init(move |ctx| {
        let (seen, plan) = (Arc::clone(&seen), plan.clone());
        Box::pin(async move {
            let children = Registry::<Probe>::builder().restart(Restart::Permanent).build().map_err(|_| Scripted)?;
            ctx.own(&children);
            for key in ["a", "b", "c"] {
                children.start(key, plan.clone()).await.map_err(|_| Scripted)?;
            }
            // OTP's supervisor gives up with its children: so does this one, when one of them does.
            let gave_up = children.subscribe();
            let me = ctx.handle().clone();
            ctx.spawn(async move {
                let mut events = gave_up;
                while let Some(event) = events.recv().await {
                    if let Ok(gen_registry::Event::GaveUp { .. }) = event {
                        drop(me.try_cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))));
                    }
                }
            });
            seen.lock().unwrap().push(children);
            Ok(())
        })
    });
    let supervisor = within(top.start("sup", supervisor), "a start").await.unwrap();
    let children = last(&shelf);
    let (a, b) = (children.lookup("a").unwrap(), children.lookup("b").unwrap());
    a.cast(Ask::Do(Step::Panic)).await.unwrap();
    value_of(&a).await;
    assert_eq!((a.incarnation(), b.incarnation()), (2, 1), "one for one");
    for _ in 0..3 {
        a.cast(Ask::Do(Step::Fail)).await.unwrap();
    }
    within(a.closed(), "it is given up").await;
    within(b.closed(), "its sisters end with the supervisor").await;
    while supervisor.incarnation() == 1 || shelf.lock().unwrap().len() == 1 {
        until_idle().await;
    }
    let anew = last(&shelf);
    until_idle().await;
    assert_eq!(anew.count(), 3, "the supervisor came back with its fixed keys");
    assert!(["a", "b", "c"].iter().all(|key| record.most_at_once(key) == 1));
    let report = within(top.shutdown(), "a shutdown").await;
    assert_eq!((report.stuck, ["a", "b", "c"].map(|key| record.alive(key))), (0, [0; 3]));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "a worker cannot own the registry it belongs to")]
async fn owning_its_own_registry_panics() {
    let registry = Registry::<RestartableWorker>::new();
    let part = RestartableArgs::init(|ctx| {
        Box::pin(async move {
            let own = ctx.registry().upgrade().expect("the test holds it");
            ctx.own(&own);
            Ok(())
        })
    });
    match within(registry.start("p", part), "a start").await {
        Err(StartError::Panicked(message)) => panic!("{message}"),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn runtime_drop_ends_the_whole_tree() {
    let record = Record::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (top, child) = runtime.block_on(async {
        let shelf = Shelf::default();
        let top = Registry::<RestartableWorker>::new();
        top.start("p", parent(&record, &shelf, Plan::default())).await.unwrap();
        (top, last(&shelf).lookup("c").unwrap())
    });
    drop(runtime);
    assert_eq!(record.alive("c"), 0);
    let observer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    observer.block_on(async {
        within(child.closed(), "the child's end").await;
        assert!(matches!(top.start("p", RestartableArgs::default()).await, Err(StartError::RuntimeShutdown)));
    });
}
