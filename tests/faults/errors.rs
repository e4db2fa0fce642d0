//! Error messages, and the traits of the public types.
