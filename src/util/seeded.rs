//! Seeded bugs: faults that a test build can switch on, to show that the tests can fail.
//!
//! `seeded!(Bug => statement)` is the wrong statement, at the place of the right code. Without
//! `--cfg gen_registry_seeded` it expands to nothing, so that no other build has anything of it. With it, the statement
//! runs if the environment variable `GEN_REGISTRY_SEEDED` names the bug.
//!
//! `tests/README.md` has the table of the bugs: the guarantee that each breaks, and the test that catches it.
//! `tests/seeded/run` runs each of these tests with its bug, and all of them without any.

#[cfg(not(gen_registry_seeded))]
macro_rules! seeded {
    ($($bug:tt)*) => {};
}

#[cfg(gen_registry_seeded)]
macro_rules! seeded {
    ($bug:ident => $($wrong:tt)*) => {
        if $crate::util::seeded::is_on(stringify!($bug)) {
            $($wrong)*;
        }
    };
}

pub(crate) use seeded;

/// Makes the window of a race wider, so that its bug shows in few attempts.
#[cfg(gen_registry_seeded)]
pub(crate) fn delay() {
    std::thread::sleep(std::time::Duration::from_millis(1));
}

/// Whether this bug is switched on. Reports the first time, so that a test that fails for another reason is not taken
/// for one that has caught the bug.
#[cfg(gen_registry_seeded)]
pub(crate) fn is_on(bug: &str) -> bool {
    use std::io::Write;
    use std::sync::{Once, OnceLock};

    static NAME: OnceLock<Option<String>> = OnceLock::new();
    static REACHED: Once = Once::new();
    let is_on = NAME.get_or_init(|| std::env::var("GEN_REGISTRY_SEEDED").ok()).as_deref() == Some(bug);
    if is_on {
        // Not by `eprintln!`, whose output the test harness captures and a test that hangs never prints.
        REACHED.call_once(|| drop(writeln!(std::io::stderr(), "seeded bug reached: {bug}")));
    }
    is_on
}
