//! Stack use of debug builds.
