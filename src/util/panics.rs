//! What becomes of a panic in code that is not ours.

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Runs code whose panic is to reach nobody.
pub(crate) fn catch_panic(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        drop_payload(payload);
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
    drop_payload(payload);
    message
}

/// Drops a panic's payload, whose own `Drop` may panic.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Whoever panics while dropping the payload of a panic is not asked a third time.
        std::mem::forget(again);
    }
}

/// A value whose panic in `Drop` is contained: it is dropped wherever the last user of a worker's memory happens to be.
#[derive(Debug)]
pub(crate) struct CatchDropPanic<T>(Option<T>);

impl<T> CatchDropPanic<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for CatchDropPanic<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken out only when it is dropped")
    }
}

impl<T> Drop for CatchDropPanic<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        catch_panic(|| drop(value));
    }
}

/// Declares that types may cross `catch_unwind`.
///
/// A panic leaves none of the types that callers hold half changed: user code runs outside the locks of the crate, its panics are
/// contained, and other tasks change what a handle leads to at any time, so that no caller relies on what it read before.
macro_rules! unwind_safe {
    ($([$($parameters:tt)*] $type:ty;)+) => {
        $(
            impl<$($parameters)*> std::panic::UnwindSafe for $type {}
            impl<$($parameters)*> std::panic::RefUnwindSafe for $type {}
        )+
    };
}
pub(crate) use unwind_safe;
