//! [`Heartbeat`]: keeps the timers of a runtime going while a thread of it blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;

/// Wakes a thread of the runtime from time to time, as other events do in a program.
///
/// A thread that begins to block right after it has waited for timers leaves them without a thread, until tokio wakes
/// another one. This is documented at the trait `Worker`.
pub(crate) struct Heartbeat {
    is_over: Arc<AtomicBool>,
}

impl Heartbeat {
    pub(crate) fn start(runtime: &Runtime) -> Self {
        let (is_over, handle) = (Arc::<AtomicBool>::default(), runtime.handle().clone());
        let heartbeat = Self { is_over: Arc::clone(&is_over) };
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                drop(handle.spawn(async {}));
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        heartbeat
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
