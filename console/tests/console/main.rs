//! The console over real HTTP, in front of real registries.

mod api;
mod guard;
mod harness;
mod streams;
