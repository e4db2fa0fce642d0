//! Code of the user that panics, blocks, or uses the cluster where it should not: it costs its own call.

use std::error::Error;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use gen_registry::{Context, Reply, Worker};
use serde::{Deserialize, Serialize};
use test_support::{patience, until};

use super::support::*;
use crate::{
    Answers, Call, Clock, Cluster, ClusterBuilder, ClusterCallError, ClusterRegistry, ClusterStopError, Codec,
    CodecError, Named, Part,
};

/// Fails in the way that the beginning of its key says.
struct Fragile(String);

/// The way in which it fails.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            "display" => panic!("a text that panics"),
            // A text without end, if what it is written to takes all of it.
            "endless" => (0..1_000_000_000).try_for_each(|_| f.write_str("endless and ever ")),
            way => f.write_str(way),
        }
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if self.0 == "source" { panic!("a source that panics") } else { None }
    }
}

impl Drop for Failed {
    fn drop(&mut self) {
        if self.0 == "drop" && !std::thread::panicking() {
            panic!("an error whose drop panics");
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Ask;

impl Call for Ask {
    const NAME: &'static str = "ask";
    type Codec = Named;
    type Reply = u32;
}

/// Its bytes panic, and so does its reply.
#[derive(Debug)]
struct Odd;

enum OddCodec {}

impl Codec<Odd> for OddCodec {
    fn encode(_: &Odd, _: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn decode(_: &[u8]) -> Result<Odd, CodecError> {
        panic!("a message that cannot be read")
    }
}

impl Codec<()> for OddCodec {
    fn encode((): &(), _: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn decode(_: &[u8]) -> Result<(), CodecError> {
        Ok(())
    }
}

impl Call for Odd {
    const NAME: &'static str = "odd";
    type Codec = OddCodec;
    type Reply = ();
}

/// Its reply has no bytes: to make them panics.
#[derive(Debug, Serialize, Deserialize)]
struct Mute;

enum MuteCodec {}

impl Codec<Mute> for MuteCodec {
    fn encode(_: &Mute, _: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn decode(_: &[u8]) -> Result<Mute, CodecError> {
        Ok(Mute)
    }
}

impl Codec<u32> for MuteCodec {
    fn encode(_: &u32, _: &mut Vec<u8>) -> Result<(), CodecError> {
        panic!("a reply that cannot be written")
    }

    fn decode(_: &[u8]) -> Result<u32, CodecError> {
        Ok(0)
    }
}

impl Call for Mute {
    const NAME: &'static str = "mute";
    type Codec = MuteCodec;
    type Reply = u32;
}

enum Message {
    Ask(Reply<u32>),
    Odd(Reply<()>),
}

impl Worker for Fragile {
    type Key = String;
    type Args = ();
    type Message = Message;
    type Error = Failed;

    async fn init((): (), ctx: &mut Context<Self>) -> Result<Fragile, Failed> {
        let way = ctx.key().split('-').next().unwrap_or_default().to_owned();
        match &*way {
            "fine" | "panics" | "no reply" | "late" | "fails" | "display later" => Ok(Fragile(way)),
            "init" => panic!("an init that panics"),
            _ => Err(Failed(way)),
        }
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Failed> {
        match message {
            Message::Ask(reply) => match &*self.0 {
                "panics" => panic!("a handler that panics"),
                "no reply" => drop(reply),
                "late" => std::future::pending().await,
                "fails" | "display later" => return Err(Failed(self.0.trim_end_matches(" later").to_owned())),
                _ => reply.send(1),
            },
            Message::Odd(reply) => reply.send(()),
        }
        Ok(())
    }
}

impl Answers<Ask> for Fragile {
    fn message(_: Ask, reply: Reply<u32>) -> Message {
        Message::Ask(reply)
    }
}

impl Answers<Mute> for Fragile {
    fn message(_: Mute, reply: Reply<u32>) -> Message {
        Message::Ask(reply)
    }
}

impl Answers<Odd> for Fragile {
    fn message(_: Odd, reply: Reply<()>) -> Message {
        Message::Odd(reply)
    }
}

async fn join(options: ClusterBuilder) -> (Cluster, ClusterRegistry<Fragile>) {
    let cluster = within(options.join(), "the join of a node").await.expect("the node joins");
    let args = |key: &String, _| assert!(!key.starts_with("args"), "arguments that panic");
    let host = cluster.host::<Fragile>("fragile", args).call::<Ask>().call::<Odd>().call::<Mute>();
    let registry = host.start().expect("the kind is hosted once");
    (cluster, registry)
}

fn key_of(cluster: &Cluster, way: &str) -> String {
    let owns = |key: &String| cluster.owner_of(key.as_bytes()).is_some_and(|(id, _)| id == cluster.id());
    (0..10_000).map(|n| format!("{way}-{n}")).find(owns).expect("the node owns some shard")
}

async fn pair() -> [(Cluster, ClusterRegistry<Fragile>); 2] {
    let bed = Bed::new();
    // Requests that are never answered would fill the window of four.
    let a = join(bed.options("a").window(4, 4096).call_timeout(2 * SECOND)).await;
    let b = join(bed.options("b").window(4, 4096).call_timeout(2 * SECOND)).await;
    let shares = async {
        while b.0.health().shards.here < 8 {
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    within(shares, "the shards of a node").await;
    [a, b]
}

#[tokio::test(start_paused = true)]
async fn c10_failure_of_user_code_costs_its_own_call() {
    let [(a, fragile), (b, _b)] = pair().await;
    let fine = key_of(&b, "fine");
    let ways = [
        ("display", false),
        ("endless", false),
        ("source", false),
        ("drop", true),
        ("init", false),
        ("args", true),
        ("panics", true),
        ("no reply", true),
        ("fails", true),
        ("late", true),
        ("short", false),
    ];
    for (way, may_have_run) in ways {
        let key = key_of(&b, way);
        for _ in 0..10 {
            let via = fragile.via(&key);
            let error = within(via.call_timeout(SECOND / 10, Ask), "the end of a call").await.expect_err("it fails");
            // More caution than is needed is no loss.
            assert!(may_have_run || !error.may_have_run(), "{way}: {error:?}");
            let begin = tokio::time::Instant::now();
            let answer = within(fragile.via(&fine).call(Ask), "the answer to the next call").await;
            assert_eq!(answer.expect("there is room"), 1, "{way}");
            assert!(begin.elapsed() < SECOND / 10, "{way}: the next call has waited {:?}", begin.elapsed());
        }
        let in_flight: usize = a.node().peers().iter().map(|(_, peer)| peer.in_flight()).sum();
        assert_eq!(in_flight, 0, "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn text_of_a_remote_error_is_bounded_and_contained() {
    let [(_a, fragile), (b, _b)] = pair().await;
    for (way, text) in [("display", "has panicked"), ("endless", "endless and ever"), ("source", "source")] {
        let error = fragile.via(&key_of(&b, way)).call(Ask).await.expect_err("it does not start");
        let ClusterCallError::NotStarted(error) = error else { panic!("{way}: {error:?}") };
        let texts: Vec<String> =
            std::iter::successors(error.source(), |&error| error.source()).map(ToString::to_string).collect();
        assert!(texts.iter().any(|found| found.contains(text)), "{way}: {texts:?}");
        assert!(texts.iter().all(|found| found.len() <= 4096), "{way}: {} bytes", texts[0].len());
    }
    // The end of a worker that crashes while it is stopped travels as well.
    let key = key_of(&b, "display later");
    let crashed = fragile.via(&key).call(Ask).await.expect_err("it fails");
    assert!(crashed.may_have_run(), "{crashed:?}");
    let stopped = within(fragile.stop(&key), "a stop").await;
    assert!(matches!(stopped, Err(ClusterStopError::NotFound) | Ok(_)), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_that_panic_on_the_way_cost_their_call() {
    let [(a, fragile), (b, _b)] = pair().await;
    let fine = key_of(&b, "fine");
    for _ in 0..10 {
        let unread = fragile.via(&fine).call_timeout(SECOND, Odd).await.expect_err("it cannot be read");
        assert!(matches!(unread, ClusterCallError::NoReply(_)), "{unread:?}");
        let unwritten = fragile.via(&fine).call_timeout(SECOND, Mute).await.expect_err("its reply cannot be written");
        assert!(unwritten.may_have_run(), "{unwritten:?}");
        assert_eq!(fragile.via(&fine).call(Ask).await.expect("there is room"), 1);
    }
    let in_flight: usize = a.node().peers().iter().map(|(_, peer)| peer.in_flight()).sum();
    assert_eq!(in_flight, 0);
    // Here nothing is read or written.
    fragile.via(&key_of(&a, "fine")).call(Odd).await.expect("it does not travel");
}

#[tokio::test(start_paused = true)]
async fn arguments_that_panic_leave_no_worker() {
    let [(a, fragile), _b] = pair().await;
    let key = key_of(&a, "args");
    for _ in 0..3 {
        let via = fragile.via(&key);
        let call = AssertUnwindSafe(via.call(Ask)).catch_unwind();
        assert!(within(call, "the end of a call").await.is_err(), "the panic reaches the caller here");
    }
    assert_eq!(fragile.here().count(), 0);
    assert_eq!(fragile.via(&key_of(&a, "fine")).call(Ask).await.expect("it is answered"), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_of_any_size_are_sent_or_refused() {
    let [(a, fragile), (b, _b)] = pair().await;
    for (cluster, is_here) in [(&a, true), (&b, false)] {
        let owns = |key: &String| cluster.owner_of(key.as_bytes()).is_some_and(|(id, _)| id == cluster.id());
        for size in [0, 1, 60_000, 70_000] {
            let long = (0..1_000).map(|n| format!("fine-{n}-{}", "x".repeat(size))).find(owns).expect("some shard");
            let answer = within(fragile.via(&long).call_timeout(SECOND, Ask), "the end of a call").await;
            match answer {
                Ok(1) if is_here || size < 65_000 => {}
                Err(ClusterCallError::TooLarge(error)) if !is_here && size > 65_000 => {
                    assert_eq!(error.part, Part::Key)
                }
                other => panic!("{size} {is_here}: {other:?}"),
            }
        }
    }
    let empty = within(fragile.via("").call(Ask), "the end of a call").await.expect_err("the way is unknown");
    assert!(matches!(empty, ClusterCallError::NotStarted(_)), "{empty:?}");
}

/// In real time: the options of a registry are made by a closure that looks at the registries that exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_may_use_the_kind_that_they_are_for() {
    let cluster = Cluster::solo("inward");
    let registry: Arc<OnceLock<ClusterRegistry<Fragile>>> = Arc::default();
    let used = registry.clone();
    let host = cluster.host::<Fragile>("inward", |_, _| ()).call::<Ask>().local(move |builder| {
        let count = used.get().map_or(0, |registry| registry.here().count());
        builder.idle_timeout(Duration::from_secs(60 + count))
    });
    let fragile = registry.get_or_init(|| host.start().expect("the kind is hosted once")).clone();
    let calls = (0..64).map(|n| {
        let fragile = fragile.clone();
        tokio::spawn(async move { fragile.via(&format!("fine-{n}")).call(Ask).await })
    });
    for call in calls.collect::<Vec<_>>() {
        let answer = within(call, "the end of a call").await.expect("the caller does not panic");
        assert_eq!(answer.expect("it is answered"), 1);
    }
    assert_eq!(fragile.here().count(), 64);
    within(cluster.leave(), "the end of the node").await;
}

/// Makes its message when the test says so, and looks at the workers of its kind then.
struct Curious;

#[derive(Debug, Serialize, Deserialize)]
struct Look;

impl Call for Look {
    const NAME: &'static str = "look";
    type Codec = Named;
    type Reply = u64;
}

#[derive(Default)]
struct Looking {
    registry: OnceLock<ClusterRegistry<Curious>>,
    has_begun: AtomicBool,
    may_look: AtomicBool,
}

static LOOKING: LazyLock<Looking> = LazyLock::new(Looking::default);

impl Worker for Curious {
    type Key = String;
    type Args = ();
    type Message = (u64, Reply<u64>);
    type Error = Failed;

    async fn init((): (), _: &mut Context<Self>) -> Result<Curious, Failed> {
        Ok(Curious)
    }

    async fn handle(&mut self, (seen, reply): (u64, Reply<u64>), _: &mut Context<Self>) -> Result<(), Failed> {
        reply.send(seen);
        Ok(())
    }
}

impl Answers<Look> for Curious {
    fn message(_: Look, reply: Reply<u64>) -> (u64, Reply<u64>) {
        LOOKING.has_begun.store(true, Ordering::SeqCst);
        let begin = std::time::Instant::now();
        while !LOOKING.may_look.load(Ordering::SeqCst) && begin.elapsed() < patience() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (LOOKING.registry.get().map_or(0, |registry| registry.here().count()), reply)
    }
}

/// In real time, because it blocks a thread.
#[test]
fn c7_message_that_is_made_slowly_holds_up_its_shard_alone() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let result = runtime.block_on(AssertUnwindSafe(message_that_is_made_slowly()).catch_unwind());
    // A deadlock in the message would block its drop.
    runtime.shutdown_background();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

async fn message_that_is_made_slowly() {
    let bed = Bed::new();
    let options = |address| bed.options(address).clock(Clock::system()).settle(SECOND / 10);
    let (a, b) = (bed.join_with(options("a")).await, bed.join_with(options("b")).await);
    let host = |cluster: &Cluster| cluster.host::<Curious>("curious", |_, _| ()).call::<Look>().start();
    let (of_a, of_b) = (host(&a.cluster).expect("it is hosted once"), host(&b.cluster).expect("it is hosted once"));
    b.serves(12..).await;
    let key = b.key("k");
    LOOKING.may_look.store(true, Ordering::SeqCst);
    of_b.via(&key).call(Look).await.expect("its worker runs");
    LOOKING.may_look.store(false, Ordering::SeqCst);
    LOOKING.has_begun.store(false, Ordering::SeqCst);
    LOOKING.registry.get_or_init(|| of_b.clone());
    let looking = tokio::spawn({
        let via = of_b.via(&key);
        async move { via.call(Look).await }
    });
    until("a message that is being made", || LOOKING.has_begun.load(Ordering::SeqCst)).await;
    let leave = tokio::spawn({
        let cluster = b.cluster.clone();
        async move { cluster.leave().await }
    });
    // All others move, and the node does its work.
    a.serves(47..).await;
    assert!(!leave.is_finished(), "the message has not been sent");
    LOOKING.may_look.store(true, Ordering::SeqCst);
    let seen = within(looking, "the end of the call").await.expect("the caller does not panic");
    assert_eq!(seen.expect("the call is answered"), 1, "it may look at its own shard");
    within(leave, "the end of the node").await.expect("it does not panic");
    assert_eq!(of_a.via(&key).call(Look).await.expect("it is answered"), 0);
}
