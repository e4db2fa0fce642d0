//! A subscriber of `tracing` that panics.
