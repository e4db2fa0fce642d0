//! The numbers that all modules share.

use std::fmt;

/// The number of a commit of the engine. A later commit has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// One of the parts into which the keys of a cluster are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u16);

/// One ownership of a shard: a number that is greater than that of every earlier ownership of the shard.
///
/// It is the revision of the commit that gave the shard to its owner, below the *era* of the cluster. Revisions go back
/// when an engine is restored from a backup, so the operator raises the era then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// Revisions have this many bits: 8,900 years of 1,000 commits a second.
    const REVISION_BITS: u32 = 48;

    #[cfg(test)]
    pub(crate) const MIN: Epoch = Epoch(0);
    #[cfg(test)]
    pub(crate) const MAX: Epoch = Epoch(u64::MAX);

    pub(crate) fn new(era: u16, revision: Revision) -> Epoch {
        Epoch((u64::from(era) << Self::REVISION_BITS) | (revision.0 & ((1 << Self::REVISION_BITS) - 1)))
    }

    /// The epoch with this number, which [`get`](Self::get) returned.
    pub(crate) fn from_number(number: u64) -> Epoch {
        Epoch(number)
    }

    /// The number, for a storage that keeps the highest one per key.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// One membership of a process. A process that joins again does so under a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Drawn at random when the process starts.
    pub(crate) process: u64,
    /// Counts the memberships of the process.
    pub(crate) membership: u32,
}

impl NodeId {
    /// The first membership of a process. `process` must be drawn at random.
    pub(crate) fn first(process: u64) -> NodeId {
        NodeId { process, membership: 1 }
    }

    /// The next membership of the same process.
    pub(crate) fn next(self) -> NodeId {
        NodeId { membership: self.membership + 1, ..self }
    }
}

/// The process in 16 hexadecimal digits, a hyphen and the membership: `00c0ffee00c0ffee-1`.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.process, self.membership)
    }
}

/// The text is not that of a [`NodeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseNodeIdError;

impl fmt::Display for ParseNodeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node id is 16 hexadecimal digits, a hyphen and a number")
    }
}

impl std::error::Error for ParseNodeIdError {}

impl std::str::FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<NodeId, ParseNodeIdError> {
        let parse = || {
            let (process, membership) = text.split_once('-')?;
            let process = u64::from_str_radix(process, 16).ok()?;
            Some(NodeId { process, membership: membership.parse().ok()? })
        };
        // Only the text that is written is read: the text is a key of the engine.
        parse().filter(|id| id.to_string() == text).ok_or(ParseNodeIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_orders_by_era_and_then_by_revision() {
        let epoch = |era, revision| Epoch::new(era, Revision(revision));
        assert!(epoch(0, 7) < epoch(0, 8));
        assert!(epoch(0, 1 << 47) < epoch(1, 1));
        assert_eq!(epoch(3, 9).get(), 3 << 48 | 9);
    }

    #[test]
    fn node_id_is_read_as_it_is_written() {
        let id = NodeId::first(0xc0_ffee).next();
        assert_eq!(id.to_string(), "0000000000c0ffee-2");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "c0ffee-2", "0000000000c0ffee", "0000000000c0ffee-02", "0000000000C0FFEE-2", "-1"] {
            assert_eq!(text.parse::<NodeId>(), Err(ParseNodeIdError), "{text:?}");
        }
    }
}
