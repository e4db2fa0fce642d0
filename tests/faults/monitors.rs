//! Monitors that are cancelled.
