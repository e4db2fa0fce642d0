//! Trees of worker types compile.
