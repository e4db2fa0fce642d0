//! [`Room`]: the worker. It has the last messages, and sends each new one to the pages in the room.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use gen_registry::{ActiveGuard, BuildError, Context, Eviction, Registry, Reply, Restart, Worker};
use serde::Serialize;
use tokio::sync::{broadcast, watch};

/// How many messages a room remembers.
pub(crate) const KEPT: usize = 50;
/// How many messages a page may be behind before it is disconnected.
pub(crate) const QUEUED: usize = 64;
pub(crate) const MAX_ROOMS: usize = 1_000;
/// How long a room without pages remembers its messages.
const IDLE: Duration = Duration::from_secs(600);

/// The supervisor of the rooms. A room is restarted when it crashes, at most three times in five seconds: the defaults
/// of OTP.
pub(crate) fn supervisor(max_rooms: usize) -> Result<Registry<Room>, BuildError> {
    Registry::builder()
        .restart(Restart::Permanent)
        .restart_intensity(3, Duration::from_secs(5))
        .idle_timeout(IDLE)
        .max_workers(max_rooms)
        .eviction(Eviction::LeastRecentlyActive) // only rooms without pages: see `Joined`
        .build()
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) from: String,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) enum Message {
    Add(Arc<Line>),
    /// All messages, the newest first, as in the article.
    Get(Reply<Vec<Arc<Line>>>),
    Join(Reply<Joined>),
    /// A page that had joined has dropped its [`Joined`].
    Left,
}

/// The room as a page follows it. Both channels close when the room's run ends.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The oldest first.
    pub(crate) lines: Vec<Arc<Line>>,
    /// The messages after `lines`. The queue is bounded, and the room never waits for a page: a page that is too far
    /// behind gets `Lagged`.
    pub(crate) said: broadcast::Receiver<Arc<Line>>,
    /// How many pages are in the room.
    pub(crate) here: watch::Receiver<usize>,
    /// While a page is in the room, the room neither idles nor is evicted.
    _active: ActiveGuard,
}

#[derive(Debug)]
pub(crate) struct Room {
    /// The newest first.
    lines: VecDeque<Arc<Line>>,
    said: broadcast::Sender<Arc<Line>>,
    here: watch::Sender<usize>,
}

impl Worker for Room {
    type Key = String;
    type Args = ();
    type Message = Message;
    type Error = Infallible;

    /// Runs at the first start and after each crash. A room always begins empty.
    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self { lines: VecDeque::new(), said: broadcast::Sender::new(QUEUED), here: watch::Sender::new(0) })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Add(line) => {
                self.lines.truncate(KEPT - 1);
                self.lines.push_front(Arc::clone(&line));
                // An error means that no page is in the room.
                let _ = self.said.send(line);
            }
            Message::Get(reply) => reply.send(self.lines.iter().cloned().collect()),
            Message::Join(reply) => {
                let joined = Joined {
                    lines: self.lines.iter().rev().cloned().collect(),
                    said: self.said.subscribe(),
                    here: self.here.subscribe(),
                    _active: ctx.keep_active(),
                };
                self.here.send_replace(self.said.receiver_count());
                reply.send(joined);
            }
            Message::Left => drop(self.here.send_replace(self.said.receiver_count())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_keeps_the_last_messages() {
        let rooms = supervisor(1).unwrap();
        let room = rooms.via_or_start("tea", ());
        for text in 0..2 * KEPT {
            let line = Line { from: "ada".to_owned(), text: text.to_string() };
            within(room.cast(Message::Add(Arc::new(line))), "a message").await.unwrap();
        }
        let lines = within(room.call(Message::Get), "the messages").await.unwrap();
        let texts = lines.iter().map(|line| line.text.parse::<usize>().unwrap());
        assert!(texts.eq((KEPT..2 * KEPT).rev()), "{lines:?}");
    }

    /// A page keeps its room. Without pages, the room ends and its messages with it.
    #[tokio::test(start_paused = true)]
    async fn room_idles_when_its_pages_have_left() {
        let rooms = supervisor(1).unwrap();
        let room = rooms.start("tea", ()).await.unwrap();
        let page = within(room.call(Message::Join), "the join").await.unwrap();
        tokio::time::sleep(10 * IDLE).await;
        assert_eq!(rooms.count(), 1);
        drop(page);
        // The clock is paused: this waits for nothing but the idle timeout.
        assert_eq!(room.closed().await.to_string(), gen_registry::ExitReason::Idle.to_string());
        assert_eq!(rooms.count(), 0);
    }
}
