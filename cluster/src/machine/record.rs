//! What is in the engine: keys, records, and the commits that change them.
//!
//! Records are lines of text, so that an operator reads them with `etcdctl`. Lines with unknown names are skipped: a newer
//! version may write more.

use std::collections::HashMap;

use crate::id::{NodeId, Revision, Shard};

/// The version of the functions that place keys in shards and shards on nodes.
pub(crate) const HASH: u32 = 1;

/// A key of the engine, below the prefix of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// `config`: what all nodes must agree on.
    Config,
    /// `m/<node>`: the node is a member.
    Member(NodeId),
    /// `b/<node>`: its revision is that of the node's last beat.
    Beat(NodeId),
    /// `s/<nnnnn>`: the owner of the shard.
    Claim(Shard),
}

impl Key {
    pub(crate) fn path(self) -> String {
        match self {
            Key::Config => "config".to_owned(),
            Key::Member(node) => format!("m/{node}"),
            Key::Beat(node) => format!("b/{node}"),
            Key::Claim(Shard(shard)) => format!("s/{shard:05}"),
        }
    }

    pub(crate) fn parse(path: &str) -> Option<Key> {
        let key = match path.split_once('/') {
            None => Key::Config,
            Some(("m", node)) => Key::Member(node.parse().ok()?),
            Some(("b", node)) => Key::Beat(node.parse().ok()?),
            Some(("s", shard)) => Key::Claim(Shard(shard.parse().ok()?)),
            Some(_) => return None,
        };
        (key.path() == path).then_some(key)
    }
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Config(Config),
    Member(Member),
    Beat,
    Claim(NodeId),
}

/// What all nodes of a cluster must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) shards: u16,
    pub(crate) hash: u32,
    pub(crate) era: u16,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) address: String,
    pub(crate) weight: u32,
    pub(crate) version: u64,
    /// It gives its shards away and is given none.
    pub(crate) is_leaving: bool,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Record::Config(Config { shards, hash, era }) => format!("shards={shards}\nhash={hash}\nera={era}\n"),
            Record::Member(Member { address, weight, version, is_leaving }) => {
                let state = if *is_leaving { "leaving" } else { "up" };
                format!("address={address}\nweight={weight}\nversion={version}\nstate={state}\n")
            }
            Record::Beat => String::new(),
            Record::Claim(owner) => owner.to_string(),
        }
        .into_bytes()
    }

    /// `None` if the bytes are not a record of the key.
    pub(crate) fn decode(key: Key, bytes: &[u8]) -> Option<Record> {
        let text = std::str::from_utf8(bytes).ok()?;
        let lines: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let number = |name| lines.get(name).and_then(|value| value.parse::<u64>().ok());
        Some(match key {
            Key::Config => Record::Config(Config {
                shards: number("shards")?.try_into().ok()?,
                hash: number("hash")?.try_into().ok()?,
                era: number("era")?.try_into().ok()?,
            }),
            Key::Member(_) => Record::Member(Member {
                address: (*lines.get("address")?).to_owned(),
                weight: number("weight")?.try_into().ok()?,
                version: number("version")?,
                is_leaving: match *lines.get("state")? {
                    "up" => false,
                    "leaving" => true,
                    _ => return None,
                },
            }),
            Key::Beat(_) => Record::Beat,
            Key::Claim(_) => Record::Claim(text.parse().ok()?),
        })
    }
}

/// What must hold for a commit to be done. Each condition but [`Absent`](Condition::Absent) of a member that joins is one
/// that never holds again once it does not. (rule 2)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The key has no record.
    Absent(Key),
    /// The record of the key was written by the commit with this revision.
    At(Key, Revision),
}

/// What a commit does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    Put(Key, Record),
    /// Has no effect if the key has no record.
    Delete(Key),
}
