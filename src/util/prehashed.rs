//! [`PassHash`]: for maps whose keys are hashes, computed once in the caller by the registry's keyed hasher.

use std::hash::{BuildHasher, Hasher};

/// Returns the hash that it is given.
#[derive(Clone, Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only keys that write one `u64` are hashed");
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
