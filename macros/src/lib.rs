//! The attribute `#[worker]` of [gen-registry](https://docs.rs/gen-registry), which re-exports and documents it as
//! `gen_registry::worker` with the feature `macros`.

mod expand;
mod lifecycle;
mod message;
mod options;
mod types;
mod worker;

use proc_macro::TokenStream;
use syn::{ItemImpl, parse_macro_input};

use crate::options::Options;

// Documented where it is re-exported: there the links resolve.
#[allow(missing_docs)]
#[proc_macro_attribute]
pub fn worker(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as Options);
    let item = parse_macro_input!(item as ItemImpl);
    worker::expand(options, item).into()
}
