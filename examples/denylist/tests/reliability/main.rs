//! What an operator or an attacker does to the service: its binary is killed, its disk is full or damaged, and its
//! clients are slow, many or make no sense.
//!
//! `cargo test` runs a short form. With `GEN_REGISTRY_SERVICE_LONG=1`, the numbers are those of the long run.

#![cfg(unix)]

mod clients;
mod clock;
mod connections;
mod damage;
#[path = "../denylist/description.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod description;
mod disk;
#[path = "../denylist/harness.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod harness;
mod kill;
mod load;
mod malformed;
mod oversized;

/// A number of the short form, or of the long run.
fn scaled(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

fn is_long() -> bool {
    std::env::var_os("GEN_REGISTRY_SERVICE_LONG").is_some_and(|value| value == "1")
}

/// A sequence of numbers that depends on its seed only (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
