//! The end of one run, and the request to end.
