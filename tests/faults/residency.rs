//! A worker that keeps itself from eviction.
