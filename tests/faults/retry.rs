//! Calls that are repeated by policy.
