//! Runs the blocks of the pages under `guide/` that need other crates. The library's own doctests leave these pages out, so that
//! the library does not depend on its peers.
#![cfg(doctest)]

#[doc = include_str!("../../../guide/web_server.md")]
mod web_server {}

#[doc = include_str!("../../../guide/console.md")]
mod console {}

#[doc = include_str!("../../../guide/from_maps_and_actors.md")]
mod from_maps_and_actors {}
