//! J12: faults drawn at random while callers call.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use gen_registry_cluster::Timing;
use rustix::process::Signal;
use test_support::Random;
use tokio::time::sleep;

use crate::bed::{Bed, Node, Proxies, SECOND, Setup, keys, timing};
use crate::observer::database;
use crate::support::proxy::Flow;

/// How long the soak lasts, in seconds.
const LENGTH: &str = "GEN_REGISTRY_CLUSTER_SOAK";
/// The keys that are called all the time, and those that are called now and then.
const HOT: usize = 120;
const ALL: usize = 10_000;
/// From this length on the memory of a node must be flat.
const LONG: Duration = Duration::from_secs(900);
const MOST_DATABASE: u64 = 64 << 20;

const SETUP: Setup = Setup {
    members: 1,
    nodes: 3,
    engine_proxies: true,
    node_proxies: true,
    secured: None,
    most_starts: None,
    clocks_ahead: Vec::new(),
    wall_clocks: 0,
    // Thousands of workers of three unoptimized processes end at once, on two cores: in a second, as by default.
    timing: Timing { take: Duration::from_secs(6), ..timing() },
};

/// ```sh
/// GEN_REGISTRY_CLUSTER_SOAK=1800 cargo test -p gen-registry-cluster --test processes j12 -- --ignored --nocapture
/// ```
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "lasts for three minutes, or as long as the environment says"]
async fn j12_faults_at_random_violate_nothing() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let length = Duration::from_secs(variable(LENGTH).unwrap_or(180));
    let seed = variable("GEN_REGISTRY_CLUSTER_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("GEN_REGISTRY_CLUSTER_SEED={seed}");
    let mut random = Random::new(seed);
    let Some(mut bed) = Bed::with(SETUP).await else { return };
    let (hot, rest) = (keys("k", HOT), keys("rest", ALL - HOT));
    let load = bed.load(&hot);
    let many = bed.load_with(&rest, 5 * SECOND);
    let (begin, mut faults, mut aborted) = (Instant::now(), 0, 0);
    // Of the first node, which is neither killed nor asked to leave: when, and its memory in KiB.
    let mut memory: Vec<(Duration, u64)> = Vec::new();
    while begin.elapsed() < length {
        let kind = random.index(NAMES.len());
        let spared = usize::from(ENDING.contains(&kind));
        let node = spared + random.index(bed.nodes.len() - spared);
        let time = Duration::from_millis(200 + random.below(8_000));
        fault(&mut bed, kind, node, time).await;
        faults += 1;
        aborted += replace_aborted(&mut bed).await;
        memory.push((begin.elapsed(), bed.nodes[0].memory()));
        // Two faults in a row may overlap in their effects.
        sleep(Duration::from_millis(random.below(4_000))).await;
    }
    bed.balanced(3).await;
    let (none, name) = (BTreeSet::new(), format!("J12, {length:?}, {faults} faults, {aborted} aborted processes"));
    let report = bed.report(&format!("{name}, {HOT} keys called all the time"), &load.end().await, &none);
    bed.report(&format!("{name}, {} keys called each 5 s", rest.len()), &many.end().await, &none);
    assert!(report.all.ok > 1_000);
    let database = database(&bed.etcd);
    let ages: Vec<_> = bed.nodes.iter().map(Node::memory).collect();
    println!("    memory of the nodes in KiB, the oldest first: {ages:?}; database of the engine: {database} bytes");
    assert!(database < MOST_DATABASE, "{database} bytes");
    let half = |from: u32, to: u32| median(&memory, length * from / 4..length * to / 4);
    let (earlier, later) = (half(1, 2), half(3, 4));
    println!("    the median of the oldest in the second quarter {earlier} KiB, in the fourth {later} KiB");
    if length >= LONG {
        assert!(later <= earlier + earlier / 20, "the memory of a node grows: {memory:?}");
    }
}

fn median(memory: &[(Duration, u64)], within: Range<Duration>) -> u64 {
    let mut seen: Vec<u64> = memory.iter().filter(|(at, _)| within.contains(at)).map(|(_, kib)| *kib).collect();
    seen.sort_unstable();
    seen.get(seen.len() / 2).copied().unwrap_or_default()
}

/// Processes that were aborted, because their workers did not end in time (A3), as on a machine that does much else.
async fn replace_aborted(bed: &mut Bed) -> usize {
    let mut aborted = 0;
    while let Some(node) = bed.nodes.iter_mut().position(Node::has_ended) {
        let address = bed.nodes.remove(node).listen;
        println!("    node {node} was aborted");
        restart(bed, address).await;
        aborted += 1;
    }
    aborted
}

const NAMES: [&str; 8] = [
    "kill",
    "leave",
    "stop",
    "cut from the engine",
    "engine away",
    "slow engine",
    "cut from its peers",
    "connections reset",
];
/// Of those, the ones that end a process.
const ENDING: Range<usize> = 0..2;

async fn fault(bed: &mut Bed, kind: usize, node: usize, time: Duration) {
    println!("    {}, node {node}, {time:?}", NAMES[kind]);
    match kind {
        0 => {
            let address = bed.nodes[node].listen;
            bed.kill(node);
            sleep(time).await;
            restart(bed, address).await;
        }
        1 => {
            let (address, _) = bed.nodes.remove(node).leave().await;
            sleep(time / 4).await;
            restart(bed, address).await;
        }
        2 => {
            let pause = bed.storage.paused(bed.nodes[node].pid());
            bed.nodes[node].signal(Signal::STOP);
            sleep(time).await;
            pause.end();
            bed.nodes[node].signal(Signal::CONT);
        }
        4 => {
            bed.etcd.pause(0);
            sleep(time).await;
            bed.etcd.wake(0);
        }
        _ => {
            let Proxies { to_engine: Some(to_engine), to_node: Some(to_node) } = &bed.nodes[node].proxies else {
                panic!("the run has proxies")
            };
            let proxy = if kind >= 6 { to_node } else { to_engine };
            proxy.both(match kind {
                5 => Flow::Delay(Duration::from_millis(150)),
                7 => Flow::Pass,
                _ => Flow::Swallow,
            });
            sleep(time).await;
            proxy.both(Flow::Pass);
            if kind != 5 {
                // Swallowed bytes break a connection.
                proxy.reset();
            }
        }
    }
    // Whatever happened, the cluster recovers.
    sleep(SECOND).await;
}

async fn restart(bed: &mut Bed, address: SocketAddr) {
    bed.begin_behind_proxies(address).await;
    bed.nodes.last().expect("it was begun").line("up").await;
}
