//! What cannot work is a clear error, and nothing waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep};

use super::support::*;
use crate::engine::{Change, Commit, Engine, EngineError, Expect, Memory, Op, Snapshot, WatchError};
use crate::{
    Cluster, ClusterBuilder, ClusterCallError, ClusterCastError, HostError, JoinError, ListenError, NodeTls,
    NodeTlsError, Part, Revision, Timing, Why,
};

async fn refused(options: ClusterBuilder) -> JoinError {
    within(options.join(), "the end of a join").await.expect_err("the node cannot join")
}

#[tokio::test(start_paused = true)]
async fn options_that_cannot_work_are_named() {
    let bed = Bed::new();
    let times = |beat, valid, take| {
        let millis = Duration::from_millis;
        Timing { beat: millis(beat), valid: millis(valid), take: millis(take) }
    };
    let public = "0.0.0.0:0".parse().expect("an address");
    let listening = |advertised: &str| {
        Cluster::builder("a").engine(Memory::new()).listen(([127, 0, 0, 1], 0).into()).advertise(advertised)
    };
    let cases = [
        ("name", Cluster::builder("").engine(Memory::new()).listen(([127, 0, 0, 1], 0).into())),
        ("name", Cluster::builder("a/b").engine(Memory::new()).listen(([127, 0, 0, 1], 0).into())),
        ("engine", Cluster::builder("a").listen(([127, 0, 0, 1], 0).into())),
        ("listen", Cluster::builder("a").engine(Memory::new())),
        ("listen", Cluster::builder("a").engine(Memory::new()).advertise("10.0.0.7:7101")),
        ("advertise", Cluster::builder("a").engine(Memory::new()).listen(public)),
        ("timing", bed.options("a").timing(times(100, 900, 1000))),
        ("timing", bed.options("a").timing(times(500, 1000, 2000))),
        ("timing", bed.options("a").timing(times(0, 1000, 2000))),
        ("timing", bed.options("a").timing(Timing { beat: Duration::from_nanos(1), ..Timing::default() })),
        ("timing", bed.options("a").timing(Timing { beat: Duration::MAX, ..Timing::default() })),
        ("timing", bed.options("a").timing(Timing { valid: Duration::MAX, ..Timing::default() })),
        ("shards", bed.options("a").shards(0)),
        ("lanes", bed.options("a").lanes(0)),
        ("window", bed.options("a").window(0, 0)),
        ("window", bed.options("a").window(1, usize::MAX)),
        ("advertise", listening("")),
        ("advertise", listening("10.0.0.7")),
        ("advertise", listening("0.0.0.0:7101")),
        ("advertise", listening("http://10.0.0.7:7101")),
    ];
    for (named, options) in cases {
        let error = refused(options).await;
        assert!(matches!(error, JoinError::Option { option, .. } if option == named), "{named}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn c12_times_without_an_end_are_no_panic() {
    let bed = Bed::new();
    let endless = |address| {
        let timing = Timing { beat: SECOND / 2, valid: 4 * SECOND, take: Duration::MAX };
        let options = bed.options(address).timing(timing).settle(SECOND).window(4, 1024);
        options.call_timeout(Duration::MAX).join_timeout(Duration::MAX).leave_timeout(Duration::MAX)
    };
    let (a, b) = (bed.join_with(endless("a")).await, bed.join_with(endless("b")).await);
    b.serves(8..).await;
    for key in [a.key("here"), b.key("there")] {
        // The first starts the worker.
        for value in 1..=2 {
            let via = a.counters.via(&key);
            let call = via.call_timeout(Duration::MAX, Add(1));
            assert_eq!(within(call, "the answer to a call").await.expect("it is answered"), value);
        }
        within(a.counters.via(&key).cast(Note(1)), "the end of a cast").await.expect("it is accepted");
        assert!(within(a.counters.count(), "a count").await.is_ok());
        within(a.counters.stop(&key), "a stop").await.expect("it runs");
        // There is no time for a start, and none for another node.
        let late = a.counters.via(&key).call_timeout(Duration::ZERO, Add(1)).await.expect_err("there is no time");
        assert!(!late.may_have_run(), "{late:?}");
    }
    for node in [b, a] {
        let report = within(node.cluster.leave(), "the end of a node").await;
        assert_eq!((report.stuck, report.unanswered), (0, 0));
    }
    bed.world.check();
}

#[tokio::test]
async fn public_address_demands_certificates() {
    let options =
        Cluster::builder("a").engine(Memory::new()).listen(([0, 0, 0, 0], 0).into()).advertise("10.0.0.7:7101");
    let error = refused(options).await;
    assert!(matches!(error, JoinError::Listen(ListenError::Insecure(_))), "{error}");
    assert!(error.to_string().contains("`insecure`"), "{error}");
}

#[tokio::test]
async fn certificates_that_are_none_are_an_error() {
    let tls = NodeTls::from_pem("no", "certificate", "at all");
    let options = Cluster::builder("a").engine(Memory::new()).listen(([127, 0, 0, 1], 0).into()).tls(tls);
    let error = refused(options).await;
    assert!(matches!(error, JoinError::Tls(NodeTlsError::Empty { file: "authorities" })), "{error}");
}

#[tokio::test]
async fn taken_port_is_an_error() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let error = refused(Cluster::builder("a").engine(Memory::new()).listen(address)).await;
    assert!(matches!(error, JoinError::Listen(ListenError::Io { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn node_with_another_config_does_not_join() {
    let bed = Bed::new();
    let a = bed.join_with(bed.options("a").era(3)).await;
    let shards = refused(bed.options("b").era(3).shards(64)).await;
    assert!(matches!(shards, JoinError::Shards { cluster: 48 }), "{shards}");
    let era = refused(bed.options("b").era(2)).await;
    assert!(matches!(era, JoinError::Era { cluster: 3 }), "{era}");
    assert_eq!(a.add("k").await, 1, "the first goes on");
    // A later era ends the nodes of the earlier one: they have missed the restore.
    let b = bed.join_with(bed.options("b").era(4)).await;
    assert_eq!(b.add("k").await, 2);
    let left = a.counters.via("k").call(Add(1)).await.expect_err("its era is over");
    assert!(matches!(left, ClusterCallError::Left), "{left:?}");
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn engine_that_is_away_at_the_start_ends_the_join() {
    let bed = Bed::new();
    bed.engine.pause();
    let begin = Instant::now();
    let error = refused(bed.options("a").join_timeout(7 * SECOND)).await;
    assert!(matches!(&error, JoinError::EngineAway { why } if why.contains("in time")), "{error}");
    assert_eq!(begin.elapsed().as_secs(), 7);
    // It is back before the next attempt has given up.
    let joining = tokio::spawn(bed.options("b").join());
    sleep(3 * SECOND).await;
    bed.engine.resume();
    within(joining, "the join").await.expect("it does not panic").expect("the node joins");
}

/// Refuses all commits, as an engine does whose role has no rights.
struct Refuses(Memory);

impl Engine for Refuses {
    async fn read(&self, prefix: &str) -> Result<Snapshot, EngineError> {
        self.0.read(prefix).await
    }

    async fn commit(&self, _: &[(String, Expect)], _: &[Op]) -> Result<Commit, EngineError> {
        Err(EngineError::Refused("permission denied".into()))
    }

    fn watch(&self, prefix: &str, from: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send {
        self.0.watch(prefix, from)
    }
}

#[tokio::test(start_paused = true)]
async fn engine_that_refuses_ends_the_join_at_once() {
    let bed = Bed::new();
    let begin = Instant::now();
    let error = refused(bed.options("a").engine(Refuses(Memory::new()))).await;
    assert!(matches!(&error, JoinError::EngineRefused { why } if why == "permission denied"), "{error}");
    assert!(begin.elapsed() < SECOND);
}

/// Ends each watch as soon as it begins, and counts the reads.
struct EndsWatches(Memory, Arc<AtomicUsize>);

impl Engine for EndsWatches {
    async fn read(&self, prefix: &str) -> Result<Snapshot, EngineError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(prefix).await
    }

    async fn commit(&self, when: &[(String, Expect)], then: &[Op]) -> Result<Commit, EngineError> {
        self.0.commit(when, then).await
    }

    fn watch(&self, _: &str, _: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send {
        stream::iter([Err(WatchError::Refused("no watch is permitted".into()))])
    }
}

#[tokio::test(start_paused = true)]
async fn c14_watch_that_always_ends_does_not_flood_the_engine() {
    let bed = Bed::new();
    let reads = Arc::new(AtomicUsize::new(0));
    let a = bed.join_with(bed.options("a").engine(EndsWatches(Memory::new(), reads.clone()))).await;
    a.serves(48..).await;
    let before = reads.load(Ordering::Relaxed);
    sleep(10 * SECOND).await;
    // Four a beat, of half a second.
    let read = reads.load(Ordering::Relaxed) - before;
    assert!((20..=90).contains(&read), "{read} reads in ten seconds");
    assert_eq!(a.add("k").await, 1);
}

#[tokio::test(start_paused = true)]
async fn damaged_record_ends_the_join() {
    let bed = Bed::new();
    let record = [Op::Put("/test/config".into(), "shards=many".into())];
    let written = bed.engine.commit(&[], &record).await;
    assert!(matches!(written, Ok(Commit::Done(_))));
    let error = refused(bed.options("a")).await;
    assert!(matches!(&error, JoinError::Damaged { what } if what.contains("/test/config")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn engine_that_is_away_for_ever_ends_every_wait() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    bed.engine.pause();
    sleep(6 * SECOND).await;
    let begin = Instant::now();
    let call = a.counters.via("k").call(Add(1)).await.expect_err("the node is fenced");
    assert!(matches!(call, ClusterCallError::NotDelivered(_)), "{call:?}");
    assert_eq!(begin.elapsed().as_secs(), 10, "the deadline of a call");
    let report = within(a.cluster.leave(), "the end of the node").await;
    assert_eq!((report.moved, report.stuck), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn address_without_a_listener_is_unreachable() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(8..).await;
    let key = b.key("k");
    bed.network.unlisten("b");
    let error = a.counters.via(&key).call_timeout(SECOND, Add(1)).await.expect_err("nothing listens");
    let ClusterCallError::NotDelivered(Why::Unreachable(why)) = &error else { panic!("{error:?}") };
    assert!(why.reason().contains("nothing listens there"), "{error}");
    assert!(!error.may_have_run());
}

#[tokio::test(start_paused = true)]
async fn node_of_another_cluster_at_an_address_is_rejected() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(8..).await;
    let key = b.key("k");
    // Another process has the address now, by mistake.
    let stranger =
        Cluster::builder("other").engine(Memory::new()).network(&bed.network, "b").clock(crate::Clock::runtime());
    let _stranger = within(stranger.join(), "the join").await.expect("it joins its own cluster");
    bed.network.set("a", "b", crate::transport::Way::Cut);
    bed.network.set("a", "b", crate::transport::Way::Open);
    let error = a.counters.via(&key).call_timeout(SECOND, Add(1)).await.expect_err("it is another cluster");
    assert!(error.to_string().contains("belongs to the cluster `other`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn messages_that_cannot_travel_are_errors_and_lose_nothing() {
    let bed = Bed::new();
    let (a, b) = (
        bed.join_with(bed.options("a").max_message(64 * 1024)).await,
        bed.join_with(bed.options("b").max_message(64 * 1024)).await,
    );
    b.serves(8..).await;
    let key = b.key("k");
    let large = a.counters.via(&key).call(Blob(vec![7; 200_000])).await.expect_err("it is too large");
    assert!(matches!(&large, ClusterCallError::TooLarge(error) if error.part == Part::Message), "{large:?}");
    assert!(!large.may_have_run());
    let reply = a.counters.via(&key).call(Grow(200_000)).await.expect_err("the reply is too large");
    assert!(matches!(&reply, ClusterCallError::TooLarge(error) if error.part == Part::Reply), "{reply:?}");
    assert!(reply.may_have_run());
    // On its own node nothing travels, and nothing is too large.
    let length = b.counters.via(&key).call(Blob(vec![7; 200_000])).await.expect("it does not travel");
    assert_eq!(length, 200_000);

    let unknown = a.counters.via(&key).call(Unnamed).await.expect_err("it does not travel");
    assert!(matches!(&unknown, ClusterCallError::Codec(error) if error.part() == Part::Message), "{unknown:?}");
    let broken = a.counters.via(&key).cast(Broken).await.expect_err("it has no encoding");
    assert!(matches!(&broken, ClusterCastError::Codec { .. }), "{broken:?}");
    assert!(broken.into_cast().is_some());
}

#[tokio::test(start_paused = true)]
async fn kind_that_the_owner_does_not_host_is_named() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    let b = within(bed.options("b").join(), "the join").await.expect("the node joins");
    while b.health().shards.here < 8 {
        sleep(SECOND / 10).await;
    }
    let key = (0..1000)
        .map(|n| format!("k{n}"))
        .find(|key| a.cluster.owner_of(key.as_bytes()).is_some_and(|(id, _)| id == b.id()))
        .expect("it owns some shard");
    let error = a.counters.via(&key).call_timeout(SECOND, Add(1)).await.expect_err("it is not hosted there");
    assert!(matches!(error, ClusterCallError::NotDelivered(Why::NotHosted)), "{error:?}");
    // A node that hosts it later answers those that still wait.
    let (counters, of) = (a.counters.clone(), key.clone());
    let waiting = tokio::spawn(async move { counters.via(&of).call(Add(1)).await });
    sleep(SECOND).await;
    let _counters = host(&b, &bed.world);
    let answer = within(waiting, "the answer").await.expect("it does not panic");
    assert_eq!(answer.expect("the call is answered"), 1);
}

#[tokio::test(start_paused = true)]
async fn kinds_and_names_that_collide_are_errors() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    let world = bed.world.clone();
    let again = a.cluster.host::<Counter>("counter", move |_, fence| (world.clone(), fence)).start();
    assert!(matches!(again, Err(HostError::KindTaken { kind: "counter" })), "{again:?}");
    let world = bed.world.clone();
    let twice = a.cluster.host::<Counter>("twice", move |_, fence| (world.clone(), fence)).call::<Add>().call::<Add>();
    assert!(matches!(twice.start(), Err(HostError::NameTaken { message: "add", .. })));
    let world = bed.world.clone();
    let options = a.cluster.host::<Counter>("options", move |_, fence| (world.clone(), fence));
    let options = options.local(|builder| builder.mailbox_capacity(0)).start();
    assert!(matches!(options, Err(HostError::Options { .. })), "{options:?}");
}
