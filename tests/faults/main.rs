//! Faults that users of other libraries reported, and the verbs that they miss: each kind of fault with its smallest input and
//! its siblings.

use test_support as common;

mod addresses;
mod backoff;
mod blocking;
mod budget;
mod clocks;
mod crash;
mod drops;
mod errors;
mod intervals;
#[cfg(feature = "tracing")]
mod log;
mod monitors;
mod owner_circles;
mod panics;
mod replies;
mod residency;
mod retry;
mod runs;
mod stack;
mod stop_modes;
mod stuck_init;
#[cfg(feature = "tracing")]
mod tracing_panics;
mod traits;
mod type_depth;
