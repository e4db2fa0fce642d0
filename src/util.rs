//! Nothing about workers.

pub(crate) mod bucket;
pub(crate) mod carries;
pub(crate) mod clock;
pub(crate) mod coop;
pub(crate) mod future;
pub(crate) mod hash;
pub(crate) mod id_list;
pub(crate) mod in_transit;
pub(crate) mod panics;
pub(crate) mod prehashed;
pub(crate) mod rng;
pub(crate) mod seeded;
pub(crate) mod sync;
