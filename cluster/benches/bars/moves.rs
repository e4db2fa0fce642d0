//! Nodes that start, join and leave.

use std::time::{Duration, Instant};

use gen_registry_cluster::ClusterRegistry;
use tokio::runtime::Runtime;

use crate::bed::{Bed, Node, balanced, owned};
use crate::cell::{Cell, Get};
use crate::probes::Probes;
use crate::{Form, Row};

pub(crate) fn start_rows(form: Form) -> Vec<Row> {
    let bed = Bed::new(form, 3);
    let shards = bed.shards();
    let joining: Vec<_> = (0..3).map(|_| bed.options("start")).collect();
    let nodes: Vec<Node> = std::thread::scope(|scope| {
        let joining: Vec<_> = joining.into_iter().map(|options| scope.spawn(|| Node::join(options))).collect();
        joining.into_iter().map(|node| node.join().expect("the node joins")).collect()
    });
    let joined = Instant::now();
    let all_owned = owned(&nodes, shards) - joined;
    let at_rest = balanced(&nodes, shards).saturating_duration_since(joined);
    drop(nodes);
    let limit = bed.settle() + Duration::from_secs(1);
    vec![
        Row::new(
            format!("3 nodes start together, {shards} shards owned ({})", bed.engine()),
            "≤ 1 s after the last start",
            format!("{:.2} s", all_owned.as_secs_f64()),
            all_owned <= Duration::from_secs(1),
        ),
        Row::new(
            "… balanced",
            format!("≤ `settle` + 1 s = {:.1} s", limit.as_secs_f64()),
            format!("{:.2} s", at_rest.as_secs_f64()),
            at_rest <= limit,
        ),
    ]
}

/// Starts a worker for each key, from many callers at once.
fn fill(runtime: &Runtime, cells: &ClusterRegistry<Cell>, workers: usize) {
    const CALLERS: usize = 64;
    let callers = (0..CALLERS).map(|caller| {
        let cells = cells.clone();
        runtime.spawn(async move {
            for key in (caller..workers).step_by(CALLERS) {
                cells.via(&key_of(key)).call(Get([7; 32])).await.expect("the worker starts and answers");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        runtime.block_on(caller).expect("a caller does not panic");
    }
}

pub(crate) fn key_of(number: usize) -> String {
    format!("k{number}")
}

pub(crate) fn rows(form: Form) -> Vec<Row> {
    let bed = Bed::new(form, 3);
    let (shards, workers) = (bed.shards(), form.pick(100_000, 500));
    let mut nodes: Vec<Node> = (0..3).map(|_| bed.join("moves")).collect();
    balanced(&nodes, shards);
    fill(&nodes[0].runtime, &nodes[0].cells, workers);
    let probed = || (0..300).map(|number| key_of(number * (workers / 300).max(1))).collect();

    let probes = Probes::start(&nodes[0].runtime, &nodes[0].cells, probed());
    std::thread::sleep(bed.settle());
    nodes.push(bed.join("moves"));
    let joined = Instant::now();
    let moved = balanced(&nodes, shards).saturating_duration_since(joined + bed.settle());
    let (errors, gap) = watched(probes, &nodes[0]);
    let left_before = nodes.iter().map(|node| node.cluster.stats().moved).sum::<u64>();

    let probes = Probes::start(&nodes[0].runtime, &nodes[0].cells, probed());
    std::thread::sleep(bed.settle());
    let last = nodes.pop().expect("four nodes");
    // Those that have moved are started again by a message only.
    fill(&nodes[0].runtime, &nodes[0].cells, workers);
    let leaving = last.cells.here().count();
    let begun = Instant::now();
    last.leave();
    let took = begun.elapsed();
    drop(last);
    owned(&nodes, shards);
    let (leave_errors, leave_gap) = watched(probes, &nodes[0]);
    vec![
        Row::new(
            format!("{workers} workers, 3 → 4 nodes: {left_before} shards move ({})", bed.engine()),
            "≤ 3 s after `settle`, gap of a key ≤ 500 ms, 0 errors",
            format!("{:.2} s, {} ms, {errors} errors", moved.as_secs_f64(), gap.as_millis()),
            moved <= Duration::from_secs(3) && gap <= Duration::from_millis(500) && errors == 0,
        ),
        Row::new(
            format!("a node with {leaving} workers leaves"),
            "≤ 3 s, 0 errors",
            format!("{:.2} s, {leave_errors} errors; gap of a key {} ms", took.as_secs_f64(), leave_gap.as_millis()),
            took <= Duration::from_secs(3) && leave_errors == 0,
        ),
    ]
}

/// The errors of all callers, and the longest time that a key did not answer.
fn watched(probes: Probes, node: &Node) -> (usize, Duration) {
    let seen = probes.end(&node.runtime);
    let gap = seen.iter().map(|(_, seen)| seen.longest_gap()).max().expect("there are callers");
    (seen.iter().map(|(_, seen)| seen.errors()).sum(), gap)
}
