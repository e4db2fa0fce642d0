//! The streams to the other node: opening, reading, pings, the waits between them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::task::coop::consume_budget;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::codec::Part;
use crate::error::{TooLarge, Unreachable};
use crate::transport::Incoming;
use crate::transport::frame::{AnswerFrame, Broken, Frame, Hello, OutcomeFrame};
use crate::transport::hello::difference;
use crate::transport::inbox::Inbox;
use crate::transport::peer::Shared;
use crate::transport::request::Response;

/// A stream is closed when this many pings in a row have had no answer, nor anything else has arrived.
pub(crate) const MISSED_PINGS: u32 = 3;

/// Opens a stream whenever a request waits.
pub(super) async fn drive(shared: Arc<Shared>) {
    let (first, longest) = shared.options.backoff;
    let mut backoff = first;
    loop {
        if shared.lock().is_closed() {
            return;
        }
        // A request that arrives between the look and the wait has notified, and the wait is over at once.
        if !shared.lock().wants_stream() {
            shared.wanted.notified().await;
            continue;
        }
        let was_up = stream(&shared).await;
        if was_up {
            backoff = first;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(longest);
    }
}

/// Marks the stream as ended, also if the task that reads it is dropped.
struct EndsStream<'a> {
    shared: &'a Shared,
    reason: String,
}

impl Drop for EndsStream<'_> {
    fn drop(&mut self) {
        let reason = Unreachable::new(format!("{}: {}", self.shared.address, self.reason));
        let mut state = self.shared.lock();
        // A closed peer has no stream, and keeps the reason of its end.
        let after = if state.is_closed() { Default::default() } else { state.broken(reason) };
        drop(state);
        self.shared.run(after);
    }
}

/// Opens a stream and reads it to its end. Returns whether it was up.
async fn stream(shared: &Arc<Shared>) -> bool {
    let generation = shared.lock().begin();
    let mut end = EndsStream { shared, reason: "the runtime was shut down".into() };
    let opened = timeout(shared.options.open_timeout, open(shared, generation)).await;
    let (hello, incoming) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(broken)) => {
            end.reason = broken.0;
            return false;
        }
        Err(_) => {
            end.reason = "the stream did not open in time".into();
            return false;
        }
    };
    let after = shared.lock().up(hello);
    shared.run(after);
    let Broken(reason) = Reader { shared, generation, inbox: Inbox::new() }.read(incoming).await;
    end.reason = reason;
    true
}

async fn open(shared: &Arc<Shared>, generation: u64) -> Result<(Hello, Incoming), Broken> {
    let own = shared.own.hello(Some(shared.node));
    let outgoing = Outgoing { shared: Arc::clone(shared), generation, hello: Some(own.clone()) };
    let mut incoming = shared.connect.connect(&shared.address, outgoing).await?;
    match incoming.next().await {
        Some(Ok(Frame::Hello(hello))) => match difference(&hello, &own) {
            Some(difference) => Err(Broken(difference)),
            None => Ok((hello, incoming)),
        },
        Some(Ok(Frame::Rejected(reason))) => Err(Broken(reason)),
        Some(Ok(_)) => Err(Broken::new("its first frame is no hello")),
        Some(Err(broken)) => Err(broken),
        None => Err(ended()),
    }
}

fn ended() -> Broken {
    Broken::new("it closed the stream")
}

struct Reader<'a> {
    shared: &'a Shared,
    generation: u64,
    inbox: Inbox<OutcomeFrame>,
}

impl Reader<'_> {
    async fn read(mut self, mut incoming: Incoming) -> Broken {
        let mut ticks = interval(self.shared.own.beat);
        // After a pause of the process the other node has a whole beat for its answer.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut missed = 0;
        loop {
            tokio::select! {
                biased;
                frame = incoming.next() => {
                    missed = 0;
                    let frame = match frame {
                        Some(Ok(frame)) => frame,
                        Some(Err(broken)) => return broken,
                        None => return ended(),
                    };
                    if let Err(broken) = self.frame(frame) {
                        return broken;
                    }
                    // Frames may be ready for ever. Other tasks run between them.
                    consume_budget().await;
                }
                _ = ticks.tick() => {
                    if missed == MISSED_PINGS {
                        return Broken::new("it did not answer pings");
                    }
                    missed += 1;
                    let after = self.shared.lock().ping();
                    self.shared.run(after);
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Answer(AnswerFrame { id, outcome, size, body }) => {
                let max = self.shared.options.max_message as u64;
                if size > max {
                    let error = Response::TooLarge(TooLarge { part: Part::Reply, size, max });
                    self.settle(id, error)?;
                }
                if let Some((outcome, body)) = self.inbox.first(id, outcome, size, body, size <= max)? {
                    self.answer(id, outcome, body)?;
                }
            }
            Frame::Piece(piece) => {
                if let Some((outcome, body)) = self.inbox.next(piece.id, &piece.body)? {
                    self.answer(piece.id, outcome, body)?;
                }
            }
            Frame::GoAway(_) => {
                let after = self.shared.lock().leaving();
                self.shared.run(after);
                return self.ends_when_answered();
            }
            Frame::Rejected(reason) => return Err(Broken(reason)),
            Frame::Pong(_) => {}
            Frame::Hello(_) | Frame::Request(_) | Frame::Cancel(_) | Frame::Ping(_) => {
                return Err(Broken::new("it sent a frame of the sending side"));
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: u64, outcome: OutcomeFrame, body: Bytes) -> Result<(), Broken> {
        self.settle(id, Response::from_frame(outcome, body)?)
    }

    fn settle(&mut self, id: u64, response: Response) -> Result<(), Broken> {
        let (after, leaving) = {
            let mut state = self.shared.lock();
            (state.settle(self.generation, id, response), state.is_leaving())
        };
        self.shared.run(after);
        if leaving { self.ends_when_answered() } else { Ok(()) }
    }

    /// The other node leaves when it has answered everything, and waits for the end of the stream.
    fn ends_when_answered(&self) -> Result<(), Broken> {
        if self.shared.lock().awaits_answers() { Ok(()) } else { Err(Broken::new("it leaves the cluster")) }
    }
}

/// The frames for the other node, in the order in which they leave. A frame that is taken from here has left.
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
    generation: u64,
    hello: Option<Hello>,
}

impl Stream for Outgoing {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(Frame::Hello(hello)));
        }
        let (popped, after) = self.shared.lock().pop(self.generation, cx.waker());
        self.shared.run(after);
        match popped {
            Some(frame) => Poll::Ready(frame),
            None => Poll::Pending,
        }
    }
}
