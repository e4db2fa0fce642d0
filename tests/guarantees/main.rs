//! One module for each guarantee, numbered as in the documentation of the crate, and storms of starts.

mod blocking;
mod cancellation;
mod delegated_start;
mod g01_exclusion;
mod g02_coalescing;
mod g03_no_stale_handle;
mod g04_isolation;
mod g04_woken_callers;
mod g05_failure_leaves_nothing;
mod g05_panicking_drops;
mod g06_no_silent_loss;
mod g08_order;
mod g09_accounting;
mod g10_shutdown;
mod rig;
mod runtime;
mod starting_storm;
