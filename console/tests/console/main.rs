//! The console over real HTTP, in front of real registries; its page in a headless Chromium.

mod api;
mod browser;
mod guard;
mod harness;
mod streams;
