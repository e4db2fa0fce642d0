//! Bodies that arrive in pieces.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use crate::transport::frame::{Broken, LANES};

#[derive(Debug)]
struct Assembly<H> {
    head: H,
    size: usize,
    received: usize,
    /// Absent if the body is not wanted: its pieces are counted and dropped.
    body: Option<BytesMut>,
}

/// The bodies of which not all pieces have arrived.
#[derive(Debug)]
pub(crate) struct Inbox<H> {
    open: HashMap<u64, Assembly<H>>,
}

impl<H> Inbox<H> {
    pub(crate) fn new() -> Inbox<H> {
        Inbox { open: HashMap::new() }
    }

    /// The first piece of a body of `size` bytes, and whether the body is wanted. Returns the body when it is complete.
    ///
    /// # Errors
    ///
    /// [`Broken`] if no node of this protocol sends such a piece. The sizes are numbers of the other node, so no memory is
    /// reserved by them.
    pub(crate) fn first(
        &mut self,
        id: u64,
        head: H,
        size: u64,
        piece: Bytes,
        wanted: bool,
    ) -> Result<Option<(H, Bytes)>, Broken> {
        let size = usize::try_from(size).map_err(|_| Broken::new("a body is larger than memory"))?;
        if piece.len() >= size {
            return if piece.len() == size { Ok(Some((head, piece))) } else { Err(longer()) };
        }
        if piece.is_empty() {
            return Err(empty());
        }
        if self.open.len() == LANES {
            return Err(Broken::new("too many bodies arrive in pieces at a time"));
        }
        let received = piece.len();
        let body = wanted.then(|| BytesMut::from(piece));
        match self.open.insert(id, Assembly { head, size, received, body }) {
            None => Ok(None),
            Some(_) => Err(Broken::new("an id is used twice")),
        }
    }

    /// The next piece. Returns the head and the body when it is complete; the body is empty if it was not wanted.
    pub(crate) fn next(&mut self, id: u64, piece: &[u8]) -> Result<Option<(H, Bytes)>, Broken> {
        let assembly = self.open.get_mut(&id).ok_or_else(|| Broken::new("a piece of an unknown body"))?;
        if piece.is_empty() {
            return Err(empty());
        }
        assembly.received += piece.len();
        if assembly.received > assembly.size {
            return Err(longer());
        }
        if let Some(body) = &mut assembly.body {
            body.extend_from_slice(piece);
        }
        if assembly.received < assembly.size {
            return Ok(None);
        }
        let complete = self.open.remove(&id);
        Ok(complete.map(|assembly| (assembly.head, assembly.body.unwrap_or_default().freeze())))
    }

    /// The sender will not complete this body.
    pub(crate) fn cancel(&mut self, id: u64) -> bool {
        self.open.remove(&id).is_some()
    }
}

fn longer() -> Broken {
    Broken::new("a body is longer than announced")
}

fn empty() -> Broken {
    Broken::new("a piece is empty")
}
