//! G11 under load over three registries: never more workers than the limit, counted by the workers themselves, and no
//! place is lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Context, Eviction, ExitReason, Registry, Restart, SharedLimits, StartError, Worker};
use test_support::{Alive, Population, poll_once, until, within};

const LIMIT: usize = 4;

/// What all workers share. The registries are replaced while workers start.
struct World {
    limits: SharedLimits,
    registries: Mutex<[Registry<Counted>; 3]>,
    population: Population,
}

impl World {
    fn registry(&self, place: u32) -> Registry<Counted> {
        self.registries.lock().unwrap()[place as usize % 3].clone()
    }
}

fn registry(limits: &SharedLimits) -> Registry<Counted> {
    Registry::builder()
        .shared_limits(limits)
        .restart(Restart::Transient)
        .restart_intensity(2, Duration::from_millis(10))
        .build()
        .expect("the limits can work")
}

/// Counts itself from the first line of `init` to the drop of the state.
struct Counted {
    world: Arc<World>,
    _alive: Alive,
}

impl Worker for Counted {
    type Key = u32;
    type Args = Arc<World>;
    type Message = bool;
    type Error = std::fmt::Error;

    async fn init(world: Arc<World>, ctx: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        let _alive = world.population.enter();
        tokio::task::yield_now().await;
        if ctx.key() % 7 == 0 { Err(std::fmt::Error) } else { Ok(Self { world, _alive }) }
    }

    async fn handle(&mut self, fails: bool, _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        if fails { Err(std::fmt::Error) } else { Ok(()) }
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        // In any of the registries. Must not wait for room, whether there is any or not.
        let registry = self.world.registry(*ctx.key());
        drop(registry.lookup_or_start(&(ctx.key() + 1), Arc::clone(&self.world)).await);
    }
}

async fn calls(world: Arc<World>, caller: u32) {
    for round in 0..60_u32 {
        let key = (caller * 11 + round * 5) % 30;
        let registry = world.registry(round + caller);
        match (caller + round) % 7 {
            0 => drop(registry.stop(&key).await),
            1 => drop(registry.kill(&key).await),
            2 => drop(registry.lookup(&key).map(|worker| worker.try_cast(round % 2 == 0))),
            3 => {
                // Drop the start after a few polls.
                let mut start = Box::pin(registry.start(&key, Arc::clone(&world)));
                for _ in 0..round % 3 {
                    if poll_once(start.as_mut()).await.is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            4 if round % 4 == 0 => {
                let fresh = self::registry(&world.limits);
                let old = std::mem::replace(&mut world.registries.lock().unwrap()[caller as usize % 3], fresh);
                match round % 3 {
                    0 => drop(old.shutdown().await),
                    1 => drop(old.abort().await),
                    _ => drop(old),
                }
            }
            _ => drop(registry.lookup_or_start(&key, Arc::clone(&world)).await),
        }
    }
}

/// Waits until nothing of a registry runs.
async fn ended(registry: Registry<Counted>) {
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.aborted, report.stuck), (0, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_shared_limit_holds_under_a_storm() {
    for eviction in [Eviction::Reject, Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        let limits = SharedLimits::new().max_workers(LIMIT).eviction(eviction).max_concurrent_starts(2);
        let registries = Mutex::new(std::array::from_fn(|_| registry(&limits)));
        let world = Arc::new(World { limits: limits.clone(), registries, population: Population::default() });
        let storm: Vec<_> = (0..12_u32).map(|caller| tokio::spawn(calls(Arc::clone(&world), caller))).collect();
        for caller in storm {
            within(caller, "a caller in the storm").await.unwrap();
        }
        let last = std::array::from_fn(|_| registry(&limits));
        let old = std::mem::replace(&mut *world.registries.lock().unwrap(), last);
        // A worker that ends may still start another one.
        let last = world.registries.lock().unwrap().clone();
        for registry in old.into_iter().chain(last) {
            ended(registry).await;
        }
        until("the end of the workers of dropped registries", || world.population.now() == 0).await;
        let most = world.population.most();
        assert!((2..=LIMIT).contains(&most), "{eviction:?}: {most} lived at once");
        all_places_are_free(&limits, &world, eviction).await;
    }
}

/// Starts workers until each place has one.
async fn all_places_are_free(limits: &SharedLimits, world: &Arc<World>, eviction: Eviction) {
    let [one, two] = std::array::from_fn(|_| registry(limits));
    let mut key = 100;
    let starts = async {
        // The last workers of registries that were dropped return their places a moment after their state is dropped.
        // Until then, a start is refused or evicts one of these workers.
        while one.count() + two.count() < LIMIT {
            key += 7;
            let registry = if key % 2 == 0 { &one } else { &two };
            drop(registry.start(&key, Arc::clone(world)).await);
            tokio::task::yield_now().await;
        }
    };
    within(starts, &format!("{eviction:?}: a place")).await;
    let beyond = within(two.start(&1, Arc::clone(world)), "a start beyond the limit").await;
    assert_eq!(beyond.is_err(), eviction == Eviction::Reject, "{beyond:?}");
    let stats = [one.stats(), two.stats()];
    assert!(stats.iter().map(|stats| stats.workers()).sum::<usize>() <= LIMIT, "{stats:?}");
    assert!(stats.iter().all(|stats| stats.waiting_for_room == 0), "{stats:?}");
}

/// Each start evicts the worker of another, which may have exited before the start waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_for_one_place_all_get_it() {
    let limits = super::evicting(1);
    let registries: [Registry<test_support::Probe>; 3] = super::sharing(&limits);
    for round in 0..500 {
        let starts: Vec<_> = (0..3_usize)
            .map(|caller| {
                let registry = registries[(caller + round) % 3].clone();
                tokio::spawn(async move {
                    let key = (10 * round + caller).to_string();
                    while let Err(error) = registry.lookup_or_start(&key, test_support::Plan::default()).await {
                        // The worker that has the place is not idle yet.
                        assert!(matches!(error, StartError::AtCapacity), "{error:?}");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for start in starts {
            within(start, "the place").await.unwrap();
        }
    }
}
