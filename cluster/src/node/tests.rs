//! Nodes of one process, on one engine in memory, under paused time unless a test says otherwise.

mod basics;
mod support;
