//! The cost of starting a worker, using it once and stopping it, and how long a key has no worker after a kill.

mod common;

use std::hint::black_box;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use common::baselines::{self, Dash, DashOnce, Joined, Locked, Moka, Papaya};
use common::peers::{Kameo, KameoRef, Ractor};
use common::{Benches, Counter, Counts, Fixture, Group, Key, Load, Threads, Variant, time};
use gen_registry::Registry;
use kameo::registry::ACTOR_REGISTRY;
use tokio::task::yield_now;

/// The number of workers beside those that start and stop.
const WORKERS: usize = 1_000;
/// The number of keys that each caller uses for those, one after the other.
const KEYS: usize = 256;

fn main() {
    let mut benches = common::benches();
    start_call_stop(&mut benches);
    kill(&mut benches);
    benches.final_summary();
}

/// A variant whose workers can be stopped one by one.
#[allow(clippy::ptr_arg)] // `Variant` has it so: a `K` that is a `String`.
trait Stops: Variant<String> {
    /// Lets the worker handle its mailbox, and waits until it has exited and its key is vacant.
    fn stop(&self, key: &String) -> impl Future<Output = ()> + Send;
}

/// A variant that can interrupt a worker.
#[allow(clippy::ptr_arg)] // As above.
trait Kills: Stops {
    /// Ends the worker at its next await, and waits until it has exited and its key is vacant.
    fn kill(&self, key: &String) -> impl Future<Output = ()> + Send;
}

impl Stops for Registry<Counter<String>> {
    async fn stop(&self, key: &String) {
        Registry::stop(self, key).await.expect("the worker is running");
    }
}

impl Kills for Registry<Counter<String>> {
    async fn kill(&self, key: &String) {
        Registry::kill(self, key).await.expect("the worker is running");
    }
}

impl Stops for Dash<String> {
    async fn stop(&self, key: &String) {
        let (_, sender) = self.0.remove(key).expect("the worker is running");
        baselines::stop(&sender).await;
    }
}

impl Stops for DashOnce<String> {
    async fn stop(&self, key: &String) {
        let (_, cell) = self.0.remove(key).expect("the worker is running");
        baselines::stop(cell.get().expect("the worker has started")).await;
    }
}

impl Stops for Papaya<String> {
    async fn stop(&self, key: &String) {
        let sender = self.0.pin().remove(key).cloned().expect("the worker is running");
        baselines::stop(&sender).await;
    }
}

impl Stops for Locked<String> {
    async fn stop(&self, key: &String) {
        let sender = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key).expect("the worker is running");
        baselines::stop(&sender).await;
    }
}

impl Stops for Moka<String> {
    async fn stop(&self, key: &String) {
        let sender = self.0.remove(key).await.expect("the worker is running");
        baselines::stop(&sender).await;
    }
}

impl Stops for Joined {
    async fn stop(&self, key: &String) {
        let (_, (sender, task)) = self.0.remove(key).expect("the worker is running");
        drop(sender);
        task.expect("the task is present").await.expect("a worker must not panic");
    }
}

impl Kills for Joined {
    async fn kill(&self, key: &String) {
        let (_, (_sender, task)) = self.0.remove(key).expect("the worker is running");
        let task = task.expect("the task is present");
        task.abort();
        task.await.expect_err("the task was aborted");
    }
}

/// Waits until kameo has released a name, which it does after it has reported the actor's end.
async fn vacant(name: &str) {
    while ACTOR_REGISTRY.lock().unwrap_or_else(PoisonError::into_inner).contains_name(name) {
        yield_now().await;
    }
}

impl Stops for Kameo {
    async fn stop(&self, key: &String) {
        let actor: KameoRef = self.lookup(key).expect("the worker is running");
        actor.stop_gracefully().await.expect("the worker is running");
        actor.wait_for_shutdown().await;
        vacant(key).await;
    }
}

impl Kills for Kameo {
    async fn kill(&self, key: &String) {
        let actor: KameoRef = self.lookup(key).expect("the worker is running");
        actor.kill();
        actor.wait_for_shutdown().await;
        vacant(key).await;
    }
}

impl Stops for Ractor {
    async fn stop(&self, key: &String) {
        let actor = self.lookup(key).expect("the worker is running");
        actor.stop_and_wait(None, None).await.expect("the worker is running");
    }
}

impl Kills for Ractor {
    async fn kill(&self, key: &String) {
        let actor = self.lookup(key).expect("the worker is running");
        actor.kill_and_wait(None).await.expect("the worker is running");
    }
}

/// The vacant keys of a caller.
fn keys_of(caller: usize) -> Arc<[String]> {
    (0..KEYS).map(|n| String::nth(WORKERS + caller * KEYS + n)).collect()
}

fn start_call_stop(benches: &mut Benches) {
    fn bench<W: Stops>(group: &mut Group<'_>, load: Load) {
        let mut fixture = None;
        group.operations(load.callers);
        group.bench_function(W::NAME, move |bencher| {
            let fixture = fixture.get_or_insert_with(|| Fixture::<String, W>::on(load.threads, load.workers));
            bencher.iter_custom(|iterations| {
                time(&fixture.runtime, load.callers, |caller| {
                    let variant = fixture.variant();
                    let keys = keys_of(caller);
                    async move {
                        for n in 0..iterations as usize {
                            let key = &keys[n % KEYS];
                            let worker = variant.start(key).await;
                            black_box(worker.call().await);
                            drop(worker);
                            variant.stop(key).await;
                        }
                    }
                })
            });
        });
    }

    let load = Load::of(WORKERS);
    for load in [load, load.callers(2), load.callers(8), load.threads(Threads::Current)] {
        let runtime = if load.threads == Threads::Two { "" } else { ", current-thread" };
        let name = format!("churn/start, call, stop, callers: {}{runtime}", load.callers);
        let mut group = benches.benchmark_group(name);
        let group = &mut group;
        bench::<Registry<Counter<String>>>(group, load);
        bench::<Dash<String>>(group, load);
        bench::<Joined>(group, load);
        bench::<DashOnce<String>>(group, load);
        bench::<Papaya<String>>(group, load);
        bench::<Locked<String>>(group, load);
        bench::<Moka<String>>(group, load);
        bench::<Kameo>(group, load);
        bench::<Ractor>(group, load);
    }
}

/// The median of the spans, times their number: this makes criterion's figure a p50.
fn as_p50(mut spans: Vec<Duration>) -> Duration {
    let number = u32::try_from(spans.len()).expect("criterion asks for fewer");
    let middle = spans.len() / 2;
    *spans.select_nth_unstable(middle).1 * number
}

/// From the request to kill a worker until its key has the next one, compared with the start of a vacant key.
fn kill(benches: &mut Benches) {
    fn bench<W: Kills>(group: &mut Group<'_>, name: &str, kill: bool) {
        let mut fixture = None;
        group.bench_function(name, move |bencher| {
            let fixture = fixture.get_or_insert_with(|| Fixture::<String, W>::new(WORKERS));
            bencher.iter_custom(|iterations| {
                let variant = fixture.variant();
                let each = async move {
                    let keys = keys_of(0);
                    let mut spans = Vec::with_capacity(iterations as usize);
                    for n in 0..iterations as usize {
                        let key = &keys[n % KEYS];
                        if kill {
                            drop(variant.start(key).await);
                        }
                        let begun = Instant::now();
                        if kill {
                            variant.kill(key).await;
                        }
                        let worker = black_box(variant.start(key).await);
                        spans.push(begun.elapsed());
                        drop(worker);
                        variant.stop(key).await;
                    }
                    as_p50(spans)
                };
                fixture.runtime.block_on(async { tokio::spawn(each).await.expect("a caller must not panic") })
            });
        });
    }

    for (name, kill) in [("kill to the next worker, p50", true), ("cold start, p50", false)] {
        let mut group = benches.benchmark_group(format!("churn/{name}"));
        group.operations(1);
        bench::<Registry<Counter<String>>>(&mut group, "gen-registry", kill);
        if kill {
            // The reference.
            bench::<Registry<Counter<String>>>(&mut group, "gen-registry's cold start", false);
        }
        bench::<Joined>(&mut group, Joined::NAME, kill);
        bench::<Kameo>(&mut group, Kameo::NAME, kill);
        bench::<Ractor>(&mut group, Ractor::NAME, kill);
        group.finish();
    }
}
