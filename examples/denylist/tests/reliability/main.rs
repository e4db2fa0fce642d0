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
