//! Restart backoff, and options that cannot work together.
