//! What ten nodes ask of the engine.

use std::time::{Duration, Instant};

use gen_registry_cluster::Timing;
use gen_registry_cluster::engine::Engine;

use crate::bed::{Bed, Node, owned};
use crate::etcd::EtcdCluster;
use crate::{Form, Row};

/// History is compacted every five minutes, up to ten minutes ago.
const HISTORY: Duration = Duration::from_secs(15 * 60);

pub(crate) fn rows(form: Form) -> Vec<Row> {
    let bed = Bed::new(form, 1);
    let Some(etcd) = bed.etcd() else {
        return vec![Row::beside("engine load of 10 nodes", "not measured: etcd is not installed")];
    };
    let count = form.pick(10, 3);
    // Ten times as many beats as by default, so that the database grows by more than a page.
    let timing = Timing { beat: Duration::from_millis(100), ..bed.timing() };
    let options = || bed.options("load").timing(timing);
    let nodes: Vec<Node> = (0..count).map(|_| Node::join(options())).collect();
    owned(&nodes, bed.shards());
    // Until all shards have moved to where they belong.
    std::thread::sleep(bed.settle() * 3);
    let (revision, bytes, begun) = (revision(etcd), in_use(etcd), Instant::now());
    std::thread::sleep(form.pick(Duration::from_secs(60), Duration::from_secs(1)));
    let beats = begun.elapsed().as_secs_f64() / timing.beat.as_secs_f64() * count as f64;
    let (writes, grown) = (self::revision(etcd) - revision, in_use(etcd).saturating_sub(bytes));
    let per_beat = writes as f64 / beats;
    // At the beat that is the default.
    let by_default = 10.0 * per_beat / Timing::default().beat.as_secs_f64();
    let each = grown as f64 / writes as f64;
    let most = bytes as f64 + each * by_default * HISTORY.as_secs_f64();
    drop(nodes);
    vec![
        Row::new(
            "10 nodes at rest: writes to the engine, at a beat of 1 s",
            "≤ 10/s",
            format!("{by_default:.2}/s ({writes} writes for {beats:.0} beats)"),
            by_default <= 10.05,
        ),
        Row::new(
            "… the database of the engine over 24 h, compacted",
            "< 16 MB",
            format!("{:.1} MB ({each:.0} B for a beat, 15 minutes of history)", most / 1e6),
            most < 16e6,
        ),
    ]
}

fn revision(etcd: &EtcdCluster) -> u64 {
    let runtime = crate::bed::runtime();
    let read = runtime.block_on(etcd.client_of(0).read("/no-such-key"));
    read.expect("the engine answers").revision.0
}

/// The bytes of the database that are in use.
fn in_use(etcd: &EtcdCluster) -> u64 {
    let status = etcd.ctl(&["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("a status");
    let status = &status[0]["Status"];
    let size = status.get("dbSizeInUse").or_else(|| status.get("dbSize"));
    size.and_then(serde_json::Value::as_u64).expect("the size of the database")
}
