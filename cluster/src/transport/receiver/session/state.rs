//! What a session knows of its requests and answers, under one lock. Nothing here waits or wakes.

use std::collections::HashMap;
use std::task::{Poll, Waker};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::transport::frame::{AnswerFrame, Broken, Frame, OutcomeFrame};
use crate::transport::outbox::{Head, Outbox, Popped};
use crate::transport::peer::Options;

impl Head for OutcomeFrame {
    fn frame(&self, id: u64, size: u64, body: Bytes) -> Frame {
        Frame::Answer(AnswerFrame { id, outcome: self.clone(), size, body })
    }
}

#[derive(Debug, Default)]
#[must_use = "it must be run without the lock"]
pub(super) struct After {
    pub(super) stream: Option<Waker>,
    pub(super) changed: bool,
    /// A reply waits for room, and there is some.
    pub(super) has_room: bool,
}

/// A request that has not been answered.
#[derive(Debug)]
struct Open {
    bytes: usize,
    /// Absent until the body is complete, and once the task is being aborted.
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct State {
    open: HashMap<u64, Open>,
    open_bytes: usize,
    outbox: Outbox<OutcomeFrame>,
    /// The answers, when they wait for frames.
    stream: Option<Waker>,
    /// No frame follows those in the outbox.
    ending: bool,
    /// The stream of the answers has been dropped.
    is_stream_dropped: bool,
    /// The reader waits for room.
    full: bool,
    /// A reply waits for room.
    is_room_wanted: bool,
    max_calls: usize,
    max_bytes: usize,
}

impl State {
    pub(super) fn new(options: &Options) -> State {
        State {
            open: HashMap::new(),
            open_bytes: 0,
            outbox: Outbox::new(),
            stream: None,
            ending: false,
            is_stream_dropped: false,
            full: false,
            is_room_wanted: false,
            max_calls: options.window_calls,
            max_bytes: options.window_bytes,
        }
    }

    fn wake(&mut self) -> After {
        After { stream: self.stream.take(), ..After::default() }
    }

    /// Registers a request, if the window has room. A sender with the same options never exceeds it.
    pub(super) fn open(&mut self, id: u64, bytes: usize) -> Result<bool, Broken> {
        if self.open.contains_key(&id) {
            return Err(Broken::new("an id is used twice"));
        }
        // As the sender counts: a message larger than the window takes all of it.
        let full = self.open.len() >= self.max_calls
            || (self.open_bytes.saturating_add(bytes) > self.max_bytes && !self.open.is_empty());
        if full || self.ending {
            return Ok(false);
        }
        self.open_bytes += bytes;
        self.open.insert(id, Open { bytes, task: None });
        Ok(true)
    }

    /// Its task runs, and may have ended already.
    pub(super) fn started(&mut self, id: u64, task: JoinHandle<()>) {
        match self.open.get_mut(&id) {
            Some(open) => open.task = Some(task),
            None => drop(task),
        }
    }

    pub(super) fn task(&mut self, id: u64) -> Option<JoinHandle<()>> {
        self.open.get_mut(&id)?.task.take()
    }

    /// Removes a request without an answer.
    pub(super) fn forget(&mut self, id: u64) -> After {
        if let Some(open) = self.open.remove(&id) {
            self.open_bytes -= open.bytes;
        }
        After::default()
    }

    /// Queues the one answer of an open request.
    pub(super) fn answer(&mut self, id: u64, outcome: OutcomeFrame, body: Bytes) -> After {
        let Some(open) = self.open.remove(&id) else { return After::default() };
        self.open_bytes -= open.bytes;
        self.push(id, outcome, body)
    }

    /// Queues the answer of a request that was not opened.
    pub(super) fn refuse(&mut self, id: u64, outcome: OutcomeFrame, body: Bytes) -> After {
        self.push(id, outcome, body)
    }

    fn push(&mut self, id: u64, outcome: OutcomeFrame, body: Bytes) -> After {
        if self.ending {
            return After::default();
        }
        self.outbox.push(id, outcome, body);
        self.wake()
    }

    pub(super) fn control(&mut self, frame: Frame) -> After {
        if !self.ending {
            self.outbox.push_control(frame);
        }
        self.wake()
    }

    /// Whether requests may be read: the other node takes its answers.
    pub(super) fn may_read(&mut self) -> bool {
        self.full = self.outbox.messages() + self.outbox.control_len() > 2 * self.max_calls
            || self.outbox.bytes() > self.max_bytes;
        !self.full
    }

    /// Whether one more reply may be encoded. If not, what [`pop`](Self::pop) returns says when. (rule 8)
    pub(super) fn has_room(&mut self) -> bool {
        self.is_room_wanted = self.outbox.bytes() > self.max_bytes && !self.is_stream_dropped;
        !self.is_room_wanted
    }

    /// The bytes of the answers that have not left.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// How many requests have not been answered, or their answers have not left.
    pub(super) fn unanswered(&self) -> usize {
        self.open.len() + self.outbox.messages()
    }

    pub(super) fn is_stream_dropped(&self) -> bool {
        self.is_stream_dropped
    }

    /// Whether all frames have been taken.
    pub(super) fn is_taken(&self) -> bool {
        self.is_stream_dropped || self.outbox.is_empty()
    }

    pub(super) fn pop(&mut self, waker: &Waker) -> (Poll<Option<Frame>>, After) {
        match self.outbox.pop(true) {
            Some(Popped::Frame(frame) | Popped::Last(_, frame)) => {
                let changed = self.full || (self.ending && self.outbox.is_empty());
                let has_room = self.is_room_wanted && self.has_room();
                (Poll::Ready(Some(frame)), After { stream: None, changed, has_room })
            }
            None if self.ending => (Poll::Ready(None), After::default()),
            None => {
                self.stream = Some(waker.clone());
                (Poll::Pending, After::default())
            }
        }
    }

    /// The answers were dropped: the stream is broken.
    pub(super) fn drop_stream(&mut self) -> After {
        self.is_stream_dropped = true;
        self.outbox.clear();
        After { stream: None, changed: true, has_room: true }
    }

    /// The stream ends. Returns the tasks of the requests that have not been answered.
    pub(super) fn end(&mut self, last: Option<Frame>) -> (Vec<JoinHandle<()>>, After) {
        self.ending = true;
        self.outbox.clear();
        if let Some(last) = last {
            self.outbox.push_control(last);
        }
        self.open_bytes = 0;
        let tasks = self.open.drain().filter_map(|(_, open)| open.task).collect();
        (tasks, self.wake())
    }
}
