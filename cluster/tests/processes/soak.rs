//! J12: faults drawn at random while callers call.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use test_support::Random;
use tokio::time::sleep;

use crate::bed::{Bed, SECOND, keys};
use crate::support::proxy::{Flow, Proxy};

/// How long the soak lasts, in seconds.
const LENGTH: &str = "GEN_REGISTRY_CLUSTER_SOAK";

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
    let Some(mut bed) = Bed::start(1, true).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    load.mark();
    let begin = Instant::now();
    while begin.elapsed() < length {
        let node = random.index(bed.nodes.len());
        let time = Duration::from_millis(200 + random.below(8_000));
        fault(&mut bed, random.index(6), node, time).await;
        // Two faults in a row may overlap in their effects.
        sleep(Duration::from_millis(random.below(4_000))).await;
    }
    bed.balanced(3).await;
    for node in &bed.nodes {
        println!("    memory of a node: {} KiB", node.memory());
    }
    let report = bed.report(&format!("J12, {length:?}"), &load.end().await, &BTreeSet::new());
    assert!(report.all.ok > 1_000);
}

async fn fault(bed: &mut Bed, fault: usize, node: usize, time: Duration) {
    let name = ["kill", "stop", "leave", "cut from the engine", "engine away", "slow engine"][fault];
    println!("    {name}, node {node}, {time:?}");
    match fault {
        0 => {
            let killed = bed.nodes.remove(node);
            killed.signal(Signal::KILL);
            bed.storage.killed(killed.pid());
            let address = killed.listen;
            drop(killed);
            sleep(time).await;
            restart(bed, address).await;
        }
        1 => {
            let pause = bed.storage.paused(bed.nodes[node].pid());
            bed.nodes[node].signal(Signal::STOP);
            sleep(time).await;
            pause.end();
            bed.nodes[node].signal(Signal::CONT);
        }
        2 => {
            let (address, _) = bed.nodes.remove(node).leave().await;
            sleep(time / 4).await;
            restart(bed, address).await;
        }
        3 => {
            // Swallowed bytes break a connection, so it is reset.
            let proxy = bed.nodes[node].proxies.to_engine.as_ref().expect("the run has proxies");
            proxy.both(Flow::Swallow);
            sleep(time).await;
            let proxy = bed.nodes[node].proxies.to_engine.as_ref().expect("the run has proxies");
            proxy.both(Flow::Pass);
            proxy.reset();
        }
        4 => {
            bed.etcd.pause(0);
            sleep(time).await;
            bed.etcd.wake(0);
        }
        _ => {
            let proxy = bed.nodes[node].proxies.to_engine.as_ref().expect("the run has proxies");
            proxy.both(Flow::Delay(Duration::from_millis(150)));
            sleep(time).await;
            let proxy = bed.nodes[node].proxies.to_engine.as_ref().expect("the run has proxies");
            proxy.both(Flow::Pass);
        }
    }
    // Whatever happened, the cluster recovers.
    sleep(SECOND).await;
}

async fn restart(bed: &mut Bed, address: SocketAddr) {
    let proxy = Proxy::to(bed.etcd.address(0)).await;
    bed.begin(address, Some(proxy));
    bed.nodes.last().expect("it was begun").line("up").await;
}
