//! What no node of this protocol sends: it ends the stream, and costs no memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use test_support::until_idle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::support::*;
use crate::error::Why;
use crate::id::NodeId;
use crate::transport::frame::{AnswerFrame, Broken, Empty, Frame, LANES, OutcomeFrame, PIECE, Piece, RequestFrame};
use crate::transport::outcome::Outcome;
use crate::transport::peer::{Options, Outgoing, Peer};
use crate::transport::receiver::{Accept, Answers, Receiver};
use crate::transport::request::{Refusal, Request, Response, Serve};
use crate::transport::{AnswerRoom, Connect, Incoming};

/// A sender of any frames.
struct Raw {
    frames: mpsc::UnboundedSender<Result<Frame, Broken>>,
    answers: Answers,
}

fn raw<S: Serve>(receiver: &Arc<Receiver<S>>) -> Raw {
    let (frames, mut sent) = mpsc::unbounded_channel();
    let incoming = Box::pin(stream::poll_fn(move |cx| sent.poll_recv(cx)));
    Raw { frames, answers: Arc::<Receiver<_>>::clone(receiver).accept(incoming, Ok(())) }
}

impl Raw {
    fn send(&self, frame: Frame) {
        self.frames.send(Ok(frame)).expect("the stream is read");
    }

    async fn next(&mut self) -> Option<Frame> {
        within(self.answers.next(), "a frame or the end of the stream").await
    }

    async fn hello<S: Serve>(receiver: &Arc<Receiver<S>>) -> Raw {
        let mut raw = raw(receiver);
        raw.send(Frame::Hello(identity(1).hello(Some(node(2)))));
        assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
        raw
    }
}

fn receiver(options: Options) -> (Arc<World>, Arc<Receiver<Fake>>) {
    let world = World::new();
    (Arc::clone(&world), Receiver::new(Fake(world), identity(2), options))
}

fn request(id: u64, name: &'static str, size: u64, piece: usize) -> RequestFrame {
    let Request { verb, kind, name, key, mut body, .. } = message(name, id, piece);
    body.truncate(piece);
    let verb = verb.code();
    RequestFrame { id, verb, if_running: false, kind, name, key, within_micros: 10_000_000, revision: 0, size, body }
}

fn piece(id: u64, size: usize) -> Frame {
    Frame::Piece(Piece { id, body: vec![1; size].into() })
}

#[tokio::test(start_paused = true)]
async fn violations_of_a_sender_end_its_stream() {
    let large = 3 * PIECE as u64;
    let begun = |id| Frame::Request(request(id, "echo", large, PIECE));
    let many = (0..=LANES as u64).map(begun).collect();
    let answer = AnswerFrame { id: 1, outcome: OutcomeFrame::default(), size: 0, body: Bytes::new() };
    let violations: [(&str, Vec<Frame>); 9] = [
        ("a piece of no body", vec![piece(9, 10)]),
        ("a body that is longer than announced", vec![begun(1), piece(1, PIECE), piece(1, PIECE + 1)]),
        ("a first piece that is longer", vec![Frame::Request(request(1, "echo", 8, 9))]),
        ("an empty piece", vec![begun(1), piece(1, 0)]),
        ("an id twice", vec![begun(1), begun(1)]),
        ("many bodies at a time", many),
        ("an unknown verb", vec![Frame::Request(RequestFrame { verb: 99, ..request(1, "echo", 8, 8) })]),
        ("a second hello", vec![Frame::Hello(identity(1).hello(None))]),
        ("an answer", vec![Frame::Answer(answer)]),
    ];
    for (what, frames) in violations {
        let (world, receiver) = receiver(Options::default());
        let mut raw = Raw::hello(&receiver).await;
        for frame in frames {
            raw.send(frame);
        }
        assert_eq!(raw.next().await, None, "{what}");
        within(receiver.drained(), "the end of the session").await;
        assert_eq!(world.order(), [0_u64; 0], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn stream_without_a_hello_is_rejected() {
    let (_, receiver) = receiver(Options::default());
    let mut first = raw(&receiver);
    first.send(Frame::Ping(Empty {}));
    let rejected = first.next().await;
    assert!(matches!(&rejected, Some(Frame::Rejected(reason)) if reason.contains("no hello")), "{rejected:?}");
    // Nor does a silent one stay.
    let mut silent = raw(&receiver);
    let rejected = silent.next().await;
    assert!(matches!(&rejected, Some(Frame::Rejected(reason)) if reason.contains("in time")), "{rejected:?}");
    assert_eq!((first.next().await, silent.next().await), (None, None));
    within(receiver.drained(), "the end of the sessions").await;
}

#[tokio::test(start_paused = true)]
async fn silent_sender_is_dropped() {
    let (world, receiver) = receiver(Options::default());
    let mut raw = Raw::hello(&receiver).await;
    raw.send(Frame::Request(RequestFrame { within_micros: 60_000_000, ..request(1, "hang", 8, 8) }));
    assert_eq!(raw.next().await, None);
    assert_eq!(world.did(1).dropped, 1);
}

fn code(frame: Option<Frame>) -> Response {
    let Some(Frame::Answer(answer)) = frame else { panic!("{frame:?}") };
    Response::from_frame(answer.outcome, answer.body).expect("the node knows it")
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_limits_are_refused_unbegun() {
    let options = Options { window_calls: 2, window_bytes: 200_000, max_message: 100_000, ..Options::default() };
    let (world, receiver) = receiver(options);
    let mut raw = Raw::hello(&receiver).await;
    raw.send(Frame::Request(RequestFrame { within_micros: 0, ..request(1, "echo", 8, 8) }));
    assert_eq!(format!("{:?}", code(raw.next().await)), "Refused(TooLate, Revision(0))");
    raw.send(Frame::Request(request(2, "echo", u64::MAX, PIECE)));
    assert!(matches!(code(raw.next().await), Response::TooLarge(_)));
    raw.send(Frame::Cancel(2));
    for id in 3..=5 {
        raw.send(Frame::Request(request(id, "gate", 8, 8)));
    }
    assert_eq!(format!("{:?}", code(raw.next().await)), "Refused(Overloaded, Revision(0))");
    world.gate.add_permits(2);
    assert!(matches!(code(raw.next().await), Response::Replied(_)));
    assert!(matches!(code(raw.next().await), Response::Replied(_)));
    assert_eq!(world.order(), [3, 4]);
    assert_eq!(world.refused(), [Refusal::TooLate, Refusal::Overloaded], "each is counted where it is made");
}

#[tokio::test(start_paused = true)]
async fn later_stream_begins_when_the_earlier_has_ended() {
    let (world, receiver) = receiver(Options::default());
    let mut first = Raw::hello(&receiver).await;
    for id in 1..=100 {
        first.send(Frame::Request(request(id, "hang", 8, 8)));
    }
    until_idle().await;
    assert_eq!(world.order().len(), 100);
    let _second = Raw::hello(&receiver).await;
    assert!((1..=100).all(|id| world.did(id).dropped == 1));
    assert_eq!(first.next().await, None);
}

/// Blocks its thread in each request until the test opens it, as a codec of the user may.
struct Blocks {
    is_open: Mutex<bool>,
    opened: Condvar,
    order: Mutex<Vec<u64>>,
    reached: Semaphore,
}

impl Serve for Blocks {
    async fn serve(&self, _: NodeId, request: Request, _: &AnswerRoom, _: Instant) -> Response {
        self.reached.add_permits(1);
        let is_open = self.is_open.lock().expect("no panic");
        drop(self.opened.wait_while(is_open, |is_open| !*is_open).expect("no panic"));
        self.order.lock().expect("no panic").push(number(&request.body));
        Response::Replied(request.body)
    }
}

/// In real time, because a thread is blocked: streams that are given up meanwhile do not hide the first from a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn c6_no_stream_begins_beside_one_that_cannot_end() {
    let (is_open, opened, order) = (Mutex::new(false), Condvar::new(), Mutex::default());
    let blocks = Blocks { is_open, opened, order, reached: Semaphore::new(0) };
    let options = Options { open_timeout: SECOND / 20, ..Options::default() };
    let receiver = Receiver::new(blocks, identity(2), options);
    let first = Raw::hello(&receiver).await;
    first.send(Frame::Request(request(1, "block", 8, 8)));
    within(receiver.serve.reached.acquire(), "the first request").await.expect("it is never closed").forget();
    drop(first);
    for stream in 2..5 {
        let mut next = raw(&receiver);
        next.send(Frame::Hello(identity(1).hello(Some(node(2)))));
        let rejected = next.next().await;
        assert!(
            matches!(&rejected, Some(Frame::Rejected(reason)) if reason.contains("does not end")),
            "stream {stream}: {rejected:?}"
        );
    }
    *receiver.serve.is_open.lock().expect("no panic") = true;
    receiver.serve.opened.notify_all();
    let mut next = loop {
        let mut next = raw(&receiver);
        next.send(Frame::Hello(identity(1).hello(Some(node(2)))));
        match next.next().await {
            Some(Frame::Hello(_)) => break next,
            // The thread has not gone on yet.
            Some(Frame::Rejected(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    next.send(Frame::Request(request(2, "block", 8, 8)));
    assert!(matches!(code(next.next().await), Response::Replied(_)));
    assert_eq!(*receiver.serve.order.lock().expect("no panic"), [1, 2]);
}

/// Waits for ever with a value whose drop panics, as a message of the user may.
struct DropsBadly;

impl Serve for DropsBadly {
    async fn serve(&self, _: NodeId, _: Request, _: &AnswerRoom, _: Instant) -> Response {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("a drop that panics");
            }
        }
        let _bad = Bad;
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn c12_request_that_panics_at_its_deadline_is_answered() {
    let receiver = Receiver::new(DropsBadly, identity(2), Options::default());
    let mut raw = Raw::hello(&receiver).await;
    raw.send(Frame::Request(RequestFrame { within_micros: 1_000_000, ..request(1, "hang", 8, 8) }));
    assert!(matches!(code(raw.next().await), Response::ReplyDropped));
    // Nor does one that is cancelled leave anything.
    raw.send(Frame::Request(request(2, "hang", 8, 8)));
    raw.send(Frame::Cancel(2));
    assert!(matches!(code(raw.next().await), Response::TimedOut | Response::ReplyDropped));
    drop(raw);
    within(receiver.drained(), "the end of the session").await;
}

/// A sender that does not take its answers is not read any further.
#[tokio::test(start_paused = true)]
async fn c10_unread_answers_stop_the_reader() {
    let (_, receiver) = receiver(Options { window_calls: 100, ..Options::default() });
    let read = Arc::new(AtomicUsize::new(0));
    let hello = Frame::Hello(identity(1).hello(Some(node(2))));
    let counted = Arc::clone(&read);
    let pings = stream::iter((0..100_000).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::Ping(Empty {}))
    }));
    let incoming = Box::pin(stream::iter([Ok(hello)]).chain(pings));
    let mut answers = Arc::<Receiver<_>>::clone(&receiver).accept(incoming, Ok(()));
    until_idle().await;
    let first = read.load(Ordering::Relaxed);
    assert!(first < 300, "{first} frames were read");
    for _ in 0..1_000 {
        within(answers.next(), "an answer").await.expect("the stream is open");
    }
    until_idle().await;
    let then = read.load(Ordering::Relaxed);
    assert!((1_000..1_400).contains(&then), "{then} frames were read");
}

/// A receiver of any frames: those that it sends after its hello.
struct Scripted(Mutex<Vec<Frame>>);

impl Connect for Scripted {
    fn connect(&self, _: &str, outgoing: Outgoing) -> BoxFuture<'static, Result<Incoming, Broken>> {
        let script = std::mem::take(&mut *self.0.lock().expect("no panic"));
        if script.is_empty() {
            return std::future::ready(Err(Broken::new("the script has ended"))).boxed();
        }
        // The request is taken before the script goes on.
        let hello = stream::iter([Ok(Frame::Hello(identity(2).hello(None)))]);
        let taken = outgoing.filter(|frame| std::future::ready(matches!(frame, Frame::Request(_)))).into_future();
        let rest = stream::once(taken).flat_map(move |(_, rest)| {
            let rest = rest.filter_map(|_| std::future::ready(None));
            stream::iter(script.clone()).map(Ok).chain(rest)
        });
        std::future::ready(Ok(Box::pin(hello.chain(rest)) as Incoming)).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn violations_of_a_receiver_end_its_stream() {
    let answer = |id, code, size, body: usize| {
        let outcome = OutcomeFrame { code, ..OutcomeFrame::default() };
        Frame::Answer(AnswerFrame { id, outcome, size, body: vec![1; body].into() })
    };
    for (what, script) in [
        ("an unknown outcome", vec![answer(1, 99, 0, 0)]),
        ("a piece of no body", vec![piece(1, 10)]),
        ("a longer body", vec![answer(1, 1, 4, 5)]),
        ("a request", vec![Frame::Request(request(1, "echo", 8, 8))]),
        ("many bodies at a time", (2..8).map(|id| answer(id, 1, 1_000_000, PIECE)).collect()),
    ] {
        let connect = Arc::new(Scripted(Mutex::new(script)));
        let peer = Peer::new(identity(1), node(2), "b".into(), connect, Options::default());
        let outcome = send(&peer, message("echo", 1, 8), SECOND * 2).await;
        assert!(matches!(outcome, Outcome::Lost(Why::ConnectionLost)), "{what}: {outcome:?}");
        assert_eq!(peer.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_no_request_are_ignored() {
    let reply = OutcomeFrame { code: 1, ..OutcomeFrame::default() };
    let answer = |id| Frame::Answer(AnswerFrame { id, outcome: reply.clone(), size: 0, body: Bytes::new() });
    let connect = Arc::new(Scripted(Mutex::new(vec![answer(77), answer(1), answer(1)])));
    let peer = Peer::new(identity(1), node(2), "b".into(), connect, Options::default());
    let outcome = send(&peer, message("echo", 1, 8), SECOND * 2).await;
    assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
}
