//! [`InTransit`]: a value on its way through many functions.

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
