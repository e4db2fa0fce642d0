//! A `tracing` subscriber that reaches the device.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::device::Device;
use crate::place::Place;

/// Its deeds concern the spans that are made while the device is armed: those of the victim.
#[derive(Clone)]
pub(crate) struct Tracer(Arc<State>);

struct State {
    device: Device,
    next: AtomicU64,
    victims: Mutex<HashSet<u64>>,
}

impl Tracer {
    /// A subscriber for all threads of one runtime.
    pub(crate) fn dispatch(device: &Device) -> Dispatch {
        static KEEP: Once = Once::new();
        // While a subscriber exists that may be interested, no callsite is cached as disabled. A thread without one
        // would do so if it came first.
        KEEP.call_once(|| std::mem::forget(Dispatch::new(Self::new(&Device::new()))));
        Dispatch::new(Self::new(device))
    }

    fn new(device: &Device) -> Self {
        let (next, victims) = (AtomicU64::new(1), Mutex::default());
        Self(Arc::new(State { device: device.clone(), next, victims }))
    }

    fn reach_for(&self, span: &Id, place: Place) {
        let is_victim = {
            let victims = self.0.victims.lock().unwrap_or_else(PoisonError::into_inner);
            victims.contains(&span.into_u64())
        };
        if is_victim {
            self.0.device.reach(place);
        }
    }
}

/// Sets the subscriber of this thread for as long as it lives.
pub(crate) fn set_for_thread(dispatch: &Dispatch) {
    std::mem::forget(tracing::dispatcher::set_default(dispatch));
}

pub(crate) fn set(dispatch: &Dispatch) -> DefaultGuard {
    tracing::dispatcher::set_default(dispatch)
}

impl Subscriber for Tracer {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("gen_registry")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        if self.0.device.is_armed() {
            self.0.victims.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            self.0.device.reach(Place::SpanMade);
        }
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.0.device.reach(Place::TraceEvent);
        // A subscriber formats the fields.
        event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| drop(format!("{value:?}")));
    }

    fn enter(&self, span: &Id) {
        self.reach_for(span, Place::SpanEntered);
    }

    fn exit(&self, span: &Id) {
        self.reach_for(span, Place::SpanExited);
    }

    fn try_close(&self, span: Id) -> bool {
        self.reach_for(&span, Place::SpanClosed);
        true
    }

    fn current_span(&self) -> Current {
        Current::none()
    }
}
