//! [`Opaque`] and [`Carries`]: where the compiler's search for auto traits ends, and where it begins.
//!
//! Whether a user's type is `Send` is proved through everything that it contains. If worker types form a tree, each
//! with an address of the next in its state or arguments, the proof would go through each registry's shared state, some
//! forty types deep, from there to the arguments of its workers, and on to the next registry. Four levels are the most
//! that compile.

use std::marker::PhantomData;
use std::ops::Deref;

use crate::util::sync::Mutex;

/// A value of which the compiler knows only that it is `Send` and `Sync`, at the cost of one virtual call that returns
/// its address.
///
/// The search ends here. What it would find is proved once, where the value is created, from the bounds of
/// [`Worker`](crate::Worker).
pub(crate) type Opaque<T> = Box<dyn Deref<Target = T> + Send + Sync>;

/// Makes a value [`Opaque`].
pub(crate) fn opaque<T: Send + Sync + 'static>(value: T) -> Opaque<T> {
    struct Wrapper<T>(T);

    impl<T> Deref for Wrapper<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    Box::new(Wrapper(value))
}

/// The first field of a type that contains messages deep inside.
///
/// The search must reach the type of the messages, which may contain handles of other worker types. Through this field
/// it needs four steps instead of twelve or more, and finds the message type proved when it arrives there by the other
/// fields.
pub(crate) type Carries<M> = PhantomData<Mutex<M>>;
