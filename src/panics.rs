//! What becomes of a panic in code that is not ours.

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Runs code whose panic is to reach nobody.
pub(crate) fn contain(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        discard(payload);
    }
}

/// What a panic said.
pub(crate) fn message(payload: Box<dyn Any + Send>) -> Arc<str> {
    let message = match payload.downcast_ref::<&'static str>() {
        Some(message) => Arc::from(*message),
        None => match payload.downcast_ref::<String>() {
            Some(message) => Arc::from(message.as_str()),
            None => Arc::from("a panic without a text"),
        },
    };
    discard(payload);
    message
}

/// Drops a panic's payload, whose own `Drop` may panic.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Whoever panics while dropping the payload of a panic is not asked a third time.
        std::mem::forget(again);
    }
}

/// A value whose panic in `Drop` is contained: it is dropped wherever the last user of a worker's memory happens to be.
#[derive(Debug)]
pub(crate) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken out only when it is dropped")
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        contain(|| drop(value));
    }
}
