//! A run that is ended as a crash ends it.
