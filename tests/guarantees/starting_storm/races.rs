//! Events that race with the end of an `init`, one by one and all together.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_late_joiner_shares_or_follows_the_start() {
    let (fixture, mut dice) = (Fixture::new(), Dice::new(SEED));
    let mut ledger = Ledger::complete(&fixture.registry);
    for round in 0..6_000 {
        let (key, plan, joins) = (dice.key(), dice.plan(ENDS), dice.verb());
        let lost = format!("round {round}: {plan:?}, joined by {joins:?}");
        let before = fixture.book.inits();
        let first = fixture.begin(dice.verb(), key, plan).await;
        dice.spin();
        let second = fixture.ask(joins, key, fixture.args(Plan::SUCCEED)).await;
        let first = answer(first).await;
        let inits = fixture.book.inits() - before;
        let mut received = Vec::new();
        match (plan.end, first, second) {
            (End::Succeed, Ok(first), Ok(second)) => {
                assert_eq!((&first.worker, inits), (&second.worker, 1), "{lost}");
                assert!(!second.is_started, "{lost}: the second call started a worker");
                assert!(ledger.has_event_of(&first.worker), "{lost}: returned before its event");
                received.push(first);
            }
            // The worker that ends by itself, or its successor.
            (End::Stop | End::StopFirst, Ok(first), Ok(second)) => {
                assert_eq!(inits, if first.worker == second.worker { 1 } else { 2 }, "{lost}");
                received.extend([first, second]);
            }
            (End::Fail, Err(StartError::Init(_)), second) | (End::Panic, Err(StartError::Panicked(_)), second) => {
                match second {
                    // The request ran after the first worker had exited.
                    Ok(second) => received.push(second),
                    Err(StartError::Init(_)) => assert_eq!(plan.end, End::Fail, "{lost}"),
                    Err(StartError::Panicked(_)) => assert_eq!(plan.end, End::Panic, "{lost}"),
                    Err(error) => panic!("{lost}: {error}"),
                }
                assert_eq!(inits, 1 + received.len(), "{lost}");
            }
            (_, first, second) => panic!("{lost}: {first:?}, {second:?}"),
        }
        // A worker that ends by itself may have exited by now.
        let stopped = fixture.end(false, key).await;
        assert!(matches!(stopped, Ok(_) | Err(StopError::NotFound)), "{lost}: {stopped:?}");
        for received in received {
            ledger.exit_of(&received.worker).await;
        }
        assert_eq!((fixture.book.live(), fixture.registry.count()), (0, 0), "{lost}");
    }
    fixture.rest().await;
    fixture.shut_down().await;
    ledger.close(&fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_late_stop_cancels_start_or_ends_worker() {
    let (fixture, mut dice) = (Fixture::new(), Dice::new(SEED + 1));
    let mut ledger = Ledger::complete(&fixture.registry);
    let (mut round, mut cancelled, mut ended) = (0, 0, 0);
    // Repeat until both were seen. Otherwise the test would show little.
    while round < 5_000 || cancelled == 0 || ended == 0 {
        assert!(round < 50_000, "{cancelled} cancelled, {ended} ended");
        round += 1;
        let (key, plan, kills) = (dice.key(), dice.plan(ENDS), dice.below(2) == 0);
        let lost = format!("round {round}: {plan:?}, killed: {kills}");
        let first = fixture.begin(dice.verb(), key, plan).await;
        dice.spin();
        let stopped = fixture.end(kills, key).await;
        if stopped.is_ok() {
            let left = (fixture.registry.lookup(&key), fixture.book.live(), fixture.registry.count());
            assert_eq!(left, (None, 0, 0), "{lost}: left by the stopped worker");
        }
        match (plan.end, answer(first).await, stopped) {
            (End::Succeed | End::Stop | End::StopFirst, Ok(received), stopped) => {
                match stopped {
                    Ok(ExitReason::Killed) if kills => {}
                    Ok(ExitReason::Stopped) if !kills => {}
                    Ok(ExitReason::Normal) | Err(StopError::NotFound) if plan.end != End::Succeed => {}
                    stopped => panic!("{lost}: {stopped:?}"),
                }
                ended += usize::from(plan.end == End::Succeed);
                ledger.exit_of(&received.worker).await;
            }
            (_, Err(StartError::Cancelled), Ok(ExitReason::Killed)) if kills => cancelled += 1,
            (_, Err(StartError::Cancelled), Ok(ExitReason::Stopped)) if !kills => cancelled += 1,
            (End::Fail, Err(StartError::Init(_)), Ok(_) | Err(StopError::NotFound)) => {}
            (End::Panic, Err(StartError::Panicked(_)), Ok(_) | Err(StopError::NotFound)) => {}
            (_, first, stopped) => panic!("{lost}: {first:?}, {stopped:?}"),
        }
        let next = fixture.ask(Verb::Start, key, fixture.args(Plan::SUCCEED)).await.expect("the key is free");
        assert!(next.is_started, "{lost}: another worker has the key");
        fixture.end(true, key).await.expect("the worker is running");
        ledger.exit_of(&next.worker).await;
    }
    fixture.rest().await;
    fixture.shut_down().await;
    ledger.close(&fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_late_caller_drop_cancels_nothing() {
    let (fixture, mut dice) = (Fixture::new(), Dice::new(SEED + 2));
    let mut ledger = Ledger::complete(&fixture.registry);
    for round in 0..4_000 {
        let (key, plan, before) = (dice.key(), dice.plan(&[End::Succeed]), fixture.book.inits());
        let args = fixture.args(plan);
        let init_ends = Arc::clone(&args.init_ends);
        let mut start = Box::pin(fixture.registry.lookup_or_start(&key, args));
        // The other thread may be so fast that the call returns at once.
        if poll_once(start.as_mut()).await.is_pending() {
            until("an `init` that is about to end", || init_ends.load(Ordering::SeqCst)).await;
            dice.spin();
        }
        drop(start);
        let next = fixture.ask(dice.verb(), key, fixture.args(Plan::SUCCEED)).await.expect("the start succeeds");
        assert!(!next.is_started, "round {round}: {plan:?}, and a new start began");
        assert_eq!(fixture.book.inits() - before, 1, "round {round}: {plan:?}");
        fixture.end(round % 2 == 0, key).await.expect("the worker is running");
        ledger.exit_of(&next.worker).await;
    }
    fixture.rest().await;
    fixture.shut_down().await;
    ledger.close(&fixture).await;
}

/// Its registry ends with it, at once if it is killed.
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
    let mut dice = Dice::new(SEED + 3);
    let parents = Registry::<Parent>::new();
    let (mut round, mut cancelled, mut ended) = (0, 0, 0);
    // Repeat until both were seen. Otherwise the test would show little.
    while round < 600 || cancelled == 0 || ended == 0 {
        assert!(round < 6_000, "{cancelled} cancelled, {ended} ended");
        round += 1;
        let (fixture, is_at_once) = (Fixture::new(), dice.below(2) == 0);
        within(parents.start(&(), fixture.registry.clone()), "a start of a parent").await.expect("the key is vacant");
        let ledger = Ledger::complete(&fixture.registry);
        let others: Vec<_> = (1..KEYS as u32)
            .map(|key| {
                let plan = dice.plan(ENDS_OR_NONE);
                (plan, fixture.ask_apart(dice.verb(), key, fixture.args(plan)))
            })
            .collect();
        let plan = dice.plan(&[End::Succeed]);
        let first = (plan, fixture.begin(dice.verb(), 0, plan).await);
        dice.spin();
        if is_at_once {
            within(parents.kill(&()), "the kill of a parent").await.expect("the worker is running");
        }
        let report = within(fixture.registry.shutdown(), "the report of a shutdown").await;
        assert_eq!(fixture.book.live(), 0, "round {round}: a worker is alive after the report");
        for (plan, asked) in others.into_iter().chain([first]) {
            match (plan.end, answer(asked).await) {
                (End::Succeed | End::Stop | End::StopFirst, Ok(received)) => {
                    assert_eq!(received.worker.state(), WorkerState::Exited, "round {round}: {plan:?}");
                    ended += usize::from(plan.end == End::Succeed);
                }
                (_, Err(StartError::Shutdown)) => cancelled += 1,
                (End::Fail, Err(StartError::Init(_))) | (End::Panic, Err(StartError::Panicked(_))) => {}
                (end, answered) => panic!("round {round}: {end:?}, {answered:?}, {report:?}"),
            }
        }
        assert!(is_at_once || report.aborted == 0, "round {round}: {report:?}");
        assert_eq!(report.stuck, 0, "round {round}: {report:?}");
        assert_eq!(report.cancelled as u64, fixture.registry.stats().starts.cancelled, "round {round}: {report:?}");
        fixture.assert_over();
        ledger.close(&fixture).await;
        if !is_at_once {
            within(parents.stop(&()), "the stop of a parent").await.expect("the worker is running");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_late_runtime_drop_answers_and_leaks_nothing() {
    let mut dice = Dice::new(SEED + 4);
    for round in 0..250 {
        // The callers run on the test's own runtime.
        let threads = 1 + round % 2;
        let home = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        let fixture = {
            let _entered = home.enter();
            Fixture::new()
        };
        let mut ledger = Ledger::complete(&fixture.registry);
        let mut callers: Vec<_> = (0..KEYS as u32 * 2)
            .map(|caller| {
                let plan = dice.plan(ENDS_OR_NONE);
                fixture.ask_apart(dice.verb(), caller % (KEYS as u32 - 1), fixture.args(plan))
            })
            .collect();
        let plan = dice.plan(&[End::Succeed]);
        callers.push(fixture.begin(dice.verb(), KEYS as u32 - 1, plan).await);
        dice.spin();
        within(tokio::task::spawn_blocking(move || drop(home)), "the drop of a runtime").await.unwrap();
        for caller in callers {
            match answer(caller).await {
                Ok(_) | Err(StartError::RuntimeShutdown) => {}
                // From their own start, or from the one they joined.
                Err(StartError::Init(_) | StartError::Panicked(_)) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        ledger.hear_all().await;
        let left = (fixture.registry.count(), fixture.registry.to_list().len(), fixture.book.live());
        assert_eq!(left, (0, 0, 0), "round {round}: a worker outlived its runtime");
        assert!(fixture.book.most.load(Ordering::SeqCst) <= 1, "G1: two workers of one key");
        let Fixture { registry, book } = fixture;
        drop((registry, ledger));
        assert_eq!(Arc::strong_count(&book), 1, "round {round}: arguments were kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_init_at_timeout_is_up_or_without_trace() {
    let (fixture, mut dice) =
        (Fixture::of(Registry::builder().init_timeout(Duration::from_millis(1))), Dice::new(SEED + 5));
    let mut ledger = Ledger::complete(&fixture.registry);
    let (mut round, mut timed_out, mut succeeded) = (0, 0, 0);
    // Repeat until both were seen. Otherwise the test would show little.
    while round < 250 || timed_out == 0 || succeeded == 0 {
        assert!(round < 2_500, "{timed_out} timed out, {succeeded} succeeded");
        round += 1;
        let callers: Vec<_> = (0..KEYS as u32)
            .map(|key| {
                let end = End::Last(Duration::from_micros(dice.below(2_500)));
                let plan = dice.plan(&[end, end, end, End::Succeed, End::Hang]);
                (key, plan, fixture.ask_apart(dice.verb(), key, fixture.args(plan)))
            })
            .collect();
        for (key, plan, asked) in callers {
            match answer(asked).await {
                Ok(received) => {
                    succeeded += 1;
                    fixture.end(dice.below(2) == 0, key).await.expect("the worker is running");
                    ledger.exit_of(&received.worker).await;
                }
                Err(StartError::TimedOut) => timed_out += 1,
                Err(error) => panic!("round {round}: {plan:?}, {error}"),
            }
            let live = fixture.book.live[key as usize].load(Ordering::SeqCst);
            assert_eq!((fixture.registry.lookup(&key), live), (None, 0), "round {round}: {plan:?}");
        }
    }
    assert_eq!(fixture.registry.stats().starts.timeout, timed_out);
    fixture.rest().await;
    fixture.shut_down().await;
    ledger.close(&fixture).await;
}

/// One task of many, which perform random operations.
async fn storm(fixture: Fixture, mut dice: Dice, is_over: Arc<AtomicBool>) -> Vec<Ledger> {
    let mut ledgers = Vec::new();
    for _ in 0..60 {
        let (key, verb, other) = (dice.key(), dice.verb(), dice.key());
        let plan = dice.plan(ENDS);
        let asking = dice.plan(&[End::Ask(other)]);
        match dice.below(16) {
            n @ 0..5 => {
                let ended = fixture.end(n < 2, key).await;
                assert!(matches!(ended, Ok(_) | Err(StopError::NotFound)), "{ended:?}");
            }
            5..7 => {
                let Some(worker) = fixture.registry.lookup(&key) else { continue };
                if within(worker.stop(), "a stop").await.is_ok() {
                    assert_eq!(worker.state(), WorkerState::Exited, "the stopped worker");
                    assert_ne!(fixture.registry.lookup(&key), Some(worker), "G3: found, and was stopped");
                }
            }
            7 => {
                // Drop the start after a few polls.
                let mut start = Box::pin(fixture.registry.start(&key, fixture.args(plan)));
                for _ in 0..=dice.below(3) {
                    if poll_once(start.as_mut()).await.is_ready() {
                        break;
                    }
                    yield_now().await;
                }
            }
            8 if dice.below(8) == 0 => ledgers.push(Ledger::from_now_on(&fixture.registry)),
            n => match fixture.ask(verb, key, fixture.args(if n < 11 { asking } else { plan })).await {
                Ok(_) | Err(StartError::Init(_) | StartError::Cancelled) => {}
                // The scripted panic and no other: an assertion inside an `init` has another message.
                Err(StartError::Panicked(message)) => assert_eq!(&*message, "scripted"),
                Err(StartError::Shutdown) => assert!(is_over.load(Ordering::SeqCst), "the registry was not shut down"),
                Err(error) => panic!("{error}"),
            },
        }
        dice.spin();
    }
    ledgers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_all_are_answered_and_counts_add_up() {
    let mut dice = Dice::new(SEED + 6);
    for round in 0..120 {
        let fixture = Fixture::new();
        let mut ledgers = vec![Ledger::complete(&fixture.registry)];
        let is_over = Arc::<AtomicBool>::default();
        let callers: Vec<_> = (0..6)
            .map(|_| tokio::spawn(storm(fixture.clone(), Dice::new(dice.below(u64::MAX)), Arc::clone(&is_over))))
            .collect();
        let is_cut_off = round % 2 == 0;
        if is_cut_off {
            let enough = dice.below(120) as usize;
            let is_enough = || fixture.book.inits() > enough || callers.iter().all(JoinHandle::is_finished);
            until("the middle of the storm", is_enough).await;
            is_over.store(true, Ordering::SeqCst);
            fixture.shut_down().await;
        }
        for caller in callers {
            ledgers.extend(within(caller, "a caller in the storm").await.unwrap());
        }
        if !is_cut_off {
            fixture.rest().await;
        }
        fixture.shut_down().await;
        for ledger in ledgers {
            ledger.close(&fixture).await;
        }
    }
}
