//! `Aliases`: one worker per name. A worker may have many names.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use gen_registry::{Aliases, CallError, Equivalent, RegisterError, Registry, SendError, WorkerHandle, spawn};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, PollCounter, Probe, Record, Step, poll_once, populated, run_in,
    until_idle, value_of, within,
};

use crate::{ENDINGS, end};

async fn probe(value: u32) -> WorkerHandle<Probe> {
    within(spawn("probe".into(), Plan::value(value)), "a start").await.expect("the start succeeds")
}

#[tokio::test(start_paused = true)]
async fn worker_may_have_many_names() {
    let (aliases, a, b) = (Aliases::<String, Probe>::new(), probe(1).await, probe(2).await);
    assert_eq!(aliases.whereis("one"), None);
    for name in ["one", "uno", "eins"] {
        aliases.register(name.to_string(), &a).unwrap();
    }
    aliases.register("two".to_string(), &b).unwrap();
    for name in ["one", "uno", "eins"] {
        assert_eq!(aliases.clone().whereis(name), Some(a.clone()));
    }
    assert_eq!(aliases.whereis("two"), Some(b.clone()));
    assert_eq!(aliases.names_of(&a), ["one", "uno", "eins"]);
    assert_eq!(aliases.names_of(&b), ["two"]);
    assert_eq!(aliases.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn taken_name_is_refused_with_its_holder() {
    let (aliases, a, b) = (Aliases::<String, Probe>::new(), probe(1).await, probe(2).await);
    aliases.register("name".into(), &a).unwrap();
    match aliases.register("name".into(), &b) {
        Err(RegisterError::Taken { name, holder }) => {
            assert_eq!((name.into_inner(), holder), ("name".into(), a.clone()))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(aliases.register("name".into(), &b).unwrap_err().into_name(), "name");
    assert_eq!(aliases.whereis("name"), Some(a));
    assert!(aliases.names_of(&b).is_empty());
}

#[tokio::test(start_paused = true)]
async fn registering_twice_is_idempotent() {
    let (aliases, a) = (Aliases::<u32, Probe>::new(), probe(1).await);
    for _ in 0..3 {
        aliases.register(1, &a).unwrap();
    }
    assert_eq!((aliases.len(), aliases.names_of(&a)), (1, vec![1]));
    assert_eq!(aliases.unregister(&1), Some(a));
    assert!(aliases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn closing_worker_cannot_register() {
    let (aliases, gate) = (Aliases::<u32, Probe>::new(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone()));
    let worker = within(spawn::<Probe>("a".into(), plan), "the start").await.unwrap();
    aliases.register(6, &worker).unwrap();
    worker.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    assert!(matches!(aliases.register(6, &worker), Err(RegisterError::Closed(_))));
    let ending = aliases.register(7, &worker);
    assert!(matches!(&ending, Err(RegisterError::Closed(_))), "{ending:?}");
    assert_eq!(ending.unwrap_err().into_name(), 7);
    gate.open();
    within(worker.closed(), "the end").await;
    assert!(matches!(aliases.register(7, &worker), Err(RegisterError::Closed(_))));
    assert!(aliases.is_empty() && aliases.names_of(&worker).is_empty());
}

#[tokio::test(start_paused = true)]
async fn closing_holder_frees_name_for_successor() {
    let (aliases, gate) = (Aliases::<u32, Probe>::new(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone()));
    let old = within(spawn::<Probe>("a".into(), plan), "the start").await.unwrap();
    let new = probe(2).await;
    for name in 0..3 {
        aliases.register(name, &old).unwrap();
    }
    old.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    assert_eq!((aliases.whereis(&1), aliases.len(), aliases.to_list().len()), (None, 0, 0));
    assert!(aliases.names_of(&old).is_empty());
    assert_eq!(aliases.unregister(&2), None);
    aliases.register(1, &new).unwrap();
    assert_eq!(aliases.whereis(&1), Some(new.clone()));
    gate.open();
    within(old.closed(), "the end").await;
    assert_eq!(aliases.whereis(&1), Some(new.clone()));
    assert_eq!(aliases.to_list(), [(1, new)]);
}

#[tokio::test(start_paused = true)]
async fn unregister_does_not_touch_the_worker() {
    let (aliases, a, b) = (Aliases::<String, Probe>::new(), probe(1).await, probe(2).await);
    aliases.register("name".into(), &a).unwrap();
    aliases.register("other".into(), &a).unwrap();
    assert_eq!(aliases.unregister("unknown"), None);
    assert_eq!(aliases.unregister("name"), Some(a.clone()));
    assert_eq!(aliases.unregister("name"), None);
    aliases.register("name".into(), &b).unwrap();
    assert_eq!(aliases.names_of(&a), ["other"]);
    within(a.stop(), "the stop").await.unwrap();
    assert_eq!(aliases.to_list(), [("name".to_string(), b)]);
}

#[tokio::test(start_paused = true)]
async fn any_exit_frees_all_names() {
    for ending in ENDINGS {
        let (aliases, registry) = (Aliases::<u32, Probe>::new(), populated(&["a"]).await);
        let (worker, other) = (registry.lookup("a").unwrap(), probe(2).await);
        for name in 0..10 {
            aliases.register(name, &worker).unwrap();
        }
        aliases.register(10, &other).unwrap();
        end(ending, registry, &worker).await;
        assert_eq!(aliases.to_list(), [(10, other.clone())], "{ending}");
        // The names are vacant at once.
        for name in 0..10 {
            aliases.register(name, &other).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn registries_share_one_directory() {
    let (aliases, first, second) = (Aliases::<u32, Probe>::new(), populated(&["a"]).await, populated(&["a"]).await);
    let (a, b) = (first.lookup("a").unwrap(), second.lookup("a").unwrap());
    aliases.register(1, &a).unwrap();
    assert_eq!(aliases.register(1, &b).unwrap_err().holder(), Some(&a));
    aliases.register(2, &b).unwrap();
    assert_eq!(within(first.shutdown(), "the shutdown").await.drained, 1);
    aliases.register(1, &b).unwrap();
    assert_eq!(aliases.names_of(&b), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn whereis_accepts_borrowed_names() {
    #[derive(PartialEq, Eq, Hash)]
    struct Line(String, u32);
    #[derive(Hash)]
    struct LineRef<'a>(&'a str, u32);
    impl Equivalent<Line> for LineRef<'_> {
        fn equivalent(&self, line: &Line) -> bool {
            self.0 == line.0 && self.1 == line.1
        }
    }
    let (aliases, a) = (Aliases::<Line, Probe>::new(), probe(1).await);
    aliases.register(Line("north".into(), 1), &a).unwrap();
    assert_eq!(aliases.whereis(&LineRef("north", 1)), Some(a.clone()));
    assert_eq!(aliases.whereis(&LineRef("north", 2)), None);
    assert_eq!(aliases.unregister(&LineRef("north", 1)), Some(a));
}

#[tokio::test(start_paused = true)]
async fn send_by_name_delivers_or_returns_message() {
    let (aliases, a) = (Aliases::<String, Probe>::new(), probe(4).await);
    match aliases.cast("name", Ask::Note(3)).await {
        Err(SendError::NotFound(message)) => assert!(matches!(message.into_inner(), Ask::Note(3))),
        other => panic!("{other:?}"),
    }
    assert!(matches!(aliases.call("name", Ask::Value).await, Err(CallError::NotFound)));
    aliases.register("name".into(), &a).unwrap();
    aliases.cast("name", Ask::Note(5)).await.unwrap();
    assert_eq!(within(aliases.call("name", Ask::Value), "the reply").await.unwrap(), 4);
    assert_eq!(within(aliases.call("name", Ask::Notes), "the notes").await.unwrap(), [5]);
    let hangs = aliases.call_timeout("name", Duration::from_secs(2), |reply| Ask::DoThenReply(Step::Hang, reply));
    assert!(matches!(within(hangs, "the timeout").await, Err(CallError::TimedOut)));
    within(a.kill(), "the kill").await.unwrap();
    assert!(matches!(aliases.cast("name", Ask::Note(3)).await, Err(SendError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn waiting_cast_follows_the_name() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
    let (aliases, next) = (Aliases::<u32, Probe>::new(), probe(2).await);
    for is_succeeded in [true, false] {
        let full = within(registry.start("a", Plan::default()), "the start").await.unwrap();
        aliases.register(1, &full).unwrap();
        aliases.cast(&1, Ask::Do(Step::Hang)).await.unwrap();
        until_idle().await;
        aliases.cast(&1, Ask::Note(1)).await.unwrap();
        let mut waits = pin!(aliases.cast(&1, Ask::Note(2)));
        assert!(poll_once(waits.as_mut()).await.is_pending());
        within(full.kill(), "the kill").await.unwrap();
        if is_succeeded {
            aliases.register(1, &next).unwrap();
            within(waits, "the cast").await.unwrap();
            assert_eq!(within(next.call(Ask::Notes), "the notes").await.unwrap(), [2]);
            assert!(aliases.unregister(&1).is_some());
        } else {
            assert!(matches!(within(waits, "the cast").await, Err(SendError::NotFound(_))));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_call_is_not_retried() {
    let (aliases, record) = (Aliases::<u32, Probe>::new(), Record::default());
    let plan = Plan::default().recorded(&record);
    let first = within(spawn::<Probe>("a".into(), plan.clone()), "the start").await.unwrap();
    aliases.register(1, &first).unwrap();
    let mut in_hand = pin!(aliases.call(&1, |reply| Ask::DoThenReply(Step::Hang, reply)));
    let mut queued = pin!(aliases.call(&1, Ask::Value));
    assert!(poll_once(in_hand.as_mut()).await.is_pending());
    assert!(poll_once(queued.as_mut()).await.is_pending());
    until_idle().await;
    within(first.kill(), "the kill").await.unwrap();
    let second = within(spawn::<Probe>("a".into(), plan), "the start").await.unwrap();
    aliases.register(1, &second).unwrap();
    assert!(matches!(within(in_hand, "the reply").await, Err(CallError::NoReply)));
    assert!(matches!(within(queued, "the reply").await, Err(CallError::NotDelivered)));
}

#[tokio::test(start_paused = true)]
async fn calling_own_name_would_deadlock() {
    let registry = Registry::<ClosureWorker>::builder().mailbox_capacity(1).build().unwrap();
    let aliases = Aliases::<u32, ClosureWorker>::new();
    let worker = within(registry.start("a", ClosureArgs::default()), "the start").await.unwrap();
    aliases.register(1, &worker).unwrap();
    let names = aliases.clone();
    let result = run_in(&worker, move |_| {
        Box::pin(async move {
            let nothing = || test_support::job(|_| Box::pin(async {}));
            let called = names.call(&1, |_reply: gen_registry::Reply<()>| nothing()).await;
            names.cast(&1, nothing()).await.unwrap();
            let cast = names.cast(&1, nothing()).await;
            (matches!(called, Err(CallError::WouldDeadlock)), matches!(cast, Err(SendError::WouldDeadlock(_))))
        })
    });
    assert_eq!(result.await.unwrap(), (true, true));
}

#[tokio::test(start_paused = true)]
async fn sends_by_name_yield_to_other_tasks() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(10_000).build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    let aliases = Aliases::<u32, Probe>::new();
    aliases.register(1, &worker).unwrap();
    let other = PollCounter::new();
    for kind in ["a cast", "a vacant cast", "a vacant call"] {
        let before = other.polls();
        for _ in 0..1_000 {
            let is_as_expected = match kind {
                "a cast" => within(aliases.cast(&1, Ask::Note(0)), kind).await.is_ok(),
                "a vacant cast" => within(aliases.cast(&2, Ask::Note(0)), kind).await.is_err(),
                _ => within(aliases.call(&2, Ask::Notes), kind).await.is_err(),
            };
            assert!(is_as_expected, "{kind}");
        }
        let had = other.polls() - before;
        assert!(had >= 5, "{kind}: another task was polled {had} times in 1,000 sends");
    }
}

#[tokio::test(start_paused = true)]
async fn lists_agree_with_whereis() {
    let (aliases, a, b) = (Aliases::<u32, Probe>::new(), probe(1).await, probe(2).await);
    for name in 0..10 {
        aliases.register(name, if name % 2 == 0 { &a } else { &b }).unwrap();
    }
    let mut list = aliases.to_list();
    list.sort_by_key(|&(name, _)| name);
    let expected = (0..10).map(|name| (name, if name % 2 == 0 { a.clone() } else { b.clone() }));
    assert_eq!(list, expected.collect::<Vec<_>>());
    assert_eq!(aliases.reduce(0, |sum, name, holder| if *holder == a { sum + name } else { sum }), 20);
    within(a.stop(), "the stop").await.unwrap();
    assert_eq!((aliases.len(), aliases.is_empty()), (5, false));
    assert_eq!(aliases.reduce(0, |sum, name, _| sum + name), 25);
}

#[tokio::test(start_paused = true)]
async fn dropping_directory_keeps_workers() {
    let (kept, a) = (Aliases::<u32, Probe>::new(), probe(4).await);
    kept.register(1, &a).unwrap();
    let name = Arc::new(());
    {
        let aliases = Aliases::<Arc<()>, Probe>::new();
        aliases.register(Arc::clone(&name), &a).unwrap();
    }
    assert_eq!(Arc::strong_count(&name), 1);
    assert_eq!(value_of(&a).await, 4);
    within(a.stop(), "the stop").await.unwrap();
    assert!(kept.is_empty());
}

/// Panics in its `Hash`, `Eq`, `Clone` and `Drop` when armed.
struct PanickingName {
    name: u32,
    armed: Arc<AtomicBool>,
}

impl PanickingName {
    fn step(&self) {
        assert!(!self.armed.load(Ordering::SeqCst), "a mine");
    }
}

impl PartialEq for PanickingName {
    fn eq(&self, other: &Self) -> bool {
        self.step();
        self.name == other.name
    }
}

impl Eq for PanickingName {}

impl Hash for PanickingName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // All names have the same hash, so every lookup calls `Eq`.
        state.write_u8(0);
    }
}

impl Drop for PanickingName {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.step();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_name_affects_no_other() {
    let (aliases, armed, a, b) =
        (Aliases::<PanickingName, Probe>::new(), Arc::default(), probe(1).await, probe(2).await);
    let safe = Arc::<AtomicBool>::default();
    let mine = |name| PanickingName { name, armed: Arc::clone(&armed) };
    let harmless = |name| PanickingName { name, armed: Arc::clone(&safe) };
    aliases.register(mine(1), &a).unwrap();
    aliases.register(mine(2), &b).unwrap();
    let waits = tokio::spawn({
        let (aliases, name) = (aliases.clone(), harmless(3));
        async move { aliases.await_registration(&name, Duration::MAX).await }
    });
    until_idle().await;
    armed.store(true, Ordering::SeqCst);
    let panics = |what: &str, code: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(code)).is_err(), "{what} did not call `Eq`");
    };
    panics("register", &|| drop(aliases.register(mine(3), &a)));
    panics("unregister", &|| drop(aliases.unregister(&mine(1))));
    panics("whereis", &|| drop(aliases.whereis(&mine(1))));
    armed.store(false, Ordering::SeqCst);
    assert_eq!((aliases.len(), aliases.whereis(&mine(1))), (2, Some(a.clone())));
    aliases.register(mine(3), &a).unwrap();
    assert_eq!(within(waits, "the wait").await.unwrap().as_ref(), Ok(&a));
    // A worker's exit calls no `Eq` and contains the panic of a `Drop`.
    armed.store(true, Ordering::SeqCst);
    within(a.stop(), "the stop").await.unwrap();
    within(b.kill(), "the kill").await.unwrap();
    assert!(aliases.is_empty());
    let c = probe(3).await;
    aliases.register(harmless(1), &c).unwrap();
    assert_eq!(aliases.whereis(&harmless(1)), Some(c));
    // Everything that waits to be freed is dropped now.
    drop(aliases);
}

#[test]
fn name_drop_may_use_the_directory() {
    struct LooksUpOnDrop(u32, Arc<OnceLock<Weak<dyn Fn() + Send + Sync>>>);
    impl PartialEq for LooksUpOnDrop {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }
    impl Eq for LooksUpOnDrop {}
    impl Hash for LooksUpOnDrop {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
    impl Equivalent<LooksUpOnDrop> for u32 {
        fn equivalent(&self, name: &LooksUpOnDrop) -> bool {
            *self == name.0
        }
    }
    impl Drop for LooksUpOnDrop {
        fn drop(&mut self) {
            if let Some(use_it) = self.1.get().and_then(Weak::upgrade) {
                use_it();
            }
        }
    }
    let (done, is_done) = std::sync::mpsc::channel();
    // On another thread, because the fault would be an endless loop.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (aliases, used) = (Aliases::<LooksUpOnDrop, Probe>::new(), Arc::<AtomicUsize>::default());
            let (names, counter) = (aliases.clone(), Arc::clone(&used));
            let use_it: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
                names.unregister(&1_000_000);
                counter.fetch_add(1, Ordering::SeqCst);
            });
            let uses = Arc::new(OnceLock::from(Arc::downgrade(&use_it)));
            for round in 0..50 {
                let worker = probe(round).await;
                for name in 0..20 {
                    aliases.register(LooksUpOnDrop(name, Arc::clone(&uses)), &worker).unwrap();
                    if name % 2 == 0 {
                        assert!(aliases.unregister(&name).is_some());
                    }
                    assert!(aliases.register(LooksUpOnDrop(1, Arc::clone(&uses)), &worker).is_ok());
                }
                within(worker.stop(), "the stop").await.unwrap();
            }
            assert!(used.load(Ordering::SeqCst) > 500, "few names were dropped: the test shows nothing");
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(120)).expect("a name was dropped under the lock");
}
