//! [`Envelope`]: a message with what the queue must know about it.

use std::hint::black_box;

/// Whether a caller waits for a reply. The hook `on_undelivered` gets the casts that are lost; for a call the drop of
/// its reply notifies the caller.
///
/// One word wide, because envelopes are copied word by word: a byte that was just stored could not be forwarded to the
/// load of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum MessageKind {
    Cast,
    Call,
}

/// An accepted message. Created in place in the queue; until then message and kind travel separately.
///
/// `message` is the first field so that it is loaded in the widths in which it was stored (store-to-load forwarding).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Envelope<M> {
    pub(crate) message: M,
    pub(crate) kind: MessageKind,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    Full,
}

/// The number of an accepted message, counted per mailbox from 1.
pub(crate) type Sequence = u64;

/// Messages over this size in bytes are large.
const LARGE: usize = 512;

/// Keeps LLVM from splitting a large message into words, on cold paths.
///
/// LLVM splits a value that moves between variants of enums at different offsets. A message of 64 KiB became 8,000
/// variables in each function that waits for capacity, and took two minutes to compile. Here the message's address
/// escapes, so that LLVM copies it as a whole. A message of ordinary size is not affected.
#[inline(always)]
pub(crate) fn whole<M>(mut message: M) -> M {
    if const { size_of::<M>() > LARGE } {
        black_box(&mut message);
    }
    message
}
