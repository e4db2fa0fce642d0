//! Panics in the own tasks of a worker.
