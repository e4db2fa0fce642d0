//! The parameters of a node.

use std::time::Duration;

use thiserror::Error;

/// The parameters of a node. Those of a cluster ([`shards`](Settings::shards), [`era`](Settings::era)) are compared with the
/// engine's `config` by each join.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How often a beat is sent.
    pub(crate) beat: Duration,
    /// How long a node serves after it has sent a beat that was committed.
    pub(crate) valid: Duration,
    /// How long an observer waits for a new beat before it removes the member.
    pub(crate) take: Duration,
    /// How long membership must be quiet before a shard moves that has an owner.
    pub(crate) settle: Duration,
    /// How long an answer of the engine is waited for. Then its outcome is unknown.
    pub(crate) attempt: Duration,
    /// The number of shards of the cluster.
    pub(crate) shards: u16,
    /// The era of the cluster, which the operator raises after a restore of the engine.
    pub(crate) era: u16,
    /// How many shards move at a time.
    pub(crate) lanes: usize,
    /// How many conditions a commit has at most.
    pub(crate) batch: usize,
    /// Where other nodes reach this one, and its place for the choice of owners: a node that starts again at its address
    /// is given the same shards.
    pub(crate) address: String,
    /// The share of the shards, relative to the weights of the others. A node of weight 0 owns none.
    pub(crate) weight: u32,
    /// The version of the program. While two run, shards are given to the newest.
    pub(crate) version: u64,
}

/// Settings that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum SettingsError {
    #[error("`valid` must be at most 0.8 of `take`, or two nodes may own a shard at a time")]
    ValidTooLong,
    #[error("`valid` must be at least 3 beats, or one lost beat fences the node")]
    ValidTooShort,
    #[error("`beat` and `attempt` must be at least a millisecond, and `attempt` at most `valid`")]
    Attempt,
    #[error("a cluster has at least one shard")]
    Shards,
    #[error("a node moves at least one shard at a time")]
    Lanes,
    #[error("a commit has room for at least 8 conditions")]
    Batch,
    #[error("an address has no control characters")]
    Address,
}

impl SettingsError {
    /// The option of the builder that it concerns.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::ValidTooLong | Self::ValidTooShort | Self::Attempt => "timing",
            Self::Shards => "shards",
            Self::Lanes => "lanes",
            Self::Batch => "engine",
            Self::Address => "advertise",
        }
    }
}

impl Settings {
    /// `beat` 1 s, `valid` 8 s, `take` 10 s, `settle` 10 s, 1,024 shards, 8 lanes.
    pub(crate) fn new(address: impl Into<String>) -> Settings {
        Settings {
            beat: Duration::from_secs(1),
            valid: Duration::from_secs(8),
            take: Duration::from_secs(10),
            settle: Duration::from_secs(10),
            attempt: Duration::from_secs(1),
            shards: 1024,
            era: 0,
            lanes: 8,
            batch: 100,
            address: address.into(),
            weight: 1,
            version: 0,
        }
    }

    /// # Errors
    ///
    /// The first of the settings that cannot work.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let ok = |holds: bool, error| if holds { Ok(()) } else { Err(error) };
        // In numbers that no product of durations exceeds.
        let [beat, valid, take] = [self.beat, self.valid, self.take].map(|time| time.as_nanos());
        ok(valid * 5 <= take * 4, SettingsError::ValidTooLong)?;
        ok(valid >= beat * 3, SettingsError::ValidTooShort)?;
        let least = self.beat.min(self.attempt);
        ok(least >= Duration::from_millis(1) && self.attempt <= self.valid, SettingsError::Attempt)?;
        ok(self.shards > 0, SettingsError::Shards)?;
        ok(self.lanes > 0, SettingsError::Lanes)?;
        ok(self.batch >= 8, SettingsError::Batch)?;
        ok(!self.address.contains(char::is_control), SettingsError::Address)
    }
}
