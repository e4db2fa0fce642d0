//! The rules of the transport, at each point where a caller or a stream may end.

use std::future::{Future, pending};
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use test_support::{poll_once, until_idle};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::support::*;
use crate::id::NodeId;
use crate::transport::frame::Broken;
use crate::transport::outcome::Outcome;
use crate::transport::peer::{Options, Outgoing, Peer};
use crate::transport::receiver::{Accept, Receiver};
use crate::transport::request::{Request, Response, Serve, Verb};
use crate::transport::{AnswerRoom, Connect, Incoming, LocalNetwork, Way};

#[tokio::test(start_paused = true)]
async fn caller_dropped_at_any_poll_leaves_nothing() {
    let mut begun = 0;
    for (name, size) in [("echo", 8), ("echo", 300_000), ("gate", 8), ("hang", 8)] {
        for polls in 0..12 {
            for yields in 0..6 {
                let pair = pair(Options { window_calls: 1, ..Options::default() });
                let deadline = Instant::now() + SECOND * 10;
                let mut sent = Box::pin(pair.peer.exchange(message(name, 1, size), deadline, pending()));
                for _ in 0..polls {
                    if poll_once(sent.as_mut()).await.is_ready() {
                        break;
                    }
                    for _ in 0..yields {
                        yield_now().await;
                    }
                }
                drop(sent);
                until_idle().await;
                let did = pair.world.did(1);
                assert!(did.begun <= 1 && did.begun == did.ended + did.dropped, "{name} {polls} {yields}: {did:?}");
                assert_eq!(pair.peer.in_flight(), 0, "{name} {polls} {yields}");
                begun += did.begun;
                // Its part of the window is free: it is all of it.
                let next = send(&pair.peer, message("echo", 2, 8), SECOND).await;
                assert!(matches!(next, Outcome::Answered(Response::Replied(_))), "{name} {polls} {yields}: {next:?}");
            }
        }
    }
    assert!(begun > 20, "some of the calls have begun: {begun}");
}

/// Breaks the first stream after a number of frames in each direction. The frame after them is taken and lost.
struct Breaking {
    accept: Arc<dyn Accept>,
    after: Mutex<Option<(usize, usize)>>,
}

fn breaks(
    frames: impl futures_util::Stream<Item = crate::transport::Frame> + Send + 'static,
    after: usize,
) -> Incoming {
    let frames = frames.enumerate().map(move |(at, frame)| match at < after {
        true => Ok(frame),
        false => Err(Broken::new("broken by the test")),
    });
    Box::pin(frames)
}

impl Connect for Breaking {
    fn connect(&self, _: &str, outgoing: Outgoing) -> BoxFuture<'static, Result<Incoming, Broken>> {
        let (there, back) = self.after.lock().expect("no panic").take().unwrap_or((usize::MAX, usize::MAX));
        let answers = Arc::clone(&self.accept).accept(breaks(outgoing, there), Ok(()));
        std::future::ready(Ok(breaks(answers, back))).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn c5_stream_broken_at_any_frame_repeats_nothing() {
    let (mut lost, mut repeated) = (0, 0);
    for there in 0..12 {
        for back in 0..12 {
            let world = World::new();
            let receiver = Receiver::new(Fake(Arc::clone(&world)), identity(2), Options::default());
            let connect = Breaking { accept: receiver, after: Mutex::new(Some((there, back))) };
            let peer = Peer::new(identity(1), node(2), "b".into(), Arc::new(connect), Options::default());
            let peer = Arc::new(peer);
            let sends = [("echo", 8), ("take", 8), ("echo", 300_000), ("echo", 150_000)].map(|(name, size)| {
                let (peer, number) = (Arc::clone(&peer), size as u64 + u64::from(name == "take"));
                let sent = async move { send(&peer, message(name, number, size), SECOND * 10).await };
                (number, tokio::spawn(sent))
            });
            for (number, sent) in sends {
                let outcome = within(sent, "the outcome of a request").await.expect("no panic");
                let did = world.did(number);
                match outcome {
                    Outcome::Answered(Response::Replied(_) | Response::Taken) => {
                        assert_eq!(did.begun, 1, "{there} {back} {number}");
                        repeated += 1;
                    }
                    Outcome::Lost(_) => {
                        assert!(did.begun <= 1, "{there} {back} {number}: {did:?}");
                        lost += 1;
                    }
                    outcome => panic!("{there} {back} {number}: {outcome:?}"),
                }
            }
            assert_eq!(peer.in_flight(), 0);
        }
    }
    assert!(lost > 100 && repeated > 100, "{lost} {repeated}");
}

#[tokio::test(start_paused = true)]
async fn c6_cancelled_call_does_not_overtake_the_next() {
    for yields in 0..20 {
        let pair = pair(Options::default());
        let first = pair.spawn(message("mailbox", 1, 8), SECOND);
        let outcome = within(first, "the first call").await.expect("no panic");
        assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
        let gate = Arc::clone(&pair.world);
        let opens = tokio::spawn(async move {
            for _ in 0..yields {
                yield_now().await;
            }
            gate.gate.add_permits(1);
        });
        pair.send(message("echo", 2, 8)).await;
        until_idle().await;
        within(opens, "the gate").await.expect("no panic");
        assert!(matches!(pair.world.order()[..], [2] | [1, 2]), "{:?}", pair.world.order());
    }
}

#[tokio::test(start_paused = true)]
async fn c6_lost_call_does_not_overtake_the_next() {
    let pair = pair(Options::default());
    let first = pair.spawn(message("mailbox", 1, 8), SECOND * 60);
    until_idle().await;
    // The sender notices first: the receiver waits longer for pings.
    pair.set(Way::Held);
    let outcome = within(first, "the first call").await.expect("no panic");
    assert!(matches!(outcome, Outcome::Lost(_)), "{outcome:?}");
    pair.set(Way::Open);
    pair.world.gate.add_permits(1);
    pair.send(message("echo", 2, 8)).await;
    until_idle().await;
    assert!(matches!(pair.world.order()[..], [2] | [1, 2]), "{:?}", pair.world.order());
}

/// Panics before it returns a future.
struct PanicsAtOnce;

impl Serve for PanicsAtOnce {
    fn serve(&self, _: NodeId, request: Request, _: &AnswerRoom, _: Instant) -> impl Future<Output = Response> + Send {
        assert_eq!(request.verb, Verb::Count, "a test panics at once");
        std::future::ready(Response::Taken)
    }
}

#[tokio::test(start_paused = true)]
async fn panic_without_a_future_is_answered() {
    let network = LocalNetwork::new();
    network.listen("b", Receiver::new(PanicsAtOnce, identity(2), Options::default()));
    let peer = Peer::new(identity(1), node(2), "b".into(), network.connector("a"), Options::default());
    let outcome = send(&peer, message("echo", 1, 8), SECOND).await;
    assert!(matches!(outcome, Outcome::Answered(Response::ReplyDropped)), "{outcome:?}");
    assert_eq!(peer.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn large_bodies_do_not_hold_up_small_ones() {
    let pair = pair(Options::default());
    let done = Arc::new(Mutex::new(Vec::new()));
    let sends = [(1, 4_000_000), (2, 4_000_000)].into_iter().chain((3..203).map(|number| (number, 8)));
    let sends: Vec<_> = sends
        .map(|(number, size)| {
            let (peer, done) = (Arc::clone(&pair.peer), Arc::clone(&done));
            tokio::spawn(async move {
                let request = Request { key: key(number), ..message("echo", number, size) };
                let outcome = send(&peer, request, SECOND * 10).await;
                assert!(matches!(outcome, Outcome::Answered(Response::Replied(body)) if body.len() == size));
                done.lock().expect("no panic").push(number);
            })
        })
        .collect();
    for sent in sends {
        within(sent, "a call").await.expect("no panic");
    }
    let done = done.lock().expect("no panic").clone();
    // The large ones began to leave first, and end last.
    assert!(done.len() == 202 && done[200..].iter().all(|number| *number <= 2), "{done:?}");
}
