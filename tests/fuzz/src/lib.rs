//! Fuzz targets: functions of bytes that panic if something is wrong.
//!
//! They run in two ways, with the same corpus:
//!
//! - `cargo test -p fuzz-tests` tries every input of the corpus, and then inputs that are generated from them, for
//!   `GEN_REGISTRY_FUZZ_SECONDS` in total.
//! - `tests/fuzz/run TARGET SECONDS` runs libFuzzer, which is guided by coverage. It needs a nightly toolchain.
//!
//! A target returns what kind of input it was. The generator keeps inputs of kinds that it has not met, which guides it
//! a little without instrumentation.

mod inputs;
// The model of the property test, and the registry that it is compared with.
#[path = "../../properties/model/mod.rs"]
mod model;
#[path = "../../properties/plan.rs"]
mod plan;
#[path = "../../properties/rig.rs"]
mod rig;
#[path = "../../properties/system.rs"]
mod system;
mod targets {
    pub(crate) mod body;
    pub(crate) mod complaint_file;
    pub(crate) mod phone_number;
    pub(crate) mod registry;
    pub(crate) mod rule;
}

use std::hash::{DefaultHasher, Hash, Hasher};

pub use inputs::{Generator, corpus};

/// Something that is tried with any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its function, of its corpus and of its test.
    pub name: &'static str,
    /// Panics if something is wrong. Returns the kind of the input.
    pub run: fn(&[u8]) -> u64,
    /// Texts that its inputs have.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: [Target; 5] = [
    Target { name: "body", run: targets::body::run, words: targets::body::WORDS },
    Target { name: "complaint_file", run: targets::complaint_file::run, words: targets::complaint_file::WORDS },
    Target { name: "phone_number", run: targets::phone_number::run, words: targets::phone_number::WORDS },
    Target { name: "registry", run: targets::registry::run, words: &[] },
    Target { name: "rule", run: targets::rule::run, words: targets::rule::WORDS },
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// The kind of an input, from whatever distinguishes it.
fn kind(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
