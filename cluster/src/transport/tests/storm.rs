//! Many callers, streams that are cut at random points, callers that give up: each request has one outcome and at most one
//! execution, and what was not sent has none.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use test_support::Random;
use tokio::time::{Instant, sleep, timeout};

use super::proxy::Proxy;
use super::sockets::{connect, serve};
use super::support::*;
use crate::transport::outcome::Outcome;
use crate::transport::peer::{Options, Peer};
use crate::transport::request::Response;
use crate::transport::{LocalNetwork, Receiver, Way};

/// How long a storm lasts. `GEN_REGISTRY_STORM_SECONDS` makes it longer.
fn duration() -> Duration {
    let seconds = std::env::var("GEN_REGISTRY_STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn seed() -> u64 {
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    seed
}

#[derive(Default)]
struct Counts {
    numbers: AtomicU64,
    answered: AtomicU64,
    not_sent: AtomicU64,
    lost: AtomicU64,
    given_up: AtomicU64,
    ending: AtomicBool,
}

/// One caller, in a loop. Returns what it knows of each number: whether it was answered, and whether it may have begun.
async fn caller(peer: Arc<Peer>, counts: Arc<Counts>, mut random: Random) -> Vec<(u64, bool, bool)> {
    let mut known = Vec::new();
    while !counts.ending.load(Ordering::Relaxed) {
        let number = counts.numbers.fetch_add(1, Ordering::Relaxed);
        let size = if random.below(50) == 0 { 150_000 + random.below(200_000) } else { 8 + random.below(200) };
        let name = if random.below(2) == 0 { "echo" } else { "take" };
        let deadline = Instant::now() + Duration::from_millis(1 + random.below(500));
        let exchange = peer.exchange(message(name, number, size as usize), deadline, std::future::pending());
        let patience = Duration::from_micros(if random.below(5) == 0 { random.below(3_000) } else { 60_000_000 });
        let Ok(outcome) = timeout(patience, exchange).await else {
            counts.given_up.fetch_add(1, Ordering::Relaxed);
            known.push((number, false, true));
            continue;
        };
        let (count, answered, may_have_begun) = match outcome {
            Outcome::Answered(Response::Replied(_) | Response::Taken) => (&counts.answered, true, true),
            Outcome::Answered(Response::Refused(..)) | Outcome::NotSent(_) => (&counts.not_sent, false, false),
            Outcome::Answered(Response::TimedOut) | Outcome::Lost(_) | Outcome::TimedOut => (&counts.lost, false, true),
            outcome => panic!("{number}: {outcome:?}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        known.push((number, answered, may_have_begun));
    }
    known
}

/// Runs callers while `cut` cuts, and checks what they know against what the node did.
async fn storm(peer: Arc<Peer>, world: Arc<World>, mut cut: impl FnMut(&mut Random) -> Duration, calm: impl FnOnce()) {
    let seed = seed();
    let mut random = Random::new(seed);
    let counts = Arc::new(Counts::default());
    let callers: Vec<_> = (0..32)
        .map(|number| {
            let random = Random::new(seed ^ (number << 32));
            tokio::spawn(caller(Arc::clone(&peer), Arc::clone(&counts), random))
        })
        .collect();
    let end = Instant::now() + duration();
    let mut cuts = 0;
    while Instant::now() < end {
        let wait = cut(&mut random);
        cuts += 1;
        sleep(wait).await;
    }
    counts.ending.store(true, Ordering::Relaxed);
    calm();
    let mut known = Vec::new();
    for caller in callers {
        known.extend(within(caller, "the outcome of a request").await.expect("no violation"));
    }
    // What was cancelled is answered before this.
    let open = async {
        while peer.in_flight() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(open, "the answers to cancelled requests").await;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{} requests, {cuts} cuts: {} answered, {} not sent, {} lost, {} given up",
        known.len(),
        count(&counts.answered),
        count(&counts.not_sent),
        count(&counts.lost),
        count(&counts.given_up)
    );
    assert_eq!(known.len() as u64, count(&counts.numbers), "each request has one outcome");
    for (number, answered, may_have_begun) in known {
        let did = world.did(number);
        assert!(did.begun <= 1, "{number} began twice: {did:?}");
        assert!(!answered || did.begun == 1, "{number} was answered and never began");
        assert!(may_have_begun || did.begun == 0, "{number} was not sent and began: {did:?}");
    }
    assert!(count(&counts.answered) > 100 && cuts > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_storm_over_cut_ways() {
    let (world, network) = (World::new(), LocalNetwork::new());
    let options = Options {
        backoff: (Duration::from_micros(200), Duration::from_millis(5)),
        window_calls: 16,
        window_bytes: 1_000_000,
        ..Options::default()
    };
    network.listen("b", Receiver::new(Fake(Arc::clone(&world)), identity(2), options.clone()));
    let peer = Peer::new(identity(1), node(2), "b".into(), network.connector("a"), options);
    let mut way = Way::Open;
    let cut = |random: &mut Random| {
        way = match way {
            Way::Open if random.below(3) == 0 => Way::Held,
            Way::Open => Way::Cut,
            _ => Way::Open,
        };
        network.set("a", "b", way);
        Duration::from_micros(random.below(if way == Way::Open { 20_000 } else { 2_000 }))
    };
    storm(Arc::new(peer), world, cut, || network.set("a", "b", Way::Open)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_storm_over_cut_sockets() {
    let node = serve(identity(2), None).await;
    let proxy = Proxy::to(node.server.address()).await;
    let peer = connect(proxy.address, None);
    let cut = |random: &mut Random| {
        proxy.cut();
        Duration::from_micros(random.below(60_000))
    };
    storm(peer, Arc::clone(&node.world), cut, || {}).await;
}
