//! Nothing about workers.

pub(crate) mod carries;
pub(crate) mod clock;
pub(crate) mod coop;
pub(crate) mod future;
pub(crate) mod hash;
pub(crate) mod id_list;
pub(crate) mod panics;
pub(crate) mod rng;
pub(crate) mod seeded;
pub(crate) mod sync;
