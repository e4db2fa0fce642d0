//! `ctx.own`: a registry that shuts down with a worker of another registry, before that worker's key is vacant.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Registry, Restart, StartError, StopError};
use test_support::{
    Ask, BoxFuture, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Scripted, Step, fallible_job,
    poll_once, run_blocking_code, run_in_restartable, until_idle, value_of, within, yield_many,
};
use tokio::time::{Instant, advance};

/// Where a parent stores the registries that it creates, for the test.
type Registries = Arc<Mutex<Vec<Registry<Probe>>>>;

/// An `init` that owns a new registry with the recorded child "c".
fn parent(record: &Record, registries: &Registries, child: Plan) -> RestartableArgs {
    let (registries, child) = (Arc::clone(registries), child.recorded(record));
    RestartableArgs::init(move |ctx| own_one(ctx, &registries, &child))
}

fn own_one<'a>(
    ctx: &'a mut Context<RestartableWorker>,
    registries: &Registries,
    child: &Plan,
) -> BoxFuture<'a, Result<(), Scripted>> {
    let (registries, child) = (Arc::clone(registries), child.clone());
    Box::pin(async move {
        let children = Registry::<Probe>::new();
        ctx.own(&children);
        registries.lock().unwrap().push(children.clone());
        children.start("c", child).await.expect("a new registry is empty");
        Ok(())
    })
}

fn last(registries: &Registries) -> Registry<Probe> {
    registries.lock().unwrap().last().expect("the parent created a registry").clone()
}

#[tokio::test(start_paused = true)]
async fn key_is_free_only_after_children_end() {
    for end in ["stop", "kill", "crash", "ctx.stop", "shutdown", "panic"] {
        let (record, registries) = (Record::default(), Registries::default());
        let registry = Registry::<RestartableWorker>::new();
        let endless = Plan::terminate(Step::Hang);
        let worker = within(registry.start("p", parent(&record, &registries, endless)), "a start").await.unwrap();
        let child = last(&registries).lookup("c").expect("the child was started");
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
        let reason = within(worker.closed(), "the parent's exit").await;
        // Without yielding in between.
        assert_eq!(record.alive("c"), 0, "{end}: {reason}");
        assert!(child.try_cast(Ask::Note(1)).is_err(), "{end}");
        let waited = if matches!(end, "stop" | "ctx.stop" | "shutdown") { 5 } else { 0 };
        assert_eq!(began.elapsed().as_secs(), waited, "{end}: an orderly exit has until `stop_timeout`");
        within(child.closed(), "the child's exit").await;
        let refused = within(last(&registries).start("d", Plan::default()), "a start").await;
        assert!(matches!(refused, Err(StartError::Shutdown)), "{end}: the registry is shut down");
    }
}

#[tokio::test(start_paused = true)]
async fn children_drain_on_stop_but_not_on_kill() {
    for is_kill in [false, true] {
        let (record, registries) = (Record::default(), Registries::default());
        let registry = Registry::<RestartableWorker>::new();
        let worker =
            within(registry.start("p", parent(&record, &registries, Plan::default())), "a start").await.unwrap();
        let (child, gate) = (last(&registries).lookup("c").unwrap(), Gate::new());
        child.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
        gate.reached().await;
        child.cast(Ask::Note(1)).await.unwrap();
        let mut ended: BoxFuture<'_, _> = if is_kill { Box::pin(worker.kill()) } else { Box::pin(worker.stop()) };
        assert!(poll_once(ended.as_mut()).await.is_pending());
        until_idle().await;
        if !is_kill {
            assert!(poll_once(ended.as_mut()).await.is_pending(), "the key is not vacant while a child is alive");
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
        let (record, registries) = (Record::default(), Registries::default());
        let registry = Registry::<RestartableWorker>::new();
        let (created, child) = (Arc::clone(&registries), Plan::default().recorded(&record));
        let args = RestartableArgs::init(move |ctx| {
            let (registries, child) = (Arc::clone(&created), child.clone());
            Box::pin(async move {
                own_one(ctx, &registries, &child).await?;
                assert!(!is_panic, "a scripted panic");
                Err(Scripted)
            })
        });
        let failed = within(registry.start("p", args), "a failed start").await;
        assert!(matches!(failed, Err(StartError::Init(_) | StartError::Panicked(_))), "{failed:?}");
        assert_eq!((record.inits("c"), record.alive("c")), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn restart_replaces_the_children() {
    let (record, registries) = (Record::default(), Registries::default());
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let worker = within(registry.start("p", parent(&record, &registries, Plan::value(4))), "a start").await.unwrap();
    let old = last(&registries).lookup("c").unwrap();
    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
    within(old.closed(), "the old child").await;
    let new = last(&registries).lookup("c").expect("the child was started again");
    assert_eq!((value_of(&new).await, registries.lock().unwrap().len()), (4, 2));
    assert_ne!(old, new);
    assert_eq!((record.most_at_once("c"), record.alive("c")), (1, 1));
    within(registry.stop("p"), "a stop").await.unwrap();
    assert_eq!(record.alive("c"), 0);
}

/// A child with blocking code that runs until the sender is dropped.
async fn stuck_child(children: &Registry<RestartableWorker>) -> mpsc::Sender<()> {
    let worker = within(children.start("stuck", RestartableArgs::default()), "a start").await.unwrap();
    run_blocking_code(&worker).await
}

/// Advances the clock, which does not move by itself while blocking code runs.
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
async fn every_owned_registry_ends_with_its_owner() {
    let (top, registries) = (Registry::<RestartableWorker>::new(), [(); 3].map(|()| Registry::<Probe>::new()));
    let worker = within(top.start("p", RestartableArgs::default()), "a start").await.unwrap();
    for children in &registries {
        let children = children.clone();
        let owned = run_in_restartable(&worker, move |ctx| {
            Box::pin(async move {
                ctx.own(&children);
                // Once is enough.
                ctx.own(&children);
            })
        });
        owned.await.unwrap();
    }
    within(top.stop("p"), "a stop").await.unwrap();
    for children in &registries {
        let refused = within(children.start("c", Plan::default()), "a start").await;
        assert!(matches!(refused, Err(StartError::Shutdown)), "{refused:?}");
    }
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
        assert!(!end.is_finished(), "the key is vacant while a child is running (G1)");
    }
    drop(release);
    for end in ends {
        within(end, "the exit of an owner").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn all_three_levels_end_on_stop() {
    let order = Arc::<Mutex<Vec<&str>>>::default();
    let level = |name: &'static str| {
        let order = Arc::clone(&order);
        /// Records its drop.
        struct RecordsDrop(&'static str, Arc<Mutex<Vec<&'static str>>>);
        impl Drop for RecordsDrop {
            fn drop(&mut self) {
                self.1.lock().unwrap().push(self.0);
            }
        }
        RestartableArgs::init(move |ctx| {
            let says = RecordsDrop(name, Arc::clone(&order));
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
        assert!(poll_once(Box::pin(handle.closed()).as_mut()).await.is_ready(), "a worker has not exited");
    }
    assert_eq!((middle.count(), bottom.count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn owned_registry_is_a_one_for_one_supervisor() {
    let record = Record::default();
    let registries = Registries::default();
    let top = Registry::<RestartableWorker>::builder().restart(Restart::Permanent).build().unwrap();
    let (seen, plan) = (Arc::clone(&registries), Plan::default().recorded(&record));
    let supervisor = RestartableArgs::init(move |ctx| {
        let (seen, plan) = (Arc::clone(&seen), plan.clone());
        Box::pin(async move {
            let children = Registry::<Probe>::builder().restart(Restart::Permanent).build().map_err(|_| Scripted)?;
            ctx.own(&children);
            for key in ["a", "b", "c"] {
                children.start(key, plan.clone()).await.map_err(|_| Scripted)?;
            }
            // OTP's supervisor exits when the restarts of a child exceed the limit. This one does the same.
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
    let children = last(&registries);
    let (a, b) = (children.lookup("a").unwrap(), children.lookup("b").unwrap());
    a.cast(Ask::Do(Step::Panic)).await.unwrap();
    value_of(&a).await;
    assert_eq!((a.incarnation(), b.incarnation()), (2, 1), "one for one");
    for _ in 0..3 {
        a.cast(Ask::Do(Step::Fail)).await.unwrap();
    }
    within(a.closed(), "the end of the restarts").await;
    within(b.closed(), "the siblings exit with the supervisor").await;
    while supervisor.incarnation() == 1 || registries.lock().unwrap().len() == 1 {
        until_idle().await;
    }
    let anew = last(&registries);
    until_idle().await;
    assert_eq!(anew.count(), 3, "the restarted supervisor started its fixed keys");
    assert!(["a", "b", "c"].iter().all(|key| record.most_at_once(key) == 1));
    let report = within(top.shutdown(), "a shutdown").await;
    assert_eq!((report.stuck, ["a", "b", "c"].map(|key| record.alive(key))), (0, [0; 3]));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "a worker cannot own the registry it belongs to")]
async fn owning_its_own_registry_panics() {
    let registry = Registry::<RestartableWorker>::new();
    let args = RestartableArgs::init(|ctx| {
        Box::pin(async move {
            let own = ctx.registry().upgrade().expect("the test holds the registry");
            ctx.own(&own);
            Ok(())
        })
    });
    match within(registry.start("p", args), "a start").await {
        Err(StartError::Panicked(message)) => panic!("{message}"),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn runtime_drop_ends_the_whole_tree() {
    let record = Record::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (top, child) = runtime.block_on(async {
        let registries = Registries::default();
        let top = Registry::<RestartableWorker>::new();
        top.start("p", parent(&record, &registries, Plan::default())).await.unwrap();
        (top, last(&registries).lookup("c").unwrap())
    });
    drop(runtime);
    assert_eq!(record.alive("c"), 0);
    let observer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    observer.block_on(async {
        within(child.closed(), "the child's exit").await;
        assert!(matches!(top.start("p", RestartableArgs::default()).await, Err(StartError::RuntimeShutdown)));
    });
}

#[tokio::test(start_paused = true)]
async fn each_of_many_owned_registries_ends() {
    let (parents, many) = (Registry::<RestartableWorker>::new(), 20);
    let registries: Vec<_> = (0..many).map(|_| Registry::<Probe>::new()).collect();
    let owned = registries.clone();
    let args = RestartableArgs::init(move |ctx| {
        owned.iter().for_each(|registry| ctx.own(registry));
        Box::pin(async { Ok(()) })
    });
    within(parents.start("p", args), "a start").await.unwrap();
    for registry in &registries {
        within(registry.start("c", Plan::default()), "a start").await.unwrap();
    }
    within(parents.stop("p"), "a stop").await.unwrap();
    let counts: Vec<usize> = registries.iter().map(Registry::count).collect();
    assert_eq!(counts, vec![0; many], "a registry outlives its owner");
}
