//! G11 under load: never more workers than `max_workers`, counted by the workers themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gen_registry::{Context, Eviction, ExitReason, Registry, Restart, StartError, Worker};
use test_support::{Alive, Idle, Population, poll_once, within};

/// Counts itself from the first line of `init` to the drop of the state.
struct Counted {
    population: Population,
    _alive: Alive,
}

impl Worker for Counted {
    type Key = u32;
    type Args = Population;
    type Message = bool;
    type Error = std::fmt::Error;

    async fn init(population: Population, ctx: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        let _alive = population.enter();
        tokio::task::yield_now().await;
        if ctx.key() % 7 == 0 { Err(std::fmt::Error) } else { Ok(Self { population, _alive }) }
    }

    async fn handle(&mut self, fails: bool, _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        if fails { Err(std::fmt::Error) } else { Ok(()) }
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(registry) = ctx.registry().upgrade() {
            // Must not wait for capacity, whether there is any or not.
            drop(registry.lookup_or_start(&(ctx.key() + 1), self.population.clone()).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_limit_holds_under_load() {
    for eviction in [Eviction::Reject, Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        const LIMIT: usize = 4;
        let registry = Registry::<Counted>::builder()
            .max_workers(LIMIT)
            .eviction(eviction)
            .restart(Restart::Transient)
            .restart_intensity(2, Duration::from_millis(10))
            .build()
            .unwrap();
        let population = Population::default();
        let storm: Vec<_> = (0..12_u32)
            .map(|caller| {
                let (registry, population) = (registry.clone(), population.clone());
                tokio::spawn(async move {
                    for round in 0..80_u32 {
                        let key = (caller * 11 + round * 5) % 30;
                        match (caller + round) % 6 {
                            0 => drop(registry.stop(&key).await),
                            1 => drop(registry.kill(&key).await),
                            2 => drop(registry.lookup(&key).map(|worker| worker.try_cast(round % 2 == 0))),
                            3 => {
                                let start = registry.start(&key, population.clone());
                                // Drop the start after a few polls.
                                let mut start = Box::pin(start);
                                for _ in 0..round % 3 {
                                    if poll_once(start.as_mut()).await.is_ready() {
                                        break;
                                    }
                                    tokio::task::yield_now().await;
                                }
                            }
                            _ => drop(registry.lookup_or_start(&key, population.clone()).await),
                        }
                        let stats = registry.stats();
                        assert!(registry.count() <= LIMIT, "{stats:?}");
                    }
                })
            })
            .collect();
        for caller in storm {
            within(caller, "a caller in the storm").await.unwrap();
        }
        // Without an eviction, the test would show little.
        let evicts = async {
            let mut key = 100;
            while eviction != Eviction::Reject && registry.stats().exits.evicted == 0 {
                drop(registry.lookup_or_start(&key, population.clone()).await);
                key += 1;
                tokio::task::yield_now().await;
            }
        };
        within(evicts, "an eviction").await;
        let report = within(registry.shutdown(), "the shutdown").await;
        assert_eq!((report.aborted, report.stuck), (0, 0), "{eviction:?}: {report:?}");
        let most = population.most();
        assert!((2..=LIMIT).contains(&most), "{eviction:?}: {most} lived at once");
        assert_eq!(population.now(), 0);
        let stats = registry.stats();
        assert_eq!((stats.waiting_for_room, stats.starts.ok), (0, stats.exits.total()), "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eviction_tolerates_concurrent_activity() {
    const LIMIT: u32 = 64;
    for eviction in [Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        let registry = Registry::<Idle<u32>>::builder().max_workers(LIMIT as usize).eviction(eviction).build().unwrap();
        for key in 0..LIMIT {
            within(registry.start(&key, ()), "a start within the limit").await.unwrap();
        }
        let over = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..3_usize)
            .map(|sender| {
                let (registry, over) = (registry.clone(), Arc::clone(&over));
                std::thread::spawn(move || {
                    while over.load(Ordering::Relaxed) == 0 {
                        for worker in registry.to_list().into_iter().skip(sender).step_by(4) {
                            // The mailbox may be full, or the worker may have been evicted.
                            let _ = worker.try_cast(());
                        }
                    }
                })
            })
            .collect();
        let mut started = 0;
        for key in LIMIT..LIMIT + 6_000 {
            match within(registry.start(&key, ()), "a start that evicts").await {
                Ok(_) => started += 1,
                Err(StartError::AtCapacity) => {}
                Err(error) => panic!("{eviction:?}, after {started} starts: {error}"),
            }
        }
        over.store(1, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(started > 0, "{eviction:?}: nothing was ever evicted");
        assert!(registry.count() <= LIMIT as usize);
    }
}
