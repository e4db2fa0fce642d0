//! Maps by a hash that was made before: by the registry's own seeded hasher, in a caller, once.

use std::hash::{BuildHasher, Hasher};

/// Passes a hash through.
#[derive(Clone, Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only `write_u64` is called, by types that know their hash");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PassHash;

impl BuildHasher for PassHash {
    type Hasher = Prehashed;

    fn build_hasher(&self) -> Prehashed {
        Prehashed::default()
    }
}
