//! Futures in boxes: large values are not copied on the stack, and rare tasks are not compiled for each type.

use std::future::Future;
use std::pin::Pin;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Creates a future in a box. Without optimisation, a future that is created in its caller's frame takes its size there
/// more than once.
#[inline(never)]
pub(crate) fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}

/// Spawns a task that a registry spawns rarely. In a box: each type of future that tokio spawns is 5,000 lines of
/// LLVM's input, and a generic one is a further type in each program for each worker type.
#[inline(never)]
pub(crate) fn spawn_boxed(runtime: &Handle, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> JoinHandle<()> {
    runtime.spawn(future)
}

/// Spawns a task of a registry that nothing joins or aborts.
#[inline]
pub(crate) fn spawn_detached(runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(gen_registry_shuttle)]
    {
        let _ = runtime;
        drop(shuttle::future::spawn(future));
    }
    #[cfg(not(gen_registry_shuttle))]
    drop(runtime.spawn(future));
}

/// As [`spawn_boxed`], detached.
#[inline(never)]
pub(crate) fn spawn_boxed_detached(runtime: &Handle, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
    spawn_detached(runtime, future);
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

/// A value in a box in debug builds, and bare in optimized ones.
///
/// In an unoptimized build each function that passes a value on has copies of it in its stack frame. Arguments of a
/// start go through forty functions: at 32 KiB they would overflow a stack of 2 MiB. An optimized build has few of
/// these copies, and saves the allocation.
#[cfg(debug_assertions)]
pub(crate) struct InTransit<T>(Box<T>);

#[cfg(not(debug_assertions))]
pub(crate) struct InTransit<T>(T);

#[cfg(debug_assertions)]
impl<T> InTransit<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        *self.0
    }

    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}

#[cfg(not(debug_assertions))]
impl<T> InTransit<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0
    }

    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}
