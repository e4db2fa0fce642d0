//! G11 under a storm: never more workers than `max_workers`, counted from inside of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gen_registry::{Context, Eviction, ExitReason, Registry, Restart, StartError, Worker};
use test_support::{poll_once, within};

/// Lives that are counted from the first line of `init` to the drop of the state.
#[derive(Default)]
struct Population {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Birth(Arc<Population>);

impl Drop for Birth {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Citizen {
    _birth: Birth,
}

impl Worker for Citizen {
    type Key = u32;
    type Args = Arc<Population>;
    type Message = bool;
    type Error = std::fmt::Error;

    async fn init(population: Arc<Population>, ctx: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        let now = population.now.fetch_add(1, Ordering::SeqCst) + 1;
        population.most.fetch_max(now, Ordering::SeqCst);
        let _birth = Birth(population);
        tokio::task::yield_now().await;
        if ctx.key() % 7 == 0 { Err(std::fmt::Error) } else { Ok(Self { _birth }) }
    }

    async fn handle(&mut self, fails: bool, _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        if fails { Err(std::fmt::Error) } else { Ok(()) }
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(registry) = ctx.registry().upgrade() {
            // Whether it has room or not: it must not wait for it.
            drop(registry.lookup_or_start(&(ctx.key() + 1), Arc::clone(&self._birth.0)).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_limit_holds_under_load() {
    for eviction in [Eviction::Reject, Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        const MOST: usize = 4;
        let registry = Registry::<Citizen>::builder()
            .max_workers(MOST)
            .eviction(eviction)
            .restart(Restart::Transient)
            .restart_intensity(2, Duration::from_millis(10))
            .build()
            .unwrap();
        let population = Arc::<Population>::default();
        let storm: Vec<_> = (0..12_u32)
            .map(|caller| {
                let (registry, population) = (registry.clone(), Arc::clone(&population));
                tokio::spawn(async move {
                    for round in 0..80_u32 {
                        let key = (caller * 11 + round * 5) % 30;
                        match (caller + round) % 6 {
                            0 => drop(registry.stop(&key).await),
                            1 => drop(registry.kill(&key).await),
                            2 => drop(registry.lookup(&key).map(|worker| worker.try_cast(round % 2 == 0))),
                            3 => {
                                let start = registry.start(&key, Arc::clone(&population));
                                // Gone at once, or after a moment.
                                let mut start = Box::pin(start);
                                for _ in 0..round % 3 {
                                    if poll_once(start.as_mut()).await.is_ready() {
                                        break;
                                    }
                                    tokio::task::yield_now().await;
                                }
                            }
                            _ => drop(registry.lookup_or_start(&key, Arc::clone(&population)).await),
                        }
                        let stats = registry.stats();
                        assert!(registry.count() <= MOST, "{stats:?}");
                    }
                })
            })
            .collect();
        for caller in storm {
            within(caller, "a caller in the storm").await.unwrap();
        }
        // One at least has to have gone for another, or this says little.
        let evicts = async {
            let mut key = 100;
            while eviction != Eviction::Reject && registry.stats().exits.evicted == 0 {
                drop(registry.lookup_or_start(&key, Arc::clone(&population)).await);
                key += 1;
                tokio::task::yield_now().await;
            }
        };
        within(evicts, "an eviction").await;
        let report = within(registry.shutdown(), "the shutdown").await;
        assert_eq!((report.aborted, report.stuck), (0, 0), "{eviction:?}: {report:?}");
        let most = population.most.load(Ordering::SeqCst);
        assert!((2..=MOST).contains(&most), "{eviction:?}: {most} lived at once");
        assert_eq!(population.now.load(Ordering::SeqCst), 0);
        let stats = registry.stats();
        assert_eq!((stats.waiting_for_room, stats.starts.ok), (0, stats.exits.total()), "{stats:?}");
    }
}

/// Has nothing to do, again and again.
struct Restless;

impl Worker for Restless {
    type Key = u32;
    type Args = ();
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eviction_tolerates_concurrent_activity() {
    const MOST: u32 = 64;
    for eviction in [Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        let registry = Registry::<Restless>::builder().max_workers(MOST as usize).eviction(eviction).build().unwrap();
        for key in 0..MOST {
            within(registry.start(&key, ()), "a start with room for it").await.unwrap();
        }
        let over = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..3_usize)
            .map(|sender| {
                let (registry, over) = (registry.clone(), Arc::clone(&over));
                std::thread::spawn(move || {
                    while over.load(Ordering::Relaxed) == 0 {
                        for worker in registry.to_list().into_iter().skip(sender).step_by(4) {
                            // Its mailbox may be full, or it may be the one that has gone.
                            let _ = worker.try_cast(());
                        }
                    }
                })
            })
            .collect();
        let mut started = 0;
        for key in MOST..MOST + 6_000 {
            match within(registry.start(&key, ()), "a start that needs a victim").await {
                Ok(_) => started += 1,
                Err(StartError::AtCapacity) => {}
                Err(error) => panic!("{eviction:?}, after {started} starts: {error}"),
            }
        }
        over.store(1, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(started > 0, "{eviction:?}: nobody ever made room");
        assert!(registry.count() <= MOST as usize);
    }
}
