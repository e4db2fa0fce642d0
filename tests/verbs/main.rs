//! What each verb does: of a registry, of a worker's handle, of its context.

mod allocation;
mod builder;
mod call;
mod context;
mod count;
mod deadlock;
mod errors;
mod exit;
mod keys;
mod kill;
mod lookup;
mod lookup_or_start;
mod original_sessions;
mod reduce;
mod run;
mod sample;
mod shutdown;
mod spawn;
mod start;
mod stop;
mod to_list;
mod via;
