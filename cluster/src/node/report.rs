//! The task that copies the counters of a node to a recorder, every two seconds and at the end.
//!
//! The recorder is user code. It runs in this task only, and its panics end a report and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Key, Label, Level, Metadata, Recorder, SharedString, Unit};
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::{self as catalogue, Kind, Metric, catalogue as values};
use crate::node::{Node, State};

/// A recorder that a node is built with, instead of the one of the process.
pub(crate) type SharedRecorder = Arc<dyn Recorder + Send + Sync>;

const METADATA: Metadata<'static> = Metadata::new("gen_registry_cluster", Level::INFO, Some("gen_registry_cluster"));
const EVERY: Duration = Duration::from_secs(2);
/// How many other nodes have series of their own.
const MOST_PEERS: usize = 100;

/// Reports until the node has ended.
pub(crate) async fn report_until_end(node: Arc<Node>, recorder: Option<SharedRecorder>) {
    let mut reporter = Reporter { cluster: node.name.clone().into(), recorder, peers: BTreeSet::new() };
    let mut state = node.state();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = state.wait_for(|state| matches!(state, State::Ended(_))) => break,
            _ = ticks.tick() => reporter.report(&node, true),
        }
    }
    reporter.report(&node, false);
}

struct Reporter {
    cluster: SharedString,
    recorder: Option<SharedRecorder>,
    /// The addresses that have series.
    peers: BTreeSet<String>,
}

impl Reporter {
    fn report(&mut self, node: &Node, is_live: bool) {
        let recorder = self.recorder.clone();
        // The recorder keeps its own state whole, or not: it is not of this node.
        let _ = catch_unwind(AssertUnwindSafe(|| match recorder {
            Some(recorder) => {
                Report { node, recorder: &*recorder, cluster: &self.cluster, is_live }.all(&mut self.peers)
            }
            None => metrics::with_recorder(|recorder| {
                Report { node, recorder, cluster: &self.cluster, is_live }.all(&mut self.peers);
            }),
        }));
    }
}

/// One report.
struct Report<'r> {
    node: &'r Node,
    recorder: &'r dyn Recorder,
    cluster: &'r SharedString,
    is_live: bool,
}

impl Report<'_> {
    fn all(&self, peers: &mut BTreeSet<String>) {
        self.describe();
        self.gauges();
        self.counters();
        self.calls();
        self.histograms();
        self.peers(peers);
    }

    fn describe(&self) {
        for metric in catalogue::ALL {
            let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
            match metric.kind {
                Kind::Counter => self.recorder.describe_counter(name, Some(Unit::Count), help),
                Kind::Gauge => self.recorder.describe_gauge(name, None, help),
                Kind::Histogram { .. } => self.recorder.describe_histogram(name, Some(Unit::Seconds), help),
                // The catalogue has no other.
                _ => {}
            }
        }
    }

    fn key(&self, metric: &Metric, labels: &[(&'static str, SharedString)]) -> Key {
        let mut all = vec![Label::new("cluster", self.cluster.clone())];
        all.extend(labels.iter().map(|(name, value)| Label::new(*name, value.clone())));
        Key::from_parts(metric.name, all)
    }

    fn gauge(&self, metric: &Metric, labels: &[(&'static str, SharedString)], value: f64) {
        let value = if self.is_live { value } else { 0.0 };
        self.recorder.register_gauge(&self.key(metric, labels), &METADATA).set(value);
    }

    fn counter(&self, metric: &Metric, labels: &[(&'static str, SharedString)], value: u64) {
        self.recorder.register_counter(&self.key(metric, labels), &METADATA).absolute(value);
    }

    /// A counter for each value of the metric's only label.
    fn counters_of(&self, metric: &Metric, counters: &[AtomicU64]) {
        let label = metric.labels[0];
        for (value, counter) in label.values.iter().zip(counters) {
            self.counter(metric, &[(label.name, SharedString::const_str(value))], load(counter));
        }
    }

    fn gauges(&self) {
        let (counts, members, revision) = {
            let machine = self.node.machine();
            (machine.counts(), machine.members().count(), machine.revision())
        };
        let measures = &self.node.measures;
        let valid_for = self.node.present().validity.valid_for();
        self.gauge(&catalogue::VALID_SECONDS, &[], valid_for.as_secs_f64());
        self.gauge(&catalogue::VALID_LIMIT_SECONDS, &[], self.node.valid.as_secs_f64());
        self.gauge(&catalogue::MEMBERS, &[], members as f64);
        let shards = [counts.here, counts.moving, counts.stuck, counts.ending, counts.vacant];
        for (state, shards) in values::STATES.iter().zip(shards) {
            self.gauge(&catalogue::SHARDS, &[("state", SharedString::const_str(state))], shards as f64);
        }
        let lag = load(&measures.confirmed).saturating_sub(revision.0);
        self.gauge(&catalogue::MAP_LAG, &[], lag as f64);
        self.gauge(&catalogue::STUCK_WORKERS, &[], load(&measures.stuck_workers) as f64);
        self.gauge(&catalogue::ENGINE_UP, &[], if self.node.engine().is_away { 0.0 } else { 1.0 });
    }

    fn counters(&self) {
        let measures = &self.node.measures;
        self.counters_of(&catalogue::BEATS, &measures.beats);
        self.counters_of(&catalogue::SHARD_MOVES, &measures.moves);
        self.counters_of(&catalogue::REFUSALS, &measures.refusals);
        self.counter(&catalogue::SHARD_TAKEOVERS, &[], load(&measures.takeovers));
        self.counter(&catalogue::RETRIES, &[], load(&measures.retries));
        for (verb, counters) in values::VERBS.iter().zip(&measures.engine) {
            for (outcome, counter) in values::ENGINE_OUTCOMES.iter().zip(counters) {
                let labels = [("verb", SharedString::const_str(verb)), ("outcome", SharedString::const_str(outcome))];
                self.counter(&catalogue::ENGINE_REQUESTS, &labels, load(counter));
            }
        }
    }

    fn calls(&self) {
        // First: what ended there is part of the sums, which are read later and so are not less.
        let there: Vec<u64> = self.node.measures.there.iter().map(load).collect();
        let stats = self.node.stats();
        let all = [stats.answered, stats.not_delivered, stats.no_reply, stats.timed_out, stats.failed];
        for ((outcome, all), there) in values::CALL_OUTCOMES.iter().zip(all).zip(there) {
            for (place, calls) in [("here", all.saturating_sub(there)), ("there", there)] {
                let labels = [("where", SharedString::const_str(place)), ("outcome", SharedString::const_str(outcome))];
                self.counter(&catalogue::CALLS, &labels, calls);
            }
        }
        self.counter(&catalogue::FENCES, &[], stats.fences);
    }

    fn histograms(&self) {
        let measures = &self.node.measures;
        let there = [("where", SharedString::const_str("there"))];
        let all: [(&Metric, &[_], _); 5] = [
            (&catalogue::BEAT_SECONDS, &[], &measures.beat_seconds),
            (&catalogue::SHARD_MOVE_SECONDS, &[], &measures.move_seconds),
            (&catalogue::FENCE_LATE_SECONDS, &[], &measures.late_seconds),
            (&catalogue::CALL_SECONDS, &there, &measures.call_seconds),
            (&catalogue::ENGINE_REQUEST_SECONDS, &[], &measures.engine_seconds),
        ];
        for (metric, labels, durations) in all {
            durations.set(self.recorder.register_histogram(&self.key(metric, labels), &METADATA));
        }
    }

    fn peers(&self, known: &mut BTreeSet<String>) {
        let present: HashMap<String, (usize, bool)> = {
            let machine = self.node.machine();
            let routes = self.node.routes();
            let peers = machine.members().filter_map(|(id, member, _)| {
                let peer = routes.peers.get(&id)?;
                Some((member.address.clone(), (peer.in_flight(), peer.is_up())))
            });
            peers.collect()
        };
        let mut new: Vec<&String> = present.keys().filter(|address| !known.contains(*address)).collect();
        new.sort_unstable();
        new.truncate(MOST_PEERS.saturating_sub(known.len()));
        known.extend(new.into_iter().cloned().collect::<Vec<_>>());
        for address in known.iter() {
            let (in_flight, is_up) = present.get(address).copied().unwrap_or_default();
            let peer = [("peer", SharedString::from(address.clone()))];
            self.gauge(&catalogue::IN_FLIGHT, &peer, in_flight as f64);
            self.gauge(&catalogue::PEER_UP, &peer, f64::from(u8::from(is_up)));
        }
        // Those that are no members any more have had their 0.
        known.retain(|address| present.contains_key(address));
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
