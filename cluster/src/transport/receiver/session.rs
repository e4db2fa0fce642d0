//! One stream of another node.

mod state;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::codec::Part;
use crate::error::TooLarge;
use crate::id::{NodeId, Revision};
use crate::transport::Incoming;
use crate::transport::frame::{Broken, Empty, Frame, Hello, OutcomeFrame, PIECE, RequestFrame};
use crate::transport::hello::difference;
use crate::transport::inbox::Inbox;
use crate::transport::peer::Options;
use crate::transport::receiver::session::state::{After, State};
use crate::transport::receiver::{Certified, Phase, Receiver};
use crate::transport::request::{Refusal, Request, Response, Serve, Verb};

/// A stream ends when nothing has arrived for this many beats of its sender. The sender pings at each beat, and has closed the
/// stream by then.
const SILENT_BEATS: u32 = 4;

pub(super) struct Session {
    state: Mutex<State>,
    /// The answers have room again, or their stream has been dropped.
    changed: Notify,
    /// The answers have room for the reply that is first in turn.
    room: Notify,
    /// The replies that wait for room, first come first served.
    turn: tokio::sync::Mutex<()>,
    /// A later stream of the same node waits for the end of this one.
    superseded: Notify,
    ended: watch::Sender<bool>,
}

impl Session {
    pub(super) fn new(options: &Options) -> Arc<Session> {
        Arc::new(Session {
            state: Mutex::new(State::new(options)),
            changed: Notify::new(),
            room: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            superseded: Notify::new(),
            ended: watch::channel(false).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock but for a lack of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_after(&self, after: After) {
        if after.changed {
            self.changed.notify_one();
        }
        if after.has_room {
            self.room.notify_one();
        }
        if let Some(stream) = after.stream {
            stream.wake();
        }
    }

    fn with(&self, change: impl FnOnce(&mut State) -> After) {
        let after = change(&mut self.lock());
        self.run_after(after);
    }

    /// The task of the stream.
    pub(super) async fn run<S: Serve>(
        self: Arc<Session>,
        receiver: Arc<Receiver<S>>,
        mut incoming: Incoming,
        certified: Certified,
    ) {
        let _ended = Ended { session: &self, receiver: &*receiver };
        let mut phase = receiver.phase.subscribe();
        let mut earlier = None;
        let open = self.open(&receiver, &mut incoming, certified, &mut earlier);
        let opened = tokio::select! {
            opened = timeout(receiver.options.open_timeout, open) => opened,
            // Its sender is in `receiver`.
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => Ok(Err(Broken::new("it has left the cluster"))),
        };
        let last = match opened {
            Ok(Ok(hello)) => {
                let from = hello.node.into();
                let reader = Reader { session: &self, receiver: &receiver, from, inbox: Inbox::new() };
                // Why a stream ended is the concern of its sender.
                let _ = reader.read(&mut incoming, &hello, phase).await;
                None
            }
            Ok(Err(Broken(reason))) => Some(Frame::Rejected(reason)),
            Err(_) if earlier.is_some() => {
                Some(Frame::Rejected("what the earlier stream has begun does not end".into()))
            }
            Err(_) => Some(Frame::Rejected("its hello did not arrive in time".into())),
        };
        self.end(last).await;
        // What this stream has not waited for, a later one waits for. (rule 6)
        if let Some(earlier) = earlier {
            earlier.has_ended().await;
        }
        // A later stream of the same node begins now.
        self.ended.send_replace(true);
        // The last frames leave before the stream is dropped, unless it takes none.
        let _ = timeout(receiver.options.open_timeout, self.answers_taken()).await;
    }

    /// Reads the hello, ends an earlier stream of the same node and answers.
    async fn open<S: Serve>(
        self: &Arc<Session>,
        receiver: &Receiver<S>,
        incoming: &mut Incoming,
        certified: Certified,
        earlier: &mut Option<Arc<Session>>,
    ) -> Result<Hello, Broken> {
        certified.map_err(Broken)?;
        let hello = match incoming.next().await {
            Some(Ok(Frame::Hello(hello))) => hello,
            Some(Err(broken)) => return Err(broken),
            Some(Ok(_)) | None => return Err(Broken::new("the first frame of the stream was no hello")),
        };
        let own = receiver.own.hello(None);
        if let Some(difference) = difference(&own, &hello) {
            return Err(Broken(difference));
        }
        if *receiver.phase.borrow() != Phase::Open {
            return Err(Broken::new("it leaves the cluster"));
        }
        *earlier = receiver.sessions().insert(hello.node.process, Arc::clone(self));
        if let Some(session) = earlier {
            // What the other node counts as lost must not begin behind what it sends now. (rule 6)
            session.superseded.notify_one();
            session.has_ended().await;
        }
        *earlier = None;
        self.with(|state| state.control(Frame::Hello(own)));
        Ok(hello)
    }

    /// Drops the requests that have not been answered, and ends the answers after one last frame.
    async fn end(&self, last: Option<Frame>) {
        let (tasks, after) = self.lock().end(last);
        self.run_after(after);
        // All first: one that does not yield holds up no other.
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            // An aborted task ends at its next await.
            let _ = task.await;
        }
    }

    /// Waits until nothing of this stream runs any more.
    async fn has_ended(&self) {
        // The sender is in `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(super) fn unanswered(&self) -> usize {
        self.lock().unanswered()
    }

    #[cfg(test)]
    pub(super) fn answer_bytes(&self) -> usize {
        self.lock().bytes()
    }

    async fn answers_taken(&self) {
        while !self.lock().is_taken() {
            self.changed.notified().await;
        }
    }

    /// Sends the one answer of a request. The text of an error is made by code of the user, and so before the lock is taken.
    fn answer(&self, id: u64, (outcome, body): (OutcomeFrame, Bytes), max: usize) {
        let (outcome, body) = if body.len() > max {
            Response::TooLarge(TooLarge { part: Part::Reply, size: body.len() as u64, max: max as u64 }).into_frame()
        } else {
            (outcome, body)
        };
        self.with(|state| state.answer(id, outcome, body));
    }
}

/// The room of a stream for answers. (rule 8)
pub(crate) struct AnswerRoom(Arc<Session>);

impl AnswerRoom {
    /// Waits until a reply may be encoded.
    pub(crate) async fn wait(&self) {
        let AnswerRoom(session) = self;
        if session.lock().has_room() {
            return;
        }
        // One of them waits for room: all others would wake in vain.
        let _turn = session.turn.lock().await;
        while !session.lock().has_room() {
            session.room.notified().await;
        }
    }
}

/// The answer of a request that runs. A task that ends without one is that of a request whose values have panicked in their
/// drop: it has sent no reply. Without an answer its sender would never have its part of the window again. (rule 5)
struct Answering {
    session: Arc<Session>,
    id: u64,
    max: usize,
    is_due: bool,
}

impl Answering {
    fn answer(mut self, response: Response) {
        let frame = response.into_frame();
        self.is_due = false;
        self.session.answer(self.id, frame, self.max);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.is_due {
            self.session.answer(self.id, Response::ReplyDropped.into_frame(), self.max);
        }
    }
}

/// Counts a session until its task has ended, however it ends.
struct Ended<'a, S> {
    session: &'a Arc<Session>,
    receiver: &'a Receiver<S>,
}

impl<S> Drop for Ended<'_, S> {
    fn drop(&mut self) {
        // A later stream of the node may have taken the place.
        self.receiver.sessions().retain(|_, session| !Arc::ptr_eq(session, self.session));
        self.session.ended.send_replace(true);
        self.receiver.live.send_modify(|live| *live -= 1);
    }
}

struct Reader<'a, S> {
    session: &'a Arc<Session>,
    receiver: &'a Arc<Receiver<S>>,
    from: NodeId,
    /// Bodies of which not all pieces have arrived. A refused one has no request.
    inbox: Inbox<Option<Pending>>,
}

struct Pending {
    request: Request,
    deadline: Instant,
}

impl<S: Serve> Reader<'_, S> {
    async fn read(
        mut self,
        incoming: &mut Incoming,
        hello: &Hello,
        mut phase: watch::Receiver<Phase>,
    ) -> Result<(), Broken> {
        let beat = Duration::from_millis(u64::from(hello.beat_millis).max(1));
        let mut ticks = interval(beat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut silent = 0;
        // It may have changed while the stream opened.
        phase.mark_changed();
        loop {
            let (may_read, is_dropped) = {
                let mut state = self.session.lock();
                (state.may_read(), state.is_stream_dropped())
            };
            if is_dropped {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.session.superseded.notified() => return Ok(()),
                frame = incoming.next(), if may_read => {
                    silent = 0;
                    match frame {
                        Some(frame) => self.frame(frame?).await?,
                        None => return Ok(()),
                    }
                    // Frames may be ready for ever. Other tasks run between them.
                    consume_budget().await;
                }
                () = self.session.changed.notified() => {}
                changed = phase.changed() => {
                    let now = *phase.borrow_and_update();
                    if changed.is_err() || now == Phase::Closed {
                        return Ok(());
                    }
                    if now == Phase::Leaving {
                        self.session.with(|state| state.control(Frame::GoAway(Empty {})));
                    }
                }
                _ = ticks.tick() => {
                    // While nothing is read, silence means nothing.
                    silent = if may_read { silent + 1 } else { 0 };
                    if silent > SILENT_BEATS {
                        return Err(Broken::new("nothing arrived"));
                    }
                }
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Request(frame) => self.request(frame),
            Frame::Piece(piece) => {
                if let Some((Some(pending), body)) = self.inbox.next(piece.id, &piece.body)? {
                    self.start(piece.id, pending, body);
                }
                Ok(())
            }
            Frame::Cancel(id) => {
                self.cancel(id).await;
                Ok(())
            }
            Frame::Ping(_) => {
                self.session.with(|state| state.control(Frame::Pong(Empty {})));
                Ok(())
            }
            _ => Err(Broken::new("a frame of the receiving side")),
        }
    }

    fn request(&mut self, frame: RequestFrame) -> Result<(), Broken> {
        let RequestFrame { id, verb, if_running, kind, name, key, within_micros, revision, size, body } = frame;
        let verb = Verb::from_code(verb).ok_or_else(|| Broken::new("an unknown verb"))?;
        let max = self.receiver.options.max_message as u64;
        let whole = size.saturating_add(key.len() as u64);
        let refused = if whole > max {
            Some(Response::TooLarge(TooLarge { part: Part::Message, size: whole, max }))
        } else if within_micros == 0 {
            Some(Response::Refused(Refusal::TooLate, Revision(0)))
        } else {
            let opened = self.session.lock().open(id, whole as usize)?;
            (!opened).then_some(Response::Refused(Refusal::Overloaded, Revision(0)))
        };
        let pending = match refused {
            Some(response) => {
                if let Response::Refused(refusal, _) = response {
                    self.receiver.serve.refused(refusal);
                }
                let (outcome, body) = response.into_frame();
                self.session.with(|state| state.refuse(id, outcome, body));
                None
            }
            None => {
                let (kind, name, key) = copied(&kind, &name, &key);
                let revision = Revision(revision);
                let request = Request { verb, if_running, kind, name, key, revision, body: Bytes::new() };
                // Longer than any call waits, and far from the end of time.
                let within = Duration::from_micros(within_micros).min(Duration::from_secs(365 * 24 * 3600));
                Some(Pending { request, deadline: Instant::now() + within })
            }
        };
        let wanted = pending.is_some();
        // The buffer that the frame was read into is larger than the piece, and holds other frames.
        let body = if body.len() < PIECE { Bytes::copy_from_slice(&body) } else { body };
        if let Some((Some(pending), body)) = self.inbox.first(id, pending, size, body, wanted)? {
            self.start(id, pending, body);
        }
        Ok(())
    }

    fn start(&self, id: u64, Pending { mut request, deadline }: Pending, body: Bytes) {
        request.body = body;
        let (session, receiver, from) = (Arc::clone(self.session), Arc::clone(self.receiver), self.from);
        let room = AnswerRoom(Arc::clone(&session));
        let answering = Answering { session, id, max: receiver.options.max_message, is_due: true };
        let task = tokio::spawn(async move {
            let response = if Instant::now() < deadline {
                // In a block, so that a panic before the first poll is caught as well.
                let serving = async { receiver.serve.serve(from, request, &room, deadline).await };
                let serving = AssertUnwindSafe(serving).catch_unwind();
                match timeout_at(deadline, serving).await {
                    Ok(Ok(response)) => response,
                    // Code of the user panicked, before the message began or in it.
                    Ok(Err(_)) => Response::ReplyDropped,
                    Err(_) => Response::TimedOut,
                }
            } else {
                receiver.serve.refused(Refusal::TooLate);
                Response::Refused(Refusal::TooLate, Revision(0))
            };
            answering.answer(response);
        });
        self.session.lock().started(id, task);
    }

    /// The sender no longer waits. When this returns, nothing of the request begins any more: the sender may already have sent
    /// its next message for the key. (rule 7)
    async fn cancel(&mut self, id: u64) {
        if self.inbox.cancel(id) {
            // It had no last piece, so the sender has no window for it any more, and expects no answer.
            self.session.with(|state| state.forget(id));
            return;
        }
        let task = self.session.lock().task(id);
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
            self.session.answer(id, Response::TimedOut.into_frame(), 0);
        }
    }
}

/// Copies the small parts of a request into one allocation of their size. The buffer that they arrived in holds other frames.
fn copied(kind: &[u8], name: &[u8], key: &[u8]) -> (Bytes, Bytes, Bytes) {
    let mut all = BytesMut::with_capacity(kind.len() + name.len() + key.len());
    all.extend_from_slice(kind);
    all.extend_from_slice(name);
    all.extend_from_slice(key);
    let mut all = all.freeze();
    let kind = all.split_to(kind.len());
    let name = all.split_to(name.len());
    (kind, name, all)
}

/// The frames for the other node, in the order in which they leave.
pub(crate) struct Answers {
    session: Arc<Session>,
}

impl Answers {
    pub(super) fn new(session: Arc<Session>) -> Answers {
        Answers { session }
    }
}

impl Stream for Answers {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let (frame, after) = self.session.lock().pop(cx.waker());
        self.session.run_after(after);
        frame
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.session.with(State::drop_stream);
    }
}
