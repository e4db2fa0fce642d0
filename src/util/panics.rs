//! Containment of panics in foreign code: a user's closures and `Drop`s, and the wakers of other executors.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

/// Runs code, and drops its panic.
pub(crate) fn catch_panic(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        drop_payload(payload);
    }
}

/// The message of a panic.
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

/// Drops the payload of a panic, whose own `Drop` may panic.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Leak the second payload, since its `Drop` may panic again.
        std::mem::forget(again);
    }
}

/// A value whose panic in `Drop` is contained: the last user of a worker's memory drops it, and that may be any task.
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
        self.0.as_ref().expect("only `drop` takes it out")
    }
}

impl<T> Drop for CatchDropPanic<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        catch_panic(|| drop(value));
    }
}

/// Polls a future with a waker whose panic is contained. For waits that tokio wakes one after another: a foreign waker
/// that panics would keep the rest from being woken.
pub(crate) async fn with_contained_waker<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let waker = Waker::from(Arc::new(ContainedWaker(cx.waker().clone())));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

struct ContainedWaker(Waker);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        catch_panic(|| self.0.wake_by_ref());
    }
}

/// Declares that types may cross `catch_unwind`.
///
/// No panic leaves a type that callers hold half changed. User code runs outside the crate's locks and its panics are
/// contained. Other tasks change what a handle refers to at any time, so that no caller relies on an earlier read.
macro_rules! unwind_safe {
    ($([$($parameters:tt)*] $type:ty;)+) => {
        $(
            impl<$($parameters)*> std::panic::UnwindSafe for $type {}
            impl<$($parameters)*> std::panic::RefUnwindSafe for $type {}
        )+
    };
}
pub(crate) use unwind_safe;
