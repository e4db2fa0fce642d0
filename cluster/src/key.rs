//! [`ClusterKey`]: keys that travel, and the hash that assigns them to shards.

use std::hash::Hash;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::codec::CodecError;
use crate::id::Shard;

/// The version of the bytes and of the hash below. Nodes with different versions would assign a key to different shards,
/// so they do not join one cluster.
pub(crate) const HASH_VERSION: u32 = 1;

/// A key that nodes send to each other.
///
/// The hash of its bytes selects the shard, so the bytes of a key must be the same in every build of the program, and two
/// different keys must have different bytes. The crate implements it for `String`, `Arc<str>`, `Box<str>`, integers of a
/// fixed size, arrays of bytes (a UUID), and tuples of keys.
///
/// # Examples
///
/// ```
/// use gen_registry_cluster::{ClusterKey, CodecError};
///
/// /// Tenant and room.
/// #[derive(Clone, Debug, PartialEq, Eq, Hash)]
/// struct Room(String, u32);
///
/// impl ClusterKey for Room {
///     fn encode(&self, to: &mut Vec<u8>) {
///         to.extend(self.1.to_be_bytes());
///         to.extend(self.0.as_bytes());
///     }
///
///     fn decode(from: &[u8]) -> Result<Room, CodecError> {
///         let (number, tenant) = from.split_first_chunk().ok_or_else(|| CodecError::new("the key is too short"))?;
///         let tenant = std::str::from_utf8(tenant).map_err(CodecError::new)?;
///         Ok(Room(tenant.to_owned(), u32::from_be_bytes(*number)))
///     }
/// }
///
/// let room = Room("acme".into(), 7);
/// let mut bytes = Vec::new();
/// room.encode(&mut bytes);
/// assert_eq!(Room::decode(&bytes)?, room);
/// # Ok::<(), CodecError>(())
/// ```
pub trait ClusterKey: Clone + Eq + Hash + Send + Sync + 'static {
    /// Appends the bytes of the key.
    fn encode(&self, to: &mut Vec<u8>);

    /// Returns the key with these bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError`] for bytes that [`encode`](Self::encode) never makes.
    fn decode(from: &[u8]) -> Result<Self, CodecError>;
}

/// Returns the shard of a key with these bytes.
pub(crate) fn shard_of(key: &[u8], shards: u16) -> Shard {
    let hash = u128::from(xxh3_64(key));
    // The upper bits of the hash select the shard. The product is below `shards << 64`.
    Shard(((hash * u128::from(shards)) >> 64) as u16)
}

macro_rules! text {
    ($($text:ty),+) => {$(
        /// UTF-8.
        impl ClusterKey for $text {
            fn encode(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(self.as_bytes());
            }

            fn decode(from: &[u8]) -> Result<Self, CodecError> {
                std::str::from_utf8(from).map(Into::into).map_err(CodecError::new)
            }
        }
    )+};
}

text!(String, Box<str>, Arc<str>);

macro_rules! integers {
    ($($integer:ty),+) => {$(
        /// Big-endian.
        impl ClusterKey for $integer {
            fn encode(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(from: &[u8]) -> Result<Self, CodecError> {
                <[u8; size_of::<$integer>()]>::decode(from).map(<$integer>::from_be_bytes)
            }
        }
    )+};
}

// Not `usize`: its bytes differ between targets.
integers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

/// The bytes themselves.
impl<const N: usize> ClusterKey for [u8; N] {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self);
    }

    fn decode(from: &[u8]) -> Result<Self, CodecError> {
        from.try_into().map_err(|_| CodecError::new(format!("{} bytes instead of {N}", from.len())))
    }
}

/// Appends one part of a tuple, with its length before it: otherwise ("a", "bc") and ("ab", "c") have the same bytes.
fn encode_part<K: ClusterKey>(part: &K, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    part.encode(to);
    let length = to.len() - start - 4;
    // A key over 4 GiB is too large for any message, and is rejected by its whole length.
    to[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
}

fn decode_part<K: ClusterKey>(from: &mut &[u8]) -> Result<K, CodecError> {
    let short = || CodecError::new("the parts of the key are longer than the key");
    let (length, rest) = from.split_first_chunk().ok_or_else(short)?;
    let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
    *from = rest;
    K::decode(part)
}

macro_rules! tuples {
    ($($($part:ident)+;)+) => {$(
        /// Each part with its length before it.
        #[allow(non_snake_case, reason = "the parts are named as their types")]
        impl<$($part: ClusterKey),+> ClusterKey for ($($part,)+) {
            fn encode(&self, to: &mut Vec<u8>) {
                let ($($part,)+) = self;
                $(encode_part($part, to);)+
            }

            fn decode(mut from: &[u8]) -> Result<Self, CodecError> {
                let key = ($(decode_part::<$part>(&mut from)?,)+);
                if from.is_empty() { Ok(key) } else { Err(CodecError::new("the key is longer than its parts")) }
            }
        }
    )+};
}

tuples! {
    A B;
    A B C;
    A B C D;
}

#[cfg(test)]
mod tests;
