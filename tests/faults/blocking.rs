//! Blocking work that never began.
