//! [`Inspector`]: the list of registries that a program opens to inspection.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::inspect::Inspect;
use crate::util::clock::nanos;
use crate::util::panics::unwind_safe;
use crate::util::sync::{Mutex, lock};

/// The registries that a program opens to inspection. See [`inspect`](crate::inspect).
///
/// A clone refers to the same list. It does not keep a registry alive: a registry leaves the list when its shutdown is
/// complete, or when its runtime is dropped.
#[derive(Clone)]
pub struct Inspector(pub(super) Arc<Opened>);

/// What the clones of an inspector share with each other and with the views of its registries.
pub(super) struct Opened {
    registries: Mutex<Listed>,
    allows_actions: AtomicBool,
    /// In nanoseconds.
    pub(super) slow_after: AtomicU64,
}

/// The registries by their numbers. A program in which each worker owns a registry has very many of them, so that neither an
/// addition nor a search looks at each.
#[derive(Default)]
struct Listed {
    by_number: Vec<(u64, Weak<dyn Inspect>)>,
    /// The length at which those that have ended are removed: twice what was left the last time.
    most: usize,
}

impl Listed {
    fn add(&mut self, number: u64, registry: Weak<dyn Inspect>) {
        if self.by_number.len() >= self.most {
            self.remove_ended();
            self.most = 2 * self.by_number.len().max(32);
        }
        // Two registries that are built at the same time may arrive in either order.
        let place = self.by_number.partition_point(|(other, _)| *other < number);
        self.by_number.insert(place, (number, registry));
    }

    fn remove_ended(&mut self) {
        self.by_number.retain(|(_, registry)| registry.strong_count() > 0);
    }
}

impl Inspector {
    /// Makes an inspector without registries, which allows no actions.
    #[allow(clippy::new_without_default, reason = "one that is not given to a registry is of no use")]
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Opened {
            registries: Mutex::default(),
            allows_actions: AtomicBool::new(false),
            slow_after: AtomicU64::new(nanos(Duration::from_secs(1))),
        }))
    }

    /// Allows to [stop, kill, crash and restart](crate::inspect::Action) the workers of all registries of this
    /// inspector, by [`Inspect::act`]. All code that may read the inspector may then act, unless the console restricts
    /// that. This applies to all clones.
    #[must_use]
    pub fn allow_actions(self) -> Self {
        // Relaxed: nothing else depends on it.
        self.0.allows_actions.store(true, Ordering::Relaxed);
        self
    }

    /// Sets how long the handling of a message may take before it is an [event](crate::inspect::RecentKind::Slow). One
    /// second unless set. Applies to all clones, for registries that are built after it.
    #[must_use]
    pub fn slow_after(self, time: Duration) -> Self {
        self.0.slow_after.store(nanos(time), Ordering::Relaxed);
        self
    }

    /// Returns the registries, in the order in which they were built.
    pub fn registries(&self) -> Vec<Arc<dyn Inspect>> {
        self.0.registries()
    }

    /// Returns the registry with this [number](Inspect::id).
    pub fn registry(&self, id: u64) -> Option<Arc<dyn Inspect>> {
        self.0.registry(id)
    }
}

impl Opened {
    fn registries(&self) -> Vec<Arc<dyn Inspect>> {
        let mut registries = lock(&self.registries);
        registries.remove_ended();
        registries.by_number.iter().filter_map(|(_, registry)| registry.upgrade()).collect()
    }

    pub(super) fn registry(&self, number: u64) -> Option<Arc<dyn Inspect>> {
        let registries = lock(&self.registries);
        let place = registries.by_number.binary_search_by_key(&number, |(other, _)| *other).ok()?;
        registries.by_number[place].1.upgrade()
    }

    pub(super) fn allows_actions(&self) -> bool {
        self.allows_actions.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, registry: &Arc<dyn Inspect>) {
        lock(&self.registries).add(registry.id(), Arc::downgrade(registry));
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("registries", &self.registries().len())
            .field("allows_actions", &self.0.allows_actions())
            .finish_non_exhaustive()
    }
}

unwind_safe! {
    [] Inspector;
}
