//! Nodes as processes, with the real etcd, under faults: J1 to J5 and J7 to J13 of the design. The runs that are ignored are
//! longer, or variants of the others. `tests/README.md` of the project has a table of all.
//!
//! ```sh
//! cargo test -p gen-registry-cluster --test processes -- --nocapture             # prints what each run saw
//! cargo test -p gen-registry-cluster --test processes -- --nocapture --ignored   # the others
//! ```
//!
//! Each run has node processes (this binary, executed again), a client in the test process with one caller for each of some
//! hundred keys, and a storage in the test process that compares tokens. Checked in each run:
//!
//! - **violations**: the numbers of a key grow in the order of the answers, none is answered twice, and each lies between
//!   what was acknowledged and that with all that may have run.
//! - **overlaps**: no two workers of a key live at the same time, by the machine's one monotonic clock.
//! - **refused**: writes that the storage refused, because a later owner had written.
//!
//! Times are those of a machine that runs other tests, too. The bars that are asserted leave room for that; the figures are
//! printed beside the bars of the design.

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod faults;
mod load;
mod messages;
mod node;
mod observer;
mod soak;
mod storage;
mod wall_clock;

/// A node process: this binary, executed by a test.
#[test]
#[ignore = "a test executes it as a process of its own"]
fn node_process() {
    if let Ok(options) = std::env::var(bed::NODE) {
        node::run(&options);
    }
}
