//! What directories keep in memory and release. Their behaviour is tested in `tests/`.

use std::mem::size_of;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Wake, Waker};
use std::time::{Duration, Instant};

use equivalent::Equivalent;

use crate::directory::waiters::NameWaiters;
use crate::directory::{Aliases, Groups, NotRegistered};
use crate::worker::test_worker::TestWorker;
use crate::{Registry, WorkerHandle};

async fn started(registry: &Registry<TestWorker>, key: u32) -> WorkerHandle<TestWorker> {
    registry.start(&key, ()).await.expect("nothing is in the way of this start")
}

/// A name that counts its live instances. All these names have one hash.
#[derive(Debug)]
struct Counted(u32, Arc<AtomicUsize>);

impl Counted {
    fn new(name: u32, there: &Arc<AtomicUsize>) -> Self {
        there.fetch_add(1, Ordering::SeqCst);
        Self(name, Arc::clone(there))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Counted {}

impl std::hash::Hash for Counted {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u8(0);
    }
}

#[tokio::test(start_paused = true)]
async fn exited_worker_is_removed_without_a_read() {
    let (registry, names, groups) = (Registry::new(), Aliases::new(), Groups::new());
    let stays = started(&registry, 0).await;
    names.register(1_000, &stays).unwrap();
    groups.join(7, &stays).unwrap();
    for key in 1..=100 {
        let worker = started(&registry, key).await;
        for n in 0..5 {
            names.register(key * 10 + n, &worker).unwrap_or_else(|_| assert_eq!(key * 10 + n, 1_000));
            groups.join(n * key, &worker).unwrap();
        }
        groups.join(7, &worker).unwrap();
        worker.stop().await.unwrap();
    }
    assert_eq!(names.sizes(), (1, 1, 0));
    assert_eq!(groups.sizes(), (1, 1));
    stays.kill().await.unwrap();
    assert_eq!((names.sizes(), groups.sizes()), ((0, 0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn repeated_joins_keep_one_entry_per_directory() {
    let (registry, names, groups) = (Registry::new(), Aliases::new(), Groups::new());
    let worker = started(&registry, 1).await;
    for n in 0..1_000 {
        names.register(n, &worker).unwrap();
        names.register(n + 1_000_000, &worker).unwrap();
        assert!(names.unregister(&n).is_some());
        if n % 3 == 0 {
            assert!(names.unregister(&(n + 1_000_000)).is_some());
        }
        groups.join(n % 2, &worker).unwrap();
        assert!(groups.leave(&(n % 2), &worker));
    }
    assert_eq!(worker.cell.memberships(), 2);
    assert_eq!(groups.sizes(), (0, 0));
    assert_eq!(names.sizes(), (666, 666, 0));
    for _ in 0..1_000 {
        Aliases::new().register(1, &worker).unwrap();
    }
    assert_eq!(worker.cell.memberships(), 3, "the last short-lived directory, and the two that live");
    worker.stop().await.unwrap();
    assert_eq!((names.sizes(), groups.sizes()), ((0, 0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn closing_worker_is_not_registered() {
    let registry = Registry::new();
    let (worker, names) = (started(&registry, 1).await, Aliases::<u32, TestWorker>::new());
    worker.cell.close_by_worker();
    assert!(names.register(1, &worker).is_err());
    assert_eq!((worker.cell.memberships(), names.sizes()), (0, (0, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn name_taken_by_successor_survives_old_exit() {
    let registry = Registry::new();
    let (old, new, names) =
        (started(&registry, 1).await, started(&registry, 2).await, Aliases::<u32, TestWorker>::new());
    names.register(1, &old).unwrap();
    names.register(2, &old).unwrap();
    old.cell.close_by_worker();
    names.register(1, &new).unwrap();
    assert_eq!(names.unregister(&2), None);
    assert_eq!(names.sizes(), (1, 1, 0));
    old.closed().await;
    assert_eq!(names.names_of(&new), [1]);
}

#[tokio::test(start_paused = true)]
async fn unlisted_worker_costs_two_words() {
    let extras = size_of::<Mutex<Option<Box<u8>>>>();
    assert!(extras <= 16, "{extras}");
    let registry = Registry::new();
    assert_eq!(started(&registry, 1).await.cell.memberships(), 0);
}

#[tokio::test(start_paused = true)]
async fn finished_waits_leave_nothing_behind() {
    let (registry, names) = (Registry::new(), Aliases::<u32, TestWorker>::new());
    let worker = started(&registry, 1).await;
    let second = Duration::from_secs(1);
    for name in 0..100 {
        assert_eq!(names.await_registration(&name, second).await, Err(NotRegistered));
        assert!(tokio::time::timeout(second, names.await_registration(&name, Duration::MAX)).await.is_err());
        let waits = tokio::spawn({
            let names = names.clone();
            async move { names.await_registration(&name, Duration::MAX).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(names.sizes().2, 1);
        names.register(name, &worker).unwrap();
        assert_eq!(waits.await.unwrap().as_ref(), Ok(&worker));
        // This wait returns at once.
        assert!(names.await_registration(&name, second).await.is_ok());
    }
    assert_eq!(names.sizes(), (100, 100, 0));
}

#[tokio::test(start_paused = true)]
async fn colliding_names_stay_distinct() {
    let (registry, names, there) = (Registry::new(), Aliases::new(), Arc::default());
    let (a, b) = (started(&registry, 1).await, started(&registry, 2).await);
    let waits = tokio::spawn({
        let (names, name) = (names.clone(), Counted::new(2, &there));
        async move { names.await_registration(&name, Duration::MAX).await }
    });
    tokio::task::yield_now().await;
    names.register(Counted::new(1, &there), &a).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(names.sizes(), (1, 1, 1), "the waiter keeps waiting, woken or not");
    names.register(Counted::new(2, &there), &b).unwrap();
    assert_eq!(waits.await.unwrap().as_ref(), Ok(&b));
    assert_eq!(names.whereis(&Counted::new(1, &there)), Some(a));
    assert_eq!(names.unregister(&Counted::new(2, &there)), Some(b));
    assert_eq!(names.whereis(&Counted::new(2, &there)), None);
}

#[tokio::test(start_paused = true)]
async fn removed_names_are_dropped_and_memory_shrinks() {
    let (registry, names, groups) = (Registry::new(), Aliases::new(), Groups::new());
    let there = Arc::<AtomicUsize>::default();
    for round in 0..3 {
        let worker = started(&registry, round).await;
        for name in 0..100 {
            names.register(Counted::new(name, &there), &worker).unwrap();
            groups.join(Counted::new(name, &there), &worker).unwrap();
        }
        assert_eq!(there.load(Ordering::SeqCst), 200);
        worker.stop().await.unwrap();
        assert_eq!(there.load(Ordering::SeqCst), 0);
    }
    let (worker, names) = (started(&registry, 1_000).await, Aliases::new());
    for name in 0..100_000 {
        names.register(name, &worker).unwrap();
    }
    assert!(names.capacity() >= 100_000);
    worker.stop().await.unwrap();
    assert!(names.capacity() < 2_000, "{}", names.capacity());
}

#[test]
fn panicking_waker_does_not_block_others() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("a waker of another executor");
        }
    }
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (waiters, count) = (NameWaiters::default(), Arc::new(Count(AtomicUsize::new(0))));
    let subscribed: Vec<_> = (0..10).map(|_| waiters.subscribe(7)).collect();
    for (n, waiter) in subscribed.iter().enumerate() {
        let waker = if n % 2 == 0 { Waker::from(Arc::new(Bomb)) } else { Waker::from(Arc::clone(&count)) };
        waiter.register(&waker);
    }
    waiters.wake(8);
    assert_eq!((count.0.load(Ordering::SeqCst), waiters.len()), (0, 10));
    waiters.wake(7);
    assert_eq!((count.0.load(Ordering::SeqCst), waiters.len()), (5, 0));
}

/// Registers in another thread while a waiter polls. In every order the waiter finds the worker or is woken.
#[test]
fn waiter_never_misses_a_registration() {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    const ROUNDS: usize = 5_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let worker =
        runtime.block_on(async { crate::registry::spawn::spawn::<TestWorker>(1, ()).await.expect("it starts") });
    let names = Aliases::<usize, TestWorker>::new();
    let begun = Arc::<AtomicUsize>::default();
    let registers = std::thread::spawn({
        let (names, begun) = (names.clone(), Arc::clone(&begun));
        move || {
            for round in 1..=ROUNDS {
                while begun.load(Ordering::SeqCst) < round {
                    std::thread::yield_now();
                }
                // Delays of both threads vary, so that either may be first.
                for _ in 0..round % 97 {
                    std::hint::spin_loop();
                }
                names.register(round, &worker).expect("the name is free");
            }
        }
    });
    let _inside = runtime.enter();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = TaskContext::from_waker(&waker);
    for round in 1..=ROUNDS {
        let mut waits = pin!(names.await_registration(&round, Duration::MAX));
        begun.store(round, Ordering::SeqCst);
        for _ in 0..round % 89 {
            std::hint::spin_loop();
        }
        while waits.as_mut().poll(&mut cx).is_pending() {
            // If the wake-up came before, the park returns at once.
            let began = Instant::now();
            std::thread::park_timeout(Duration::from_secs(60));
            assert!(began.elapsed() < Duration::from_secs(50), "a registration was missed, in round {round}");
        }
    }
    registers.join().expect("it registers");
}

/// Race 7 in a fixed order: the registration happens during the lookup.
#[tokio::test(start_paused = true)]
async fn registration_during_lookup_wakes_waiter() {
    struct Meddling<'a>(u32, &'a dyn Fn());
    impl std::hash::Hash for Meddling<'_> {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
    impl Equivalent<u32> for Meddling<'_> {
        fn equivalent(&self, name: &u32) -> bool {
            (self.1)();
            self.0 == *name
        }
    }
    struct IsWoken(AtomicUsize);
    impl Wake for IsWoken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let registry = Registry::new();
    let (old, new, names) =
        (started(&registry, 1).await, started(&registry, 2).await, Aliases::<u32, TestWorker>::new());
    names.register(7, &old).unwrap();
    old.cell.close_by_worker();
    // The new holder registers when the lookup has already found the old one, which is stopping.
    let register = || names.register(7, &new).unwrap();
    let name = Meddling(7, &register);
    let is_woken = Arc::new(IsWoken(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&is_woken));
    let mut cx = TaskContext::from_waker(&waker);
    let mut waits = pin!(names.await_registration(&name, Duration::MAX));
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    assert_eq!(is_woken.0.load(Ordering::SeqCst), 1, "the wake-up was lost");
    assert!(waits.as_mut().poll(&mut cx).is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_register_and_exit_leak_nothing() {
    let (names, groups) = (Aliases::<u32, TestWorker>::new(), Groups::<u32, TestWorker>::new());
    let registry = Registry::new();
    let churns: Vec<_> = (0..4_u32)
        .map(|task| {
            let (registry, names, groups) = (registry.clone(), names.clone(), groups.clone());
            tokio::spawn(async move {
                for n in 0..500_u32 {
                    // Two tasks share each worker: one kills it while the other registers it.
                    let Ok(worker) = registry.lookup_or_start(&(task / 2), ()).await else { continue };
                    for name in 0..8 {
                        // Fails if the name is taken or the worker is stopping.
                        drop(names.register((n * 7 + name) % 16, &worker));
                        drop(groups.join(name % 3, &worker));
                    }
                    drop(names.unregister(&(n % 16)));
                    groups.leave(&(n % 3), &worker);
                    if n % 2 == task % 2 {
                        drop(worker.kill().await);
                    }
                }
            })
        })
        .collect();
    for churn in churns {
        churn.await.expect("no task panics");
    }
    assert_eq!(registry.shutdown().await.stuck, 0);
    assert_eq!((names.sizes(), groups.sizes()), ((0, 0, 0), (0, 0)));
}

/// Races 4 and 5 in a fixed order: another holder registers while the name is compared.
#[tokio::test(start_paused = true)]
async fn change_starts_over_if_the_name_changed_hands() {
    struct Meddling<'a>(&'a dyn Fn());
    impl std::hash::Hash for Meddling<'_> {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            7_u32.hash(state);
        }
    }
    impl Equivalent<u32> for Meddling<'_> {
        fn equivalent(&self, name: &u32) -> bool {
            (self.0)();
            *name == 7
        }
    }
    let (registry, names) = (Registry::new(), Aliases::<u32, TestWorker>::new());
    let (old, new) = (started(&registry, 1).await, started(&registry, 2).await);
    names.register(7, &old).unwrap();
    let meddle = || {
        if names.unregister(&7).is_some_and(|holder| holder == old) {
            names.register(7, &new).unwrap();
        }
    };
    let is_first = std::cell::Cell::new(true);
    let once = || {
        if is_first.replace(false) {
            meddle();
        }
    };
    assert_eq!(names.unregister(&Meddling(&once)), Some(new.clone()));
    assert_eq!(names.sizes(), (0, 0, 0));
}
