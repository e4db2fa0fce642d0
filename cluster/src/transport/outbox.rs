//! What waits to leave for a stream, in the order in which it leaves.
//!
//! Control frames first: they are few and small. Then messages whose body fits one piece, in the order of their ids, and in
//! turn with them the pieces of larger bodies, of at most [`LANES`] at a time. After each piece small messages may leave until
//! they have as many bytes, so neither holds up the other.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::transport::frame::{Frame, LANES, PIECE, Piece};

/// What is known of a message besides its body.
pub(crate) trait Head {
    /// The first frame of the message, with the first piece of its body.
    fn frame(&self, id: u64, size: u64, body: Bytes) -> Frame;
}

#[derive(Debug)]
struct Lane<H> {
    id: u64,
    head: H,
    body: Bytes,
    /// How much of the body has left.
    at: usize,
}

/// A frame that leaves.
#[derive(Debug)]
pub(crate) enum Popped {
    /// It belongs to no message, or is not the last one of its message.
    Frame(Frame),
    /// The message with this id has left.
    Last(u64, Frame),
}

/// What [`Outbox::remove`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// No part of the message has left.
    Whole,
    /// Some of its pieces have left, but not the last.
    Begun,
    Absent,
}

#[derive(Debug)]
pub(crate) struct Outbox<H> {
    control: VecDeque<Frame>,
    small: BTreeMap<u64, (H, Bytes)>,
    large: BTreeMap<u64, (H, Bytes)>,
    lanes: VecDeque<Lane<H>>,
    /// How many bytes of small messages may leave before the next piece.
    credit: usize,
    /// The bytes of all bodies.
    bytes: usize,
}

impl<H: Head> Outbox<H> {
    pub(crate) fn new() -> Outbox<H> {
        Outbox {
            control: VecDeque::new(),
            small: BTreeMap::new(),
            large: BTreeMap::new(),
            lanes: VecDeque::new(),
            credit: PIECE,
            bytes: 0,
        }
    }

    pub(crate) fn push_control(&mut self, frame: Frame) {
        self.control.push_back(frame);
    }

    pub(crate) fn push(&mut self, id: u64, head: H, body: Bytes) {
        self.bytes += body.len();
        let queue = if body.len() <= PIECE { &mut self.small } else { &mut self.large };
        queue.insert(id, (head, body));
    }

    /// The number of messages that have not left completely.
    pub(crate) fn messages(&self) -> usize {
        self.small.len() + self.large.len() + self.lanes.len()
    }

    pub(crate) fn control_len(&self) -> usize {
        self.control.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages() == 0 && self.control.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next control frame, or with `messages` the next frame of any kind.
    pub(crate) fn pop(&mut self, messages: bool) -> Option<Popped> {
        if let Some(frame) = self.control.pop_front() {
            return Some(Popped::Frame(frame));
        }
        if !messages {
            return None;
        }
        while self.lanes.len() < LANES {
            let Some((id, (head, body))) = self.large.pop_first() else { break };
            self.lanes.push_back(Lane { id, head, body, at: 0 });
        }
        if self.lanes.is_empty() {
            self.credit = PIECE;
        } else if self.credit == 0 || self.small.is_empty() {
            return self.pop_piece();
        }
        let (id, (head, body)) = self.small.pop_first()?;
        self.bytes -= body.len();
        // An empty body is not free of charge.
        self.credit = self.credit.saturating_sub(body.len() + 64);
        Some(Popped::Last(id, head.frame(id, body.len() as u64, body)))
    }

    fn pop_piece(&mut self) -> Option<Popped> {
        self.credit = PIECE;
        let mut lane = self.lanes.pop_front()?;
        let end = lane.body.len().min(lane.at + PIECE);
        let piece = lane.body.slice(lane.at..end);
        let frame = match lane.at {
            0 => lane.head.frame(lane.id, lane.body.len() as u64, piece),
            _ => Frame::Piece(Piece { id: lane.id, body: piece }),
        };
        lane.at = end;
        if end == lane.body.len() {
            self.bytes -= end;
            return Some(Popped::Last(lane.id, frame));
        }
        self.lanes.push_back(lane);
        Some(Popped::Frame(frame))
    }

    /// Removes a message that has not left completely.
    pub(crate) fn remove(&mut self, id: u64) -> Removed {
        let whole = self.small.remove(&id).or_else(|| self.large.remove(&id));
        if let Some((_, body)) = whole {
            self.bytes -= body.len();
            return Removed::Whole;
        }
        let Some(place) = self.lanes.iter().position(|lane| lane.id == id) else { return Removed::Absent };
        let Some(lane) = self.lanes.remove(place) else { return Removed::Absent };
        self.bytes -= lane.body.len();
        if lane.at == 0 { Removed::Whole } else { Removed::Begun }
    }

    /// Puts the bodies whose last piece has not left back into the queue, and returns the ids of those with a piece that has.
    pub(crate) fn rewind(&mut self) -> Vec<u64> {
        let mut begun = Vec::new();
        for Lane { id, head, body, at } in self.lanes.drain(..) {
            if at > 0 {
                begun.push(id);
            }
            self.large.insert(id, (head, body));
        }
        begun
    }

    /// Forgets the control frames: they belong to a stream that has ended.
    pub(crate) fn clear_control(&mut self) {
        self.control.clear();
    }

    /// Removes everything and returns the ids of the messages.
    pub(crate) fn clear(&mut self) -> Vec<u64> {
        self.control.clear();
        self.bytes = 0;
        let mut ids: Vec<u64> = self.lanes.drain(..).map(|lane| lane.id).collect();
        ids.extend(std::mem::take(&mut self.small).into_keys());
        ids.extend(std::mem::take(&mut self.large).into_keys());
        ids
    }
}

#[cfg(test)]
mod tests;
