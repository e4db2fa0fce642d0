//! Which node should own which shard: weighted rendezvous hashing.
//!
//! Each node computes the same owner from the same members, without a floating-point number: `ln` may differ in its last bit
//! between two platforms.

use std::cmp::Ordering;

use crate::id::{NodeId, Revision, Shard};

/// A node that may be given shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heir {
    pub(crate) id: NodeId,
    /// The hash of its address.
    pub(crate) place: u64,
    pub(crate) weight: u32,
    /// Of its record. Of two members at one address the later is the one that runs.
    pub(crate) revision: Revision,
}

impl Heir {
    /// Less is better.
    fn compare(&self, other: &Heir, shard: u64) -> Ordering {
        let cost = |heir: &Heir| u128::from(cost(mix(heir.place ^ shard)));
        let (here, there) = (cost(self) * u128::from(other.weight), cost(other) * u128::from(self.weight));
        here.cmp(&there).then(other.revision.cmp(&self.revision)).then(other.id.cmp(&self.id))
    }
}

/// The hash of an address.
pub(crate) fn place(address: &str) -> u64 {
    mix(address
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
}

/// The heir that should own the shard.
pub(crate) fn choose(heirs: &[Heir], shard: Shard) -> Option<NodeId> {
    let shard = mix(u64::from(shard.0) + 1);
    heirs.iter().min_by(|a, b| a.compare(b, shard)).map(|heir| heir.id)
}

/// The finalizer of SplitMix64: each bit of the input changes each bit of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `-log2(hash / 2^64)` with 32 bits behind the point. Divided by the weight, it is exponentially distributed with the
/// weight as its rate, so the least of all is a node's with a chance in proportion to its weight.
fn cost(hash: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    let mut x = hash << zeros; // 1.0 to 2.0, with 63 bits behind the point
    let mut log = 0_u64;
    for _ in 0..32 {
        let square = (u128::from(x) * u128::from(x)) >> 63;
        let carry = (square >> 64) as u64;
        log = (log << 1) | carry;
        x = (square >> carry) as u64;
    }
    (u64::from(zeros + 1) << 32) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heirs(weights: &[u32]) -> Vec<Heir> {
        let heir = |(n, weight): (usize, &u32)| Heir {
            id: NodeId::first(n as u64),
            place: place(&format!("10.0.0.{n}:7101")),
            weight: *weight,
            revision: Revision(n as u64),
        };
        weights.iter().enumerate().map(heir).collect()
    }

    fn counts(heirs: &[Heir], shards: u16) -> Vec<u32> {
        let mut counts = vec![0; heirs.len()];
        for shard in 0..shards {
            let owner = choose(heirs, Shard(shard)).expect("there are heirs");
            counts[heirs.iter().position(|heir| heir.id == owner).expect("the owner is an heir")] += 1;
        }
        counts
    }

    #[test]
    fn shards_are_shared_in_proportion_to_weights() {
        for count in counts(&heirs(&[1, 1, 1]), 1024) {
            assert!((300..=385).contains(&count), "{count} of 1,024 shards on one of three nodes");
        }
        let counts = counts(&heirs(&[1, 2, 5]), 40_000);
        for (count, expected) in counts.iter().zip([5_000, 10_000, 25_000_u32]) {
            assert!(count.abs_diff(expected) < 400, "{counts:?}");
        }
    }

    #[test]
    fn a_new_node_takes_shards_and_moves_no_other() {
        let (before, after) = (heirs(&[1, 3, 2]), heirs(&[1, 3, 2, 2]));
        for shard in (0..4096).map(Shard) {
            let owner = choose(&after, shard);
            assert!(owner == choose(&before, shard) || owner == Some(after[3].id), "{shard:?}");
        }
    }

    #[test]
    fn later_member_of_an_address_is_chosen() {
        let old = heirs(&[1])[0];
        let new = Heir { id: NodeId::first(9), revision: Revision(9), ..old };
        assert_eq!(choose(&[new, old], Shard(3)), Some(new.id));
        assert_eq!(choose(&[old, new], Shard(3)), Some(new.id));
        assert_eq!(choose(&[], Shard(3)), None);
    }

    #[test]
    fn cost_is_the_logarithm() {
        for hash in [1, 2, 3, 0x1234_5678, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let expected = 64.0 - ((hash | 1) as f64).log2();
            let got = cost(hash) as f64 / (1_u64 << 32) as f64;
            assert!((got - expected).abs() < 1e-6, "{hash}: {got} instead of {expected}");
        }
    }
}
