//! Checks that the options of a registry can work, alone and together, and [`BuildError`]: why a registry was not built.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::registry::builder::Builder;
use crate::worker::Worker;
use crate::worker::config::{Config, Eviction};
use crate::worker::limits::SharedLimits;

impl<W: Worker> Builder<W> {
    pub(super) fn check(&self) -> Result<(), BuildError> {
        check_limits(&self.config)?;
        check_restarts(&self.config)?;
        self.check_group()?;
        if self.sets_intensity && self.sets_backoff && self.config.backoff.outlasts(self.config.intensity) {
            return invalid(
                "restart_intensity",
                "with this `restart_backoff` that many restarts take longer than the period; allow fewer, set a longer \
                 period, or set `usize::MAX` to restart forever",
            );
        }
        Ok(())
    }

    /// Copies the limits that are shared with other registries into the options.
    pub(super) fn apply_shared_limits(&mut self) -> Result<(), BuildError> {
        let Some(SharedLimits(limits)) = &self.shared_limits else { return Ok(()) };
        let (shared, own) = (limits.options, &mut self.config);
        let beside = [
            ("max_workers", own.max_workers.is_some()),
            ("eviction", own.eviction != Eviction::default()),
            ("max_concurrent_starts", own.max_concurrent_starts.is_some()),
            ("remember_failed_starts", own.remember_failed_starts.is_some()),
        ];
        if let Some(&(option, _)) = beside.iter().find(|(_, is_set)| *is_set) {
            return invalid(option, "a registry with `shared_limits` has this limit from there");
        }
        own.max_workers = shared.max_workers;
        own.eviction = shared.eviction;
        own.max_concurrent_starts = shared.max_concurrent_starts;
        own.remember_failed_starts = shared.remember_failed_starts;
        Ok(())
    }

    fn check_group(&self) -> Result<(), BuildError> {
        if self.metrics_group.is_none() {
            return Ok(());
        }
        if !self.name.is_empty() {
            return invalid("name", "a registry of a `metrics_group` has the name of the group");
        }
        #[cfg(feature = "metrics")]
        if self.recorder.is_some() {
            return invalid("recorder", "a registry of a `metrics_group` has the recorder of the group");
        }
        Ok(())
    }
}

fn check_limits(config: &Config) -> Result<(), BuildError> {
    let is_zero = |duration: Option<Duration>| duration == Some(Duration::ZERO);
    if config.mailbox_capacity == 0 {
        return invalid("mailbox_capacity", "a mailbox without capacity accepts no message");
    }
    if config.max_workers == Some(0) {
        return invalid("max_workers", "a registry without room for a worker cannot start one");
    }
    if config.max_concurrent_starts.is_some_and(|starts| starts == 0 || starts > Semaphore::MAX_PERMITS) {
        return invalid(
            "max_concurrent_starts",
            "it must be at least 1 and at most `tokio::sync::Semaphore::MAX_PERMITS`",
        );
    }
    if config.init_timeout.is_zero() {
        return invalid("init_timeout", "with a timeout of zero a start may fail before its `init` begins");
    }
    if is_zero(config.idle_timeout) {
        return invalid("idle_timeout", "with a timeout of zero a worker is passivated before its first message");
    }
    if is_zero(config.remember_failed_starts) {
        return invalid("remember_failed_starts", "with a duration of zero nothing is remembered");
    }
    Ok(())
}

fn check_restarts(config: &Config) -> Result<(), BuildError> {
    let backoff = config.backoff;
    if config.intensity.period.is_zero() {
        return invalid("restart_intensity", "no restart falls within a period of zero");
    }
    if backoff.first > backoff.most {
        return invalid("restart_backoff", "the first delay exceeds the longest");
    }
    if backoff.first.is_zero() && backoff.is_on() {
        return invalid(
            "restart_backoff",
            "a first delay of zero stays zero when it doubles, and never reaches the longest",
        );
    }
    match backoff.reset_after {
        Some(after) if after.is_zero() => invalid(
            "restart_backoff_reset",
            "with a duration of zero every run is healthy, and no delay exceeds the first",
        ),
        Some(_) if !backoff.is_on() => invalid("restart_backoff_reset", "there is no `restart_backoff` to reset"),
        _ => Ok(()),
    }
}

fn invalid(option: &'static str, problem: &'static str) -> Result<(), BuildError> {
    Err(BuildError::InvalidOption { option, problem })
}

/// Why a registry could not be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// `build` was called outside a tokio runtime, so nothing could run the owner and the workers.
    #[error("no tokio runtime is running here; build the registry inside one")]
    NoRuntime,
    /// The tokio runtime has no time driver, so no deadline could ever expire. Tokio reports this only by a panic,
    /// which is caught; the process's panic hook still runs.
    #[error("the tokio runtime has no timer; build it with `enable_time` or `enable_all`")]
    NoTimer,
    /// A live registry that reports to the same recorder has this name. Each would overwrite the values of the other. A
    /// name is free again when the shutdown of its registry is complete.
    #[error("a live registry is named `{name}`; give this one another name, or shut that one down first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An option has a value that cannot work.
    #[error("the option `{option}` is out of range: {problem}")]
    InvalidOption {
        /// The name of the builder's method.
        option: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
}
