//! [`BuildError`]: why a registry was not built.

use thiserror::Error;

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
