//! An `init` that never yields.
