//! [`State`]: what all requests of one console share, and the task that samples each second.
//!
//! One task samples, however many pages are open. It holds the state weakly: it ends within a tick of the console's end. A sample reads the
//! statistics of each registry, which is as cheap as the reporter of metrics. Nothing else runs while no page is open.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};
use std::time::Duration;

use gen_registry::inspect::{Inspect, Inspector};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::cluster::ClusterView;
use crate::convert;
use crate::history::{History, Sample, round};
use crate::json;
use crate::log::{Collector, Log};

/// Registries that are sampled and listed. A program in which each worker owns a registry may have many more.
pub(crate) const MOST_REGISTRIES: usize = 256;
/// Streams that may be open.
pub(crate) const MOST_STREAMS: usize = 64;
/// While a stream is open, events are read this often; otherwise with each sample.
const TICK: Duration = Duration::from_millis(250);
const TICKS_OF_SAMPLE: u32 = 4;

pub(crate) struct State {
    pub(crate) inspector: Inspector,
    /// The newest sample.
    pub(crate) sampled: watch::Sender<Arc<Sampled>>,
    /// The sequence of the newest event.
    pub(crate) latest: watch::Sender<u64>,
    /// Ends all streams.
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) streams: Arc<Semaphore>,
    /// One list is read at a time: ten pages of a million workers take one thread and not ten.
    pub(crate) readers: Semaphore,
    cluster: Mutex<Option<Arc<dyn ClusterView>>>,
    log: Mutex<Log>,
    histories: Mutex<HashMap<u64, History>>,
    is_sampling: Once,
}

/// The sample of a second, and its text, which is made once for all streams and only if there is one.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    pub(crate) overview: json::Overview,
    text: OnceLock<String>,
}

impl Sampled {
    pub(crate) fn text(&self) -> &str {
        self.text.get_or_init(|| serde_json::to_string(&self.overview).unwrap_or_default())
    }
}

/// What is behind these locks stays consistent through a panic: each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(crate) fn new(inspector: Inspector) -> Arc<Self> {
        let state = Arc::new(Self {
            inspector,
            sampled: watch::Sender::default(),
            latest: watch::Sender::default(),
            closed: watch::Sender::default(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            readers: Semaphore::new(1),
            cluster: Mutex::default(),
            log: Mutex::default(),
            histories: Mutex::default(),
            is_sampling: Once::new(),
        });
        // A router may be made before there is a runtime. Then the first request begins the sampling.
        if Handle::try_current().is_ok() {
            state.start_sampling();
        }
        state
    }

    /// Begins to sample, once. Needs a runtime.
    pub(crate) fn start_sampling(self: &Arc<Self>) {
        self.is_sampling.call_once(|| {
            let mut sampler = Sampler::default();
            sampler.read(self, true);
            tokio::spawn(sampler.run(Arc::downgrade(self)));
        });
    }

    fn registries(&self) -> Vec<Arc<dyn Inspect>> {
        let mut registries = self.inspector.registries();
        registries.truncate(MOST_REGISTRIES);
        registries
    }

    pub(crate) fn events(&self, after: u64, limit: usize) -> json::Feed {
        lock(&self.log).after(after, limit)
    }

    pub(crate) fn events_of(&self, registry: u64, key: &str, limit: usize) -> Vec<json::Event> {
        lock(&self.log).of(registry, key, limit)
    }

    pub(crate) fn history(&self, registry: u64, points: usize) -> Option<json::History> {
        lock(&self.histories).get(&registry).map(|history| history.read(points))
    }

    pub(crate) fn cluster(&self) -> Option<Arc<dyn ClusterView>> {
        lock(&self.cluster).clone()
    }

    pub(crate) fn show_cluster(&self, cluster: Arc<dyn ClusterView>) {
        *lock(&self.cluster) = Some(cluster);
    }

    pub(crate) fn overview(&self) -> Arc<Sampled> {
        Arc::clone(&self.sampled.borrow())
    }
}

/// The task that samples. It reads on a thread for blocking work and holds no lock meanwhile: the texts of keys and errors are
/// made by the program.
#[derive(Default)]
struct Sampler {
    collector: Collector,
    /// The last sample of each registry, and when.
    before: HashMap<u64, (Instant, json::Registry)>,
}

impl Sampler {
    async fn run(mut self, state: Weak<State>) {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        // After a pause of the process one late sample, and not one for each missed second.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 1_u32.. {
            ticks.tick().await;
            let Some(state) = state.upgrade() else { return };
            let is_sample = tick % TICKS_OF_SAMPLE == 0;
            if !is_sample && state.streams.available_permits() == MOST_STREAMS {
                continue;
            }
            let read = spawn_blocking(move || {
                self.read(&state, is_sample);
                self
            });
            // An error: the runtime shuts down.
            let Ok(read) = read.await else { return };
            self = read;
        }
    }

    /// Reads the registries, and their new events. Texts of keys and errors are made by code of the program. If that blocks it holds
    /// up the samples, and if it panics it costs one.
    fn read(&mut self, state: &State, is_sample: bool) {
        let read = AssertUnwindSafe(|| {
            if is_sample {
                self.sample(state);
            }
            self.collect(state);
        });
        // The panic hook has reported it.
        let _ = catch_unwind(read);
    }

    /// Reads new events into the log.
    fn collect(&mut self, state: &State) {
        let fresh = self.collector.collect(&state.registries());
        let latest = lock(&state.log).append(fresh);
        state.latest.send_if_modified(|known| std::mem::replace(known, latest) != latest);
    }

    fn sample(&mut self, state: &State) {
        let open = state.inspector.registries();
        let more = open.len().saturating_sub(MOST_REGISTRIES);
        let now = Instant::now();
        let mut registries = Vec::with_capacity(open.len() - more);
        let mut before = HashMap::with_capacity(open.len() - more);
        let mut samples = Vec::with_capacity(open.len() - more);
        for registry in open.iter().take(MOST_REGISTRIES) {
            let mut sample = convert::registry(registry.as_ref());
            let last = self.before.get(&sample.id);
            sample.rates = last.map(|(then, last)| rates(last, &sample, now - *then)).unwrap_or_default();
            // The first has no rates: it would draw a line that begins with 0.
            if last.is_some() {
                samples.push((sample.id, Sample::of(&sample)));
            }
            before.insert(sample.id, (now, sample.clone()));
            registries.push(sample);
        }
        let mut histories = lock(&state.histories);
        for (id, sample) in samples {
            histories.entry(id).or_default().push(sample);
        }
        histories.retain(|id, _| before.contains_key(id));
        drop(histories);
        self.before = before;
        let overview = json::Overview {
            version: json::VERSION,
            now: convert::now(),
            registries,
            more,
            cluster: state.cluster().is_some(),
        };
        state.sampled.send_replace(Arc::new(Sampled { overview, text: OnceLock::new() }));
    }
}

fn rates(before: &json::Registry, after: &json::Registry, passed: Duration) -> json::Rates {
    let seconds = passed.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "a rate of 2^52 per second is not met")]
    let rate = |of: fn(&json::Registry) -> u64| round(of(after).saturating_sub(of(before)) as f64 / seconds);
    json::Rates {
        starts: rate(|registry| registry.starts.ok),
        restarts: rate(|registry| registry.restarts),
        exits: rate(|registry| registry.exits.total()),
        crashes: rate(|registry| registry.crashes),
        hits: rate(|registry| registry.lookups.hit),
        misses: rate(|registry| registry.lookups.miss),
        handled: rate(|registry| registry.handled),
        undelivered: rate(|registry| registry.undelivered.total()),
    }
}

#[cfg(test)]
mod tests;
