//! Futures in boxes, which keep large values from being copied on the stack.

use std::future::Future;
use std::pin::Pin;

/// Creates a future in a box. Without optimisation, a future that is created in its caller's frame takes its size there
/// more than once.
#[inline(never)]
pub(crate) fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}

/// Creates a future, [`boxed`] in debug builds only.
#[cfg(debug_assertions)]
pub(crate) fn boxed_in_debug<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    boxed(make)
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn boxed_in_debug<F: Future>(make: impl FnOnce() -> F) -> F {
    make()
}
