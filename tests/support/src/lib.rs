//! Test workers, gates and bounded waits that the tests of several packages share.
//!
//! - [`Probe`] follows its [`Plan`] in `init` and `terminate`, and its messages in `handle`.
//! - [`Idle`] does nothing.
//! - [`ClosureWorker`] runs closures of the test with its context. [`RestartableWorker`] does so too and can be
//!   restarted.
//! - [`Record`] counts the live states of each key and how many lived at the same time.
//! - [`within`] bounds a wait, [`until`] and [`block_until`] a loop for which there is nothing to await, and each says what
//!   was lost. [`Gate`] orders the steps of two tasks.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::new_without_default,
    reason = "nothing here is published"
)]

#[cfg(feature = "browser")]
pub mod browser;
mod closures;
pub mod exposition;
pub mod linearizability;
mod probe;
pub mod public_futures;
mod random;
mod wait;

use std::process::Command;

use gen_registry::{Registry, Worker};

pub use closures::{
    BoxFuture, ClosureArgs, ClosureWorker, FallibleJob, Job, RestartableArgs, RestartableWorker, ReusableJob,
    fallible_job, job, own_registry, run_blocking_code, run_in, run_in_restartable,
};
pub use probe::{
    Alive, Ask, Idle, LiveGuard, Plan, Population, Probe, Record, Script, Scripted, Step, populated, value_of,
};
pub use random::Random;
pub use wait::{Gate, Heartbeat, PollCounter, block_until, patience, poll_once, until, until_idle, within, yield_many};

/// Runs the test in its own process, where it may install a recorder or a subscriber, or measure the memory in use,
/// undisturbed by other tests.
///
/// The test calls this first, with its `module_path!()` and its name. In its own process the result is true, and the
/// test continues. Otherwise the result is false: the test has passed in that process and must return.
#[track_caller]
pub fn in_own_process(module: &str, test: &str) -> bool {
    const MARK: &str = "GEN_REGISTRY_TEST_IN_OWN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let (_, module) = module.split_once("::").expect("the test is in a module of its binary");
    let name = format!("{module}::{test}");
    let binary = std::env::current_exe().expect("the path of the test binary is known");
    let arguments = [&*name, "--exact", "--include-ignored", "--nocapture"];
    let ran = Command::new(binary).args(arguments).env(MARK, "1").output().expect("the test binary runs");
    let printed = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{printed}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(printed.contains("1 passed"), "there is no {name}: {printed}");
    false
}

/// G9: no worker is starting, restarting or stopping, and all counts agree.
pub fn assert_at_rest<W: Worker>(registry: &Registry<W>) {
    let stats = registry.stats();
    let listed = registry.to_list().len();
    assert_eq!((stats.starting, stats.restarting, stats.stopping), (0, 0, 0), "not at rest: {stats:?}");
    assert_eq!((stats.waiting_for_turn, stats.waiting_for_room), (0, 0), "starts are waiting: {stats:?}");
    assert_eq!((stats.running, registry.count()), (listed, listed), "{stats:?}");
    assert_eq!(stats.starts.ok - stats.exits.total(), listed as u64, "{stats:?}");
}

/// Resident memory of this process in bytes.
#[cfg(target_os = "linux")]
pub fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs is mounted");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the status has VmRSS");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<i64>().ok()).expect("a number") * 1024
}
