//! What comes upon a start as its `init` ends, one by one, and all together.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_late_joiner_shares_or_follows_the_start() {
    let (scene, mut dice) = (Scene::new(), Dice(SEED));
    let mut ledger = Ledger::complete(&scene.registry);
    for round in 0..6_000 {
        let (key, plan, joins) = (dice.key(), dice.plan(ENDS), dice.verb());
        let lost = format!("round {round}: {plan:?}, joined by {joins:?}");
        let before = scene.book.inits();
        let first = scene.begin(dice.verb(), key, plan).await;
        dice.linger();
        let second = scene.ask(joins, key, scene.args(Plan::UP)).await;
        let first = answer(first).await;
        let inits = scene.book.inits() - before;
        let mut given = Vec::new();
        match (plan.end, first, second) {
            (End::Up, Ok(first), Ok(second)) => {
                assert_eq!((&first.worker, inits), (&second.worker, 1), "{lost}");
                assert!(!second.is_started, "{lost}: it has started nobody");
                assert!(ledger.has_heard_of(&first.worker), "{lost}: answered, and not told");
                given.push(first);
            }
            // The one that ends by itself, or its successor.
            (End::Stop | End::StopFirst, Ok(first), Ok(second)) => {
                assert_eq!(inits, if first.worker == second.worker { 1 } else { 2 }, "{lost}");
                given.extend([first, second]);
            }
            (End::Fail, Err(StartError::Init(_)), second) | (End::Panic, Err(StartError::Panicked(_)), second) => {
                match second {
                    // It came when that was over.
                    Ok(second) => given.push(second),
                    Err(StartError::Init(_)) => assert_eq!(plan.end, End::Fail, "{lost}"),
                    Err(StartError::Panicked(_)) => assert_eq!(plan.end, End::Panic, "{lost}"),
                    Err(error) => panic!("{lost}: {error}"),
                }
                assert_eq!(inits, 1 + given.len(), "{lost}");
            }
            (_, first, second) => panic!("{lost}: {first:?}, {second:?}"),
        }
        // Who ends by itself may be gone by now.
        let stopped = scene.end(false, key).await;
        assert!(matches!(stopped, Ok(_) | Err(StopError::NotFound)), "{lost}: {stopped:?}");
        for given in given {
            ledger.exit_of(&given.worker).await;
        }
        assert_eq!((scene.book.live(), scene.registry.count()), (0, 0), "{lost}");
    }
    scene.rest().await;
    scene.shut_down().await;
    ledger.close(&scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_late_stop_cancels_start_or_ends_worker() {
    let (scene, mut dice) = (Scene::new(), Dice(SEED + 1));
    let mut ledger = Ledger::complete(&scene.registry);
    let (mut round, mut cancelled, mut ended) = (0, 0, 0);
    // Until both were found, or this would say little.
    while round < 5_000 || cancelled == 0 || ended == 0 {
        assert!(round < 50_000, "{cancelled} cancelled, {ended} ended");
        round += 1;
        let (key, plan, kills) = (dice.key(), dice.plan(ENDS), dice.below(2) == 0);
        let lost = format!("round {round}: {plan:?}, killed: {kills}");
        let first = scene.begin(dice.verb(), key, plan).await;
        dice.linger();
        let stopped = scene.end(kills, key).await;
        if stopped.is_ok() {
            let left = (scene.registry.lookup(&key), scene.book.live(), scene.registry.count());
            assert_eq!(left, (None, 0, 0), "{lost}: of who was stopped");
        }
        match (plan.end, answer(first).await, stopped) {
            (End::Up | End::Stop | End::StopFirst, Ok(given), stopped) => {
                match stopped {
                    Ok(ExitReason::Killed) if kills => {}
                    Ok(ExitReason::Stopped) if !kills => {}
                    Ok(ExitReason::Normal) | Err(StopError::NotFound) if plan.end != End::Up => {}
                    stopped => panic!("{lost}: {stopped:?}"),
                }
                ended += usize::from(plan.end == End::Up);
                ledger.exit_of(&given.worker).await;
            }
            (_, Err(StartError::Cancelled), Ok(ExitReason::Killed)) if kills => cancelled += 1,
            (_, Err(StartError::Cancelled), Ok(ExitReason::Stopped)) if !kills => cancelled += 1,
            (End::Fail, Err(StartError::Init(_)), Ok(_) | Err(StopError::NotFound)) => {}
            (End::Panic, Err(StartError::Panicked(_)), Ok(_) | Err(StopError::NotFound)) => {}
            (_, first, stopped) => panic!("{lost}: {first:?}, {stopped:?}"),
        }
        let next = scene.ask(Verb::Start, key, scene.args(Plan::UP)).await.expect("the key is free");
        assert!(next.is_started, "{lost}: somebody else has its key");
        scene.end(true, key).await.expect("it runs");
        ledger.exit_of(&next.worker).await;
    }
    scene.rest().await;
    scene.shut_down().await;
    ledger.close(&scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_late_caller_drop_cancels_nothing() {
    let (scene, mut dice) = (Scene::new(), Dice(SEED + 2));
    let mut ledger = Ledger::complete(&scene.registry);
    for round in 0..4_000 {
        let (key, plan, before) = (dice.key(), dice.plan(&[End::Up]), scene.book.inits());
        let args = scene.args(plan);
        let cue = Arc::clone(&args.cue);
        let mut start = Box::pin(scene.registry.lookup_or_start(&key, args));
        // The other thread may be so fast that it is answered at once.
        if poll_once(start.as_mut()).await.is_pending() {
            until(|| cue.load(Ordering::SeqCst), "an `init` that is about to end").await;
            dice.linger();
        }
        drop(start);
        let next = scene.ask(dice.verb(), key, scene.args(Plan::UP)).await.expect("the start succeeds");
        assert!(!next.is_started, "round {round}: {plan:?}, and it was begun anew");
        assert_eq!(scene.book.inits() - before, 1, "round {round}: {plan:?}");
        scene.end(round % 2 == 0, key).await.expect("it runs");
        ledger.exit_of(&next.worker).await;
    }
    scene.rest().await;
    scene.shut_down().await;
    ledger.close(&scene).await;
}

/// Its registry ends with it: at once if it is killed.
struct Parent;

impl Worker for Parent {
    type Key = ();
    type Args = Registry<Starter>;
    type Message = ();
    type Error = Refused;

    async fn init(child: Registry<Starter>, ctx: &mut Context<Self>) -> Result<Self, Refused> {
        ctx.own(&child);
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Refused> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_late_shutdown_cancels_or_ends_workers() {
    let mut dice = Dice(SEED + 3);
    let parents = Registry::<Parent>::new();
    let (mut round, mut cancelled, mut ended) = (0, 0, 0);
    // Until both were found, or this would say little.
    while round < 600 || cancelled == 0 || ended == 0 {
        assert!(round < 6_000, "{cancelled} cancelled, {ended} ended");
        round += 1;
        let (scene, is_at_once) = (Scene::new(), dice.below(2) == 0);
        within(parents.start(&(), scene.registry.clone()), "a start of a parent").await.expect("there is none");
        let ledger = Ledger::complete(&scene.registry);
        let others: Vec<_> = (1..KEYS as u32)
            .map(|key| {
                let plan = dice.plan(ENDS_OR_NONE);
                (plan, scene.ask_apart(dice.verb(), key, scene.args(plan)))
            })
            .collect();
        let plan = dice.plan(&[End::Up]);
        let first = (plan, scene.begin(dice.verb(), 0, plan).await);
        dice.linger();
        if is_at_once {
            within(parents.kill(&()), "the kill of a parent").await.expect("it runs");
        }
        let report = within(scene.registry.shutdown(), "the report of a shutdown").await;
        assert_eq!(scene.book.live(), 0, "round {round}: something runs after the report");
        for (plan, asked) in others.into_iter().chain([first]) {
            match (plan.end, answer(asked).await) {
                (End::Up | End::Stop | End::StopFirst, Ok(given)) => {
                    assert_eq!(given.worker.state(), WorkerState::Exited, "round {round}: {plan:?}");
                    ended += usize::from(plan.end == End::Up);
                }
                (_, Err(StartError::Shutdown)) => cancelled += 1,
                (End::Fail, Err(StartError::Init(_))) | (End::Panic, Err(StartError::Panicked(_))) => {}
                (end, answered) => panic!("round {round}: {end:?}, {answered:?}, {report:?}"),
            }
        }
        assert!(is_at_once || report.aborted == 0, "round {round}: {report:?}");
        assert_eq!(report.stuck, 0, "round {round}: {report:?}");
        assert_eq!(report.cancelled as u64, scene.registry.stats().starts.cancelled, "round {round}: {report:?}");
        scene.assert_over();
        ledger.close(&scene).await;
        if !is_at_once {
            within(parents.stop(&()), "the stop of a parent").await.expect("it runs");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_late_runtime_drop_answers_and_leaks_nothing() {
    let mut dice = Dice(SEED + 4);
    for round in 0..250 {
        // The callers are on the test's own runtime.
        let threads = 1 + round % 2;
        let home = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        let scene = {
            let _entered = home.enter();
            Scene::new()
        };
        let mut ledger = Ledger::complete(&scene.registry);
        let mut callers: Vec<_> = (0..KEYS as u32 * 2)
            .map(|caller| {
                let plan = dice.plan(ENDS_OR_NONE);
                scene.ask_apart(dice.verb(), caller % (KEYS as u32 - 1), scene.args(plan))
            })
            .collect();
        let plan = dice.plan(&[End::Up]);
        callers.push(scene.begin(dice.verb(), KEYS as u32 - 1, plan).await);
        dice.linger();
        within(tokio::task::spawn_blocking(move || drop(home)), "the end of a runtime").await.unwrap();
        for caller in callers {
            match answer(caller).await {
                Ok(_) | Err(StartError::RuntimeShutdown) => {}
                // Of their own, or of the one that they joined.
                Err(StartError::Init(_) | StartError::Panicked(_)) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        ledger.hear_all().await;
        let left = (scene.registry.count(), scene.registry.to_list().len(), scene.book.live());
        assert_eq!(left, (0, 0, 0), "round {round}: something outlived its runtime");
        assert!(scene.book.most.load(Ordering::SeqCst) <= 1, "G1: two workers of one key");
        let Scene { registry, book } = scene;
        drop((registry, ledger));
        assert_eq!(Arc::strong_count(&book), 1, "round {round}: arguments were kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_init_at_timeout_is_up_or_without_trace() {
    let (scene, mut dice) = (Scene::of(Registry::builder().init_timeout(Duration::from_millis(1))), Dice(SEED + 5));
    let mut ledger = Ledger::complete(&scene.registry);
    let (mut round, mut timed_out, mut came_up) = (0, 0, 0);
    // Until both were seen, or this would say little.
    while round < 250 || timed_out == 0 || came_up == 0 {
        assert!(round < 2_500, "{timed_out} timed out, {came_up} came up");
        round += 1;
        let callers: Vec<_> = (0..KEYS as u32)
            .map(|key| {
                let end = End::Last(Duration::from_micros(dice.below(2_500)));
                let plan = dice.plan(&[end, end, end, End::Up, End::Hang]);
                (key, plan, scene.ask_apart(dice.verb(), key, scene.args(plan)))
            })
            .collect();
        for (key, plan, asked) in callers {
            match answer(asked).await {
                Ok(given) => {
                    came_up += 1;
                    scene.end(dice.below(2) == 0, key).await.expect("it runs");
                    ledger.exit_of(&given.worker).await;
                }
                Err(StartError::TimedOut) => timed_out += 1,
                Err(error) => panic!("round {round}: {plan:?}, {error}"),
            }
            let live = scene.book.live[key as usize].load(Ordering::SeqCst);
            assert_eq!((scene.registry.lookup(&key), live), (None, 0), "round {round}: {plan:?}");
        }
    }
    assert_eq!(scene.registry.stats().starts.timeout, timed_out);
    scene.rest().await;
    scene.shut_down().await;
    ledger.close(&scene).await;
}

/// One of many, who all do whatever can be done.
async fn storm(scene: Scene, mut dice: Dice, is_over: Arc<AtomicBool>) -> Vec<Ledger> {
    let mut ledgers = Vec::new();
    for _ in 0..60 {
        let (key, verb, other) = (dice.key(), dice.verb(), dice.key());
        let plan = dice.plan(ENDS);
        let asking = dice.plan(&[End::Ask(other)]);
        match dice.below(16) {
            n @ 0..5 => {
                let ended = scene.end(n < 2, key).await;
                assert!(matches!(ended, Ok(_) | Err(StopError::NotFound)), "{ended:?}");
            }
            5..7 => {
                let Some(worker) = scene.registry.lookup(&key) else { continue };
                if within(worker.stop(), "a stop").await.is_ok() {
                    assert_eq!(worker.state(), WorkerState::Exited, "of who was stopped");
                    assert_ne!(scene.registry.lookup(&key), Some(worker), "G3: found, and was stopped");
                }
            }
            7 => {
                // Gone at once, or after a moment.
                let mut start = Box::pin(scene.registry.start(&key, scene.args(plan)));
                for _ in 0..=dice.below(3) {
                    if poll_once(start.as_mut()).await.is_ready() {
                        break;
                    }
                    yield_now().await;
                }
            }
            8 if dice.below(8) == 0 => ledgers.push(Ledger::from_now_on(&scene.registry)),
            n => match scene.ask(verb, key, scene.args(if n < 11 { asking } else { plan })).await {
                Ok(_) | Err(StartError::Init(_) | StartError::Cancelled) => {}
                // As told, and nothing else: a claim inside of an `init` says something else.
                Err(StartError::Panicked(message)) => assert_eq!(&*message, "scripted"),
                Err(StartError::Shutdown) => assert!(is_over.load(Ordering::SeqCst), "nobody has shut it down"),
                Err(error) => panic!("{error}"),
            },
        }
        dice.linger();
    }
    ledgers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_all_are_answered_and_counts_add_up() {
    let mut dice = Dice(SEED + 6);
    for round in 0..120 {
        let scene = Scene::new();
        let mut ledgers = vec![Ledger::complete(&scene.registry)];
        let is_over = Arc::<AtomicBool>::default();
        let callers: Vec<_> = (0..6)
            .map(|_| tokio::spawn(storm(scene.clone(), Dice(dice.below(u64::MAX)), Arc::clone(&is_over))))
            .collect();
        let is_cut_off = round % 2 == 0;
        if is_cut_off {
            let enough = dice.below(120) as usize;
            let is_enough = || scene.book.inits() > enough || callers.iter().all(JoinHandle::is_finished);
            until(is_enough, "the middle of a storm").await;
            is_over.store(true, Ordering::SeqCst);
            scene.shut_down().await;
        }
        for caller in callers {
            ledgers.extend(within(caller, "a caller in the storm").await.unwrap());
        }
        if !is_cut_off {
            scene.rest().await;
        }
        scene.shut_down().await;
        for ledger in ledgers {
            ledger.close(&scene).await;
        }
    }
}
