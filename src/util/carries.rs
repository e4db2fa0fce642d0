//! [`Carries`]: where the compiler's search for auto traits begins.
//!
//! Whether a user's type is `Send` is proved through everything that it contains. If worker types form a tree, each
//! with an address of the next in its state or arguments, the proof must not go through each registry's shared state
//! and on to the next registry: four levels would be the most that compile. So no cell, and nothing that cells share,
//! names a worker type other than behind `fn` or `dyn`, and the search ends there.

use std::marker::PhantomData;

use crate::util::sync::Mutex;

/// The first field of a type that contains messages deep inside.
///
/// The search must reach the type of the messages, which may contain handles of other worker types. Through this field
/// it needs four steps instead of twelve or more, and finds the message type proved when it arrives there by the other
/// fields.
pub(crate) type Carries<M> = PhantomData<Mutex<M>>;
