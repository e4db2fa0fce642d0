//! What a peer knows of its requests, under one lock. Nothing here waits or wakes: what must run without the lock is returned.

use std::collections::HashMap;
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::error::{Unreachable, Why};
use crate::transport::frame::{Empty, Frame, Hello, RequestFrame};
use crate::transport::outbox::{Head, Outbox, Popped, Removed};
use crate::transport::outcome::{NotSent, Outcome};
use crate::transport::peer::window::{Part, Window};
use crate::transport::request::{Request, Response};

/// The stream to the other node.
#[derive(Debug, Clone)]
pub(super) enum Link {
    /// There is none, and why the last one ended or did not open.
    Down(Option<Unreachable>),
    /// The hello of the other node has not arrived.
    Opening(Option<Unreachable>),
    Up,
    /// The other node leaves. Nothing more is sent; answers still arrive.
    Leaving,
}

/// A request without its body, until it has left.
#[derive(Debug)]
pub(super) struct RequestHead {
    request: Request,
    deadline: Instant,
}

impl Head for RequestHead {
    fn frame(&self, id: u64, size: u64, body: Bytes) -> Frame {
        let within = self.deadline.saturating_duration_since(Instant::now());
        Frame::Request(RequestFrame {
            id,
            verb: self.request.verb.code(),
            if_running: self.request.if_running,
            kind: self.request.kind.clone(),
            name: self.request.name.clone(),
            key: self.request.key.clone(),
            within_micros: u64::try_from(within.as_micros()).unwrap_or(u64::MAX),
            revision: self.request.revision.0,
            size,
            body,
        })
    }
}

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Open {
    /// Absent once the caller no longer waits.
    caller: Option<oneshot::Sender<Outcome>>,
    deadline: Instant,
    phase: Phase,
    /// Its part of the window, from the time when it is queued until the receiver has answered. (rule 5)
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// For the window.
    Waiting,
    /// In the outbox.
    Queued,
    /// The last piece has left. (rule 2)
    Sent,
}

impl Open {
    fn is_sent(&self) -> bool {
        self.phase == Phase::Sent
    }
}

/// What is done without the lock: the outcomes of ended requests, and the stream.
#[derive(Debug, Default)]
#[must_use = "it must be run without the lock"]
pub(super) struct After {
    ended: Vec<(Open, Outcome)>,
    stream: Option<Waker>,
    /// Something waits, and there is no stream.
    wants_stream: bool,
}

/// What [`State::abandon`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// The request had not left. It never begins.
    TakenBack,
    /// It had left. The receiver is asked to cancel it.
    Sent,
    /// It has ended, and its outcome is on its way to the caller.
    Ended,
}

impl After {
    pub(super) fn run(self, wanted: &Notify) {
        if self.wants_stream {
            wanted.notify_one();
        }
        for (open, outcome) in self.ended {
            if let Some(caller) = open.caller {
                // The caller may have been dropped just now. Then nothing waits for the outcome.
                let _ = caller.send(outcome);
            }
        }
        if let Some(stream) = self.stream {
            stream.wake();
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) link: Link,
    /// The number of the stream. Frames of an earlier one are neither sent nor read.
    pub(super) generation: u64,
    /// What the other node said of itself.
    pub(super) hello: Option<Hello>,
    /// Why no request is accepted any more.
    closed: Option<NotSent>,
    next_id: u64,
    open: HashMap<u64, Open>,
    window: Window<(RequestHead, Bytes)>,
    window_size: usize,
    outbox: Outbox<RequestHead>,
    /// The stream, when it waits for frames.
    stream: Option<Waker>,
}

impl State {
    pub(super) fn new(window_size: usize) -> State {
        State {
            link: Link::Down(None),
            generation: 0,
            hello: None,
            closed: None,
            next_id: 0,
            open: HashMap::new(),
            window: Window::new(window_size),
            window_size,
            outbox: Outbox::new(),
            stream: None,
        }
    }

    pub(super) fn is_sent(&self, id: u64) -> bool {
        self.open.get(&id).is_some_and(Open::is_sent)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.open.len() - self.window.waiting()
    }

    /// Whether a stream is wanted: something waits to be sent.
    pub(super) fn wants_stream(&self) -> bool {
        self.closed.is_none() && self.outbox.messages() > 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Why a request that was not sent in time was not.
    pub(super) fn late(&self) -> NotSent {
        if let Some(closed) = &self.closed {
            return closed.clone();
        }
        match &self.link {
            Link::Down(error) | Link::Opening(error) => NotSent::Unreachable(
                error.clone().unwrap_or_else(|| Unreachable::new("the stream did not open in time")),
            ),
            Link::Up => NotSent::Overloaded,
            Link::Leaving => NotSent::Leaving,
        }
    }

    /// Queues a request, or lets it wait for the window. Its outcome goes to the receiver that is returned.
    pub(super) fn push(
        &mut self,
        mut request: Request,
        deadline: Instant,
        part: Part,
    ) -> Result<(u64, oneshot::Receiver<Outcome>, After), NotSent> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        self.next_id += 1;
        let id = self.next_id;
        let (caller, outcome) = oneshot::channel();
        let body = std::mem::take(&mut request.body);
        let entered = self.window.enter(id, part, (RequestHead { request, deadline }, body));
        let phase = if entered.is_some() { Phase::Queued } else { Phase::Waiting };
        self.open.insert(id, Open { caller: Some(caller), deadline, phase, part });
        match entered {
            Some((head, body)) => self.outbox.push(id, head, body),
            // Not for those that have too much of the window.
            None => self.admit(),
        }
        let wants_stream = matches!(self.link, Link::Down(_));
        Ok((id, outcome, self.wake_stream(After { wants_stream, ..After::default() })))
    }

    /// Queues what has waited for the window and fits now.
    fn admit(&mut self) {
        while let Some((id, (head, body))) = self.window.next() {
            if let Some(open) = self.open.get_mut(&id) {
                open.phase = Phase::Queued;
            }
            self.outbox.push(id, head, body);
        }
    }

    /// Ends a request, whose part of the window others may have. They are queued for the stream, which the caller wakes.
    fn end(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if open.phase == Phase::Waiting {
            // Dropped with its body.
            let _ = self.window.remove(id, open.part.shard);
        } else {
            self.window.leave(open.part);
        }
        self.admit();
        Some(open)
    }

    fn wake_stream(&mut self, after: After) -> After {
        After { stream: self.stream.take(), ..after }
    }

    /// The next frame for the stream, or keeps the waker. `None` if the stream has ended.
    pub(super) fn pop(&mut self, generation: u64, waker: &Waker) -> (Option<Option<Frame>>, After) {
        let mut after = After::default();
        if generation != self.generation {
            return (Some(None), after);
        }
        let messages = matches!(self.link, Link::Up);
        loop {
            let (id, frame) = match self.outbox.pop(messages) {
                Some(Popped::Frame(frame)) => return (Some(Some(frame)), after),
                Some(Popped::Last(id, frame)) => (id, frame),
                None => break,
            };
            // Every message in the outbox is open: both are removed under one lock.
            let Some(open) = self.open.get_mut(&id) else { continue };
            if Instant::now() < open.deadline || matches!(frame, Frame::Piece(_)) {
                open.phase = Phase::Sent;
                return (Some(Some(frame)), after);
            }
            // Its caller is about to notice the deadline. The receiver would drop it unbegun.
            if let Some(open) = self.end(id) {
                let outcome = Outcome::NotSent(self.late());
                after.ended.push((open, outcome));
            }
        }
        if !self.stream.as_ref().is_some_and(|stream| stream.will_wake(waker)) {
            self.stream = Some(waker.clone());
        }
        (None, after)
    }

    /// The caller stops waiting.
    pub(super) fn abandon(&mut self, id: u64) -> (Abandoned, After) {
        let mut after = After::default();
        let Some(open) = self.open.get_mut(&id) else { return (Abandoned::Ended, after) };
        if open.is_sent() {
            // It keeps its window until the receiver has answered. (rule 5)
            if open.caller.take().is_some() {
                self.outbox.push_control(Frame::Cancel(id));
                after = self.wake_stream(after);
            }
            return (Abandoned::Sent, after);
        }
        if self.outbox.remove(id) == Removed::Begun {
            self.outbox.push_control(Frame::Cancel(id));
        }
        // The caller has the outcome from what this returns.
        drop(self.end(id));
        (Abandoned::TakenBack, self.wake_stream(after))
    }

    /// The receiver has answered.
    pub(super) fn settle(&mut self, generation: u64, id: u64, response: Response) -> After {
        let mut after = After::default();
        if generation != self.generation {
            return after;
        }
        let is_sent = self.is_sent(id);
        let Some(open) = self.end(id) else { return after };
        // A receiver may refuse a body before all of its pieces have arrived.
        if !is_sent && self.outbox.remove(id) == Removed::Begun {
            self.outbox.push_control(Frame::Cancel(id));
        }
        if !self.outbox.is_empty() {
            after = self.wake_stream(after);
        }
        after.ended.push((open, Outcome::Answered(response)));
        after
    }

    /// Begins a stream and returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        let error = match &self.link {
            Link::Down(error) | Link::Opening(error) => error.clone(),
            Link::Up | Link::Leaving => None,
        };
        self.link = Link::Opening(error);
        self.generation += 1;
        self.generation
    }

    /// The hello of the other node agrees.
    pub(super) fn up(&mut self, hello: Hello) -> After {
        self.hello = Some(hello);
        self.link = Link::Up;
        self.wake_stream(After::default())
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.link, Link::Leaving)
    }

    /// Whether a request has been sent and not answered.
    pub(super) fn awaits_answers(&self) -> bool {
        self.open.values().any(Open::is_sent)
    }

    /// The other node leaves: nothing more is sent.
    pub(super) fn leaving(&mut self) -> After {
        self.link = Link::Leaving;
        for id in self.outbox.rewind() {
            self.outbox.push_control(Frame::Cancel(id));
        }
        self.wake_stream(After::default())
    }

    pub(super) fn ping(&mut self) -> After {
        self.outbox.push_control(Frame::Ping(Empty {}));
        self.wake_stream(After::default())
    }

    /// The stream has ended. What was sent may have run; what was not waits for the next stream. (rule 3)
    pub(super) fn broken(&mut self, reason: Unreachable) -> After {
        self.generation += 1;
        self.link = Link::Down(Some(reason));
        // A body whose last piece has not left never begins at the receiver: it is sent again from its first piece.
        self.outbox.rewind();
        self.outbox.clear_control();
        let sent: Vec<u64> = self.open.iter().filter(|(_, open)| open.is_sent()).map(|(id, _)| *id).collect();
        let lost = |id| self.end(id).map(|open| (open, Outcome::Lost(Why::ConnectionLost)));
        let ended = sent.into_iter().filter_map(lost).collect();
        After { ended, stream: self.stream.take(), wants_stream: false }
    }

    /// No request is accepted any more. What was sent has the outcome `Lost`, at once.
    pub(super) fn close(&mut self, closed: NotSent) -> After {
        if self.closed.is_some() {
            return After::default();
        }
        let lost = closed.lost();
        self.generation += 1;
        self.link = Link::Down(None);
        self.outbox.clear();
        self.window.clear(self.window_size);
        let ended = self
            .open
            .drain()
            .map(|(_, open)| {
                let outcome =
                    if open.is_sent() { Outcome::Lost(lost.clone()) } else { Outcome::NotSent(closed.clone()) };
                (open, outcome)
            })
            .collect();
        self.closed = Some(closed);
        After { ended, stream: self.stream.take(), wants_stream: true }
    }
}
