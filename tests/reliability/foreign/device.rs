//! [`Device`]: what the foreign code of a test does when it is reached.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use test_support::within;
use tokio::sync::Semaphore;

use crate::host::VICTIM;
use crate::place::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Panic,
    /// Blocks its thread until the test releases it.
    Block,
    /// Calls verbs of the registry.
    Call,
    /// Stops the worker and shuts the registry down.
    End,
}

/// Foreign code reaches the device by its place. If the device is armed with it, the deed is done, once.
#[derive(Clone)]
pub(crate) struct Device(Arc<Inner>);

struct Inner {
    armed: Mutex<Option<(Place, Deed)>>,
    /// Calls the registry. Taken by the deed.
    verbs: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Closed by the deed, which wakes all that wait for it. A task that is woken on a thread that blocks waits behind it.
    deed: Semaphore,
    is_released: Mutex<bool>,
    released: Condvar,
    /// How many tracked values are alive.
    live: AtomicI64,
    /// `Mailbox::recv` is polled with wakers of the test.
    wraps_receiver: AtomicBool,
    receiver: Mutex<Option<Waker>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            armed: Mutex::new(None),
            verbs: Mutex::new(None),
            deed: Semaphore::new(0),
            is_released: Mutex::new(false),
            released: Condvar::new(),
            live: AtomicI64::new(0),
            wraps_receiver: AtomicBool::new(false),
            receiver: Mutex::new(None),
        }))
    }

    pub(crate) fn set_verbs(&self, verbs: impl FnOnce() + Send + 'static) {
        *lock(&self.0.verbs) = Some(Box::new(verbs));
    }

    pub(crate) fn arm(&self, place: Place, deed: Deed) {
        *lock(&self.0.armed) = Some((place, deed));
    }

    pub(crate) fn is_armed(&self) -> bool {
        lock(&self.0.armed).is_some()
    }

    /// Takes back what was not reached, and ends a block.
    pub(crate) fn release(&self) {
        *lock(&self.0.armed) = None;
        drop(lock(&self.0.verbs).take());
        *lock(&self.0.is_released) = true;
        self.0.released.notify_all();
    }

    /// Called by foreign code.
    pub(crate) fn reach(&self, place: Place) {
        let deed = {
            let mut armed = lock(&self.0.armed);
            let Some((_, deed)) = armed.filter(|&(at, _)| at == place) else { return };
            *armed = None;
            deed
        };
        if matches!(deed, Deed::Panic | Deed::Block) {
            self.0.deed.close();
        }
        match deed {
            // Like `panic!`, but prints nothing.
            Deed::Panic if !std::thread::panicking() => resume_unwind(Box::new("a panic of foreign code")),
            Deed::Panic => {}
            Deed::Block => {
                let released = lock(&self.0.is_released);
                drop(self.0.released.wait_while(released, |is_released| !*is_released));
            }
            Deed::Call | Deed::End => {
                let verbs = lock(&self.0.verbs).take();
                verbs.expect("the test has set them")();
                self.0.deed.close();
            }
        }
    }

    /// Waits until the deed is done, or until the code blocks.
    pub(crate) async fn reached(&self) {
        // It never has a permit.
        drop(within(self.0.deed.acquire(), "the foreign code does not run").await);
    }

    pub(crate) fn was_reached(&self) -> bool {
        self.0.deed.is_closed()
    }

    /// The number of tracked values that are alive.
    pub(crate) fn live(&self) -> i64 {
        self.0.live.load(Ordering::SeqCst)
    }

    pub(crate) fn wrap_receiver(&self) {
        self.0.wraps_receiver.store(true, Ordering::SeqCst);
    }

    /// The waker with which a worker polls its mailbox, if it is not that of its task.
    pub(crate) fn receiver_waker(&self, cx: &Context<'_>) -> Option<Waker> {
        if !self.0.wraps_receiver.load(Ordering::SeqCst) {
            return None;
        }
        *lock(&self.0.receiver) = Some(cx.waker().clone());
        Some(ForeignWaker::wrap(self, cx.waker().clone(), Place::WakeForRoom, Place::WakerDropInMailbox))
    }

    /// Polls the worker that has wrapped its waker.
    pub(crate) fn wake_receiver(&self) -> bool {
        let waker = lock(&self.0.receiver).take();
        waker.map(Waker::wake).is_some()
    }
}

/// A value whose `Drop` reaches the device, and which is counted.
pub(crate) struct Tracked {
    device: Device,
    place: Place,
    is_loud: bool,
}

impl Tracked {
    /// It reaches the device if it belongs to the [`VICTIM`].
    pub(crate) fn new(device: &Device, place: Place, id: u32) -> Self {
        device.0.live.fetch_add(1, Ordering::SeqCst);
        Self { device: device.clone(), place, is_loud: id == VICTIM }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.device.0.live.fetch_sub(1, Ordering::SeqCst);
        if self.is_loud {
            self.device.reach(self.place);
        }
    }
}

/// A waker of another executor.
pub(crate) struct ForeignWaker {
    inner: Waker,
    wake: Place,
    tracked: Tracked,
}

impl ForeignWaker {
    pub(crate) fn wrap(device: &Device, inner: Waker, wake: Place, drop: Place) -> Waker {
        Waker::from(Arc::new(Self { inner, wake, tracked: Tracked::new(device, drop, VICTIM) }))
    }
}

impl Wake for ForeignWaker {
    fn wake(self: Arc<Self>) {
        self.inner.wake_by_ref();
        self.tracked.device().reach(self.wake);
    }
}
