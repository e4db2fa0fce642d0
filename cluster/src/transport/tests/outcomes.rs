//! The rows of the table of outcomes, each from its cause to the error of the caller.

use std::error::Error;
use std::future::ready;
use std::time::Duration;

use test_support::until_idle;
use tokio::time::Instant;

use super::support::*;
use crate::codec::{CodecError, Part};
use crate::error::{ClusterCallError, ClusterCastError, TooLarge, Why};
use crate::id::Revision;
use crate::remote::RemoteError;
use crate::transport::Way;
use crate::transport::outcome::{Failure, Next, NotSent, Outcome};
use crate::transport::peer::Options;
use crate::transport::request::{Refusal, Request, Response};

fn call_error(outcome: Outcome) -> ClusterCallError {
    match outcome.of_call() {
        Next::Failed(failure) => failure.into(),
        Next::Late(why) => ClusterCallError::NotDelivered(why),
        next => panic!("{next:?}"),
    }
}

fn cast_error(outcome: Outcome) -> ClusterCastError<&'static str> {
    match outcome.of_cast() {
        Next::Failed(failure) => failure.returning("the cast"),
        Next::Late(why) => Failure::NotDelivered(why).returning("the cast"),
        next => panic!("{next:?}"),
    }
}

/// The outcome is that the message never began, for this reason, and the cast is returned.
#[track_caller]
fn not_delivered(outcome: Outcome) -> Why {
    let error = cast_error(outcome.clone());
    assert!(!error.may_have_run());
    assert_eq!(error.into_cast(), Some("the cast"));
    match call_error(outcome) {
        ClusterCallError::NotDelivered(why) => why,
        error => panic!("{error:?}"),
    }
}

/// The outcome is that the message may have begun.
#[track_caller]
fn may_have_run(outcome: Outcome) -> Why {
    let error = call_error(outcome.clone());
    assert!(error.may_have_run(), "{error:?}");
    match cast_error(outcome) {
        ClusterCastError::Unknown { why } => why,
        error => panic!("{error:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn c4_call_and_cast_are_answered() {
    let pair = pair(Options::default());
    let reply = pair.send(message("echo", 1, 100)).await;
    assert!(matches!(reply.of_call(), Next::Done(body) if body.len() == 100));
    assert!(matches!(pair.send(message("take", 2, 8)).await.of_cast(), Next::Done(())));
    assert_eq!(pair.world.order(), [1, 2]);
    assert!(pair.peer.is_up());
    assert_eq!(pair.peer.hello().expect("it is up").kinds, ["room"]);
}

#[tokio::test(start_paused = true)]
async fn unreachable_node_is_reported_at_the_deadline() {
    let pair = pair(Options::default());
    pair.network.unlisten("b");
    let begin = Instant::now();
    let why = not_delivered(pair.send(message("echo", 1, 8)).await);
    assert_eq!(begin.elapsed().as_secs(), 10);
    assert_eq!(why.to_string(), "the node that owns the key cannot be reached: b: nothing listens there");
    assert_eq!(pair.peer.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn stream_opens_again_after_failures() {
    let pair = pair(Options::default());
    pair.set(Way::Cut);
    let sent = pair.spawn(message("echo", 1, 8), SECOND * 10);
    tokio::time::sleep(SECOND * 5).await;
    assert!(!sent.is_finished());
    pair.set(Way::Open);
    let outcome = within(sent, "the answer").await.expect("no panic");
    assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
    assert_eq!(pair.world.did(1).begun, 1);
}

#[tokio::test(start_paused = true)]
async fn held_stream_does_not_open_in_time() {
    let pair = pair(Options::default());
    pair.set(Way::Held);
    let why = not_delivered(pair.send(message("echo", 1, 8)).await);
    assert!(why.to_string().ends_with("b: the stream did not open in time"), "{why}");
    assert_eq!(pair.world.did(1), Did::default());
}

#[tokio::test(start_paused = true)]
async fn deadline_of_a_sent_call_cancels_it() {
    let pair = pair(Options::default());
    let outcome = send(&pair.peer, message("hang", 1, 8), SECOND).await;
    assert!(matches!(call_error(outcome.clone()), ClusterCallError::TimedOut));
    assert_eq!(may_have_run(outcome), Why::TimedOut);
    until_idle().await;
    assert_eq!(pair.world.did(1), Did { begun: 1, ended: 0, dropped: 1 });
    assert_eq!(pair.peer.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_caller_cancels_at_the_receiver() {
    let pair = pair(Options::default());
    let sent = pair.spawn(message("hang", 1, 8), SECOND * 10);
    until_idle().await;
    assert_eq!(pair.world.did(1).begun, 1);
    sent.abort();
    until_idle().await;
    assert_eq!(pair.world.did(1).dropped, 1);
    assert_eq!(pair.peer.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn cut_stream_loses_what_was_sent() {
    let pair = pair(Options::default());
    let sent = pair.spawn(message("hang", 1, 8), SECOND * 10);
    until_idle().await;
    pair.set(Way::Cut);
    let outcome = within(sent, "the outcome of the call").await.expect("no panic");
    assert!(matches!(call_error(outcome.clone()), ClusterCallError::NoReply(Why::ConnectionLost)));
    assert_eq!(may_have_run(outcome), Why::ConnectionLost);
    // What is sent now waits, and was not sent before.
    let why = not_delivered(send(&pair.peer, message("echo", 2, 8), SECOND).await);
    assert!(why.to_string().contains("the way is cut"), "{why}");
    assert_eq!(pair.world.did(1), Did { begun: 1, ended: 0, dropped: 1 });
    assert_eq!(pair.world.did(2).begun, 0);
}

#[tokio::test(start_paused = true)]
async fn dead_owner_is_reported_at_once() {
    let options = Options { window_calls: 2, ..Options::default() };
    let pair = pair(options);
    let sent = pair.spawn(message("hang", 1, 8), SECOND * 10);
    until_idle().await;
    pair.set(Way::Held);
    let queued = pair.spawn(message("hang", 2, 8), SECOND * 10);
    let waiting = pair.spawn(message("hang", 3, 8), SECOND * 10);
    until_idle().await;
    let begin = Instant::now();
    pair.peer.declare_dead();
    let outcome = within(sent, "the outcome of the sent call").await.expect("no panic");
    assert!(matches!(call_error(outcome), ClusterCallError::NoReply(Why::OwnerDied)));
    // One waited for the stream, one for the window, and one came later: none was sent.
    let queued = within(queued, "the queued call").await.expect("no panic");
    let waiting = within(waiting, "the waiting call").await.expect("no panic");
    for outcome in [queued, waiting, pair.send(message("echo", 4, 8)).await] {
        assert!(matches!(outcome, Outcome::NotSent(NotSent::Dead)), "{outcome:?}");
        assert!(matches!(outcome.of_call(), Next::Again { why: Why::NoOwner, .. }));
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(pair.world.order(), [1]);
}

#[tokio::test(start_paused = true)]
async fn left_node_sends_no_more() {
    let pair = pair(Options::default());
    let sent = pair.spawn(message("hang", 1, 8), SECOND * 10);
    until_idle().await;
    pair.peer.leave();
    assert_eq!(may_have_run(within(sent, "the sent call").await.expect("no panic")), Why::ConnectionLost);
    assert!(matches!(call_error(pair.send(message("echo", 2, 8)).await), ClusterCallError::Left));
    until_idle().await;
    assert_eq!(pair.world.did(1).dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn unanswered_pings_end_a_stream() {
    let pair = pair(Options::default());
    let sent = pair.spawn(message("hang", 1, 8), SECOND * 60);
    until_idle().await;
    let begin = Instant::now();
    pair.set(Way::Held);
    let outcome = within(sent, "the outcome of the call").await.expect("no panic");
    assert_eq!(may_have_run(outcome), Why::ConnectionLost);
    assert_eq!(begin.elapsed().as_secs(), 3);
    // The receiver notices, too, and drops the call, whose caller has its outcome.
    tokio::time::sleep(SECOND * 3).await;
    assert_eq!(pair.world.did(1).dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn idle_stream_stays_up() {
    let pair = pair(Options::default());
    pair.send(message("echo", 1, 8)).await;
    tokio::time::sleep(SECOND * 100).await;
    assert!(pair.peer.is_up());
}

#[tokio::test(start_paused = true)]
async fn c10_full_window_delays_callers_in_turn() {
    let pair = pair(Options { window_calls: 2, ..Options::default() });
    let first: Vec<_> = (1..=2)
        .map(|number| pair.spawn(Request { key: key(number), ..message("gate", number, 8) }, SECOND * 10))
        .collect();
    until_idle().await;
    let late = pair.spawn(message("echo", 3, 8), SECOND);
    let waiting: Vec<_> = (4..=6).map(|number| pair.spawn(message("echo", number, 8), SECOND * 10)).collect();
    assert_eq!(not_delivered(within(late, "the late call").await.expect("no panic")), Why::Overloaded);
    assert_eq!(pair.world.order(), [1, 2]);
    assert_eq!(pair.peer.in_flight(), 2);
    pair.world.gate.add_permits(2);
    for sent in first.into_iter().chain(waiting) {
        let outcome = within(sent, "a waiting call").await.expect("no panic");
        assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
    }
    assert_eq!(pair.world.order(), [1, 2, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn c10_window_counts_bytes() {
    let pair = pair(Options { window_bytes: 400_000, window_calls: 100, ..Options::default() });
    let large: Vec<_> = (1..=3)
        .map(|number| pair.spawn(Request { key: key(number), ..message("gate", number, 199_000) }, SECOND * 10))
        .collect();
    until_idle().await;
    assert_eq!(pair.peer.in_flight(), 2);
    // A message larger than the window takes all of it.
    let larger = pair.spawn(message("gate", 4, 1_000_000), SECOND * 10);
    until_idle().await;
    assert_eq!(pair.world.order(), [1, 2]);
    pair.world.gate.add_permits(4);
    for sent in large.into_iter().chain([larger]) {
        within(sent, "a large call").await.expect("no panic");
    }
    assert_eq!(pair.world.order(), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn c10_replies_wait_for_room_in_the_stream() {
    let pair = pair(Options { window_bytes: 4_000_000, window_calls: 100, ..Options::default() });
    let calls: Vec<_> = (1..=80)
        .map(|number| pair.spawn(Request { key: key(number), ..message("gate, grow", number, 8) }, SECOND * 10))
        .collect();
    until_idle().await;
    assert_eq!(pair.world.order().len(), 80);
    pair.set(Way::Held);
    pair.world.gate.add_permits(80);
    until_idle().await;
    let bytes = pair.receiver.answer_bytes();
    assert!((4_000_001..=5_000_000).contains(&bytes), "{bytes} bytes wait for the stream");
    pair.set(Way::Open);
    for call in calls {
        let outcome = within(call, "an answer").await.expect("no panic");
        assert!(matches!(outcome, Outcome::Answered(Response::Replied(body)) if body.len() == 1_000_000));
    }
    assert_eq!(pair.receiver.answer_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn too_large_messages_are_not_sent() {
    let pair = pair(Options { max_message: 100_000, ..Options::default() });
    let outcome = pair.send(message("echo", 1, 100_000)).await;
    let ClusterCallError::TooLarge(error) = call_error(outcome.clone()) else { panic!("{outcome:?}") };
    assert_eq!(error, TooLarge { part: Part::Message, size: 100_005, max: 100_000 });
    assert_eq!(cast_error(outcome).into_cast(), Some("the cast"));
    let mut request = message("echo", 1, 8);
    request.key = vec![b'k'; 70_000].into();
    let error = call_error(pair.send(request).await);
    assert!(matches!(error, ClusterCallError::TooLarge(TooLarge { part: Part::Key, .. })), "{error:?}");
    assert_eq!(pair.world.did(1).begun, 0);
    // The largest one is sent.
    let outcome = pair.send(message("echo", 2, 99_995)).await;
    assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn too_large_reply_is_reported() {
    let pair = pair(Options { max_message: 100_000, ..Options::default() });
    let error = call_error(pair.send(message("grow", 1, 8)).await);
    let ClusterCallError::TooLarge(large) = &error else { panic!("{error:?}") };
    assert_eq!(*large, TooLarge { part: Part::Reply, size: 1_000_000, max: 100_000 });
    assert!(error.may_have_run());
    // The stream goes on.
    assert!(matches!(pair.send(message("echo", 2, 8)).await, Outcome::Answered(Response::Replied(_))));
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_node_is_no_reply() {
    let pair = pair(Options::default());
    let error = call_error(pair.send(message("panic", 1, 8)).await);
    assert!(matches!(error, ClusterCallError::NoReply(Why::ReplyDropped)), "{error:?}");
    assert!(matches!(pair.send(message("echo", 2, 8)).await, Outcome::Answered(Response::Replied(_))));
}

#[tokio::test(start_paused = true)]
async fn refused_call_is_sent_again_by_its_sender() {
    let pair = pair(Options::default());
    let outcome = pair.send(message("refuse", 1, 8)).await;
    let next = outcome.of_call();
    assert!(matches!(next, Next::Again { why: Why::Moving, revision: Revision(8) }), "{next:?}");
    let error = call_error(pair.send(message("not started", 2, 8)).await);
    assert!(matches!(error, ClusterCallError::NotStarted(_)));
    let source = error.source().expect("the error of `init`");
    assert_eq!(
        (source.to_string(), source.source().map(ToString::to_string)),
        ("no room".into(), Some("disk full".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn rerouted_request_is_taken_back_unless_sent() {
    let pair = pair(Options::default());
    pair.set(Way::Cut);
    let deadline = Instant::now() + SECOND * 10;
    let moved = tokio::time::sleep(SECOND);
    let outcome = within(pair.peer.exchange(message("echo", 1, 8), deadline, moved), "the rerouted call").await;
    assert!(matches!(outcome, Outcome::NotSent(NotSent::Rerouted)), "{outcome:?}");
    pair.set(Way::Open);
    pair.send(message("echo", 2, 8)).await;
    assert_eq!(pair.world.order(), [2]);
    // What was sent waits for its answer.
    let moved = tokio::time::sleep(SECOND);
    let deadline = Instant::now() + SECOND * 3;
    let outcome = within(pair.peer.exchange(message("hang", 3, 8), deadline, moved), "the sent call").await;
    assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
    // And so does what waits for the window.
    let outcome = within(pair.peer.exchange(message("echo", 4, 8), deadline, ready(())), "the late call").await;
    assert!(!matches!(outcome, Outcome::TimedOut | Outcome::Lost(_)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn leaving_receiver_answers_and_takes_no_more() {
    let pair = pair(Options::default());
    let sent = pair.spawn(message("gate", 1, 8), SECOND * 10);
    until_idle().await;
    pair.receiver.leave();
    until_idle().await;
    let why = not_delivered(send(&pair.peer, message("echo", 2, 8), SECOND).await);
    assert_eq!(why, Why::Moving);
    pair.world.gate.add_permits(1);
    let outcome = within(sent, "the answer of the leaving node").await.expect("no panic");
    assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
    within(pair.receiver.drained(), "the end of the streams").await;
    let why = not_delivered(send(&pair.peer, message("echo", 3, 8), SECOND).await);
    assert!(why.to_string().contains("it leaves the cluster"), "{why}");
    assert_eq!(pair.world.order(), [1]);
}

#[tokio::test(start_paused = true)]
async fn closed_receiver_ends_its_streams() {
    let pair = pair(Options::default());
    let sent = pair.spawn(message("hang", 1, 8), SECOND * 10);
    until_idle().await;
    pair.receiver.close();
    within(pair.receiver.drained(), "the end of the streams").await;
    assert_eq!(may_have_run(within(sent, "the sent call").await.expect("no panic")), Why::ConnectionLost);
    assert_eq!(pair.world.did(1).dropped, 1);
}

/// The responses that a fake cannot make travel without loss.
#[test]
fn responses_are_read_as_they_are_written() {
    let codec = CodecError::remote(Part::Message, &["no field `x`".into()]);
    let large = TooLarge { part: Part::Reply, size: 9, max: 4 };
    for response in [
        Response::Replied(vec![1, 2].into()),
        Response::Taken,
        Response::Refused(Refusal::NotHere, Revision(1)),
        Response::Refused(Refusal::Moving, Revision(u64::MAX)),
        Response::Refused(Refusal::Fenced, Revision(0)),
        Response::Refused(Refusal::Overloaded, Revision(0)),
        Response::Refused(Refusal::TooLate, Revision(0)),
        Response::NotStarted(RemoteError::from_chain(&["a".into(), "b".into()])),
        Response::NotFound,
        Response::WouldDeadlock,
        Response::WorkerEnded,
        Response::ReplyDropped,
        Response::TimedOut,
        Response::Codec(codec),
        Response::TooLarge(large),
    ] {
        let (frame, body) = response.clone().into_frame();
        let read = Response::from_frame(frame, body).expect("it was written");
        assert_eq!(format!("{read:?}"), format!("{response:?}"));
        // Each has a row for calls and one for casts.
        let (call, cast) = (Outcome::Answered(read.clone()).of_call(), Outcome::Answered(read).of_cast());
        match (call, cast) {
            (Next::Again { .. }, Next::Again { .. }) | (Next::Late(_), Next::Late(_)) => {}
            (Next::Failed(call), Next::Failed(cast)) => {
                let (call, cast) = (ClusterCallError::from(call), cast.returning(()));
                let reply = matches!(call, ClusterCallError::TooLarge(TooLarge { part: Part::Reply, .. }));
                assert!(reply || call.may_have_run() == cast.may_have_run(), "{call:?} {cast:?}");
            }
            (Next::Done(_), Next::Failed(cast)) => assert!(cast.returning(()).may_have_run()),
            (Next::Failed(call), Next::Done(())) => assert!(ClusterCallError::from(call).may_have_run()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_peer_ends_its_stream() {
    let pair = pair(Options::default());
    pair.send(message("echo", 1, 8)).await;
    let (receiver, peer) = (Arc::clone(&pair.receiver), Arc::clone(&pair.peer));
    drop(pair);
    drop(peer);
    within(receiver.drained(), "the end of the stream").await;
}
