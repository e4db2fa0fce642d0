//! [`Inspector`]: the list of registries that a program opens to inspection.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::inspect::Inspect;
use crate::inspect::view::View;
use crate::registry::builder::{Builder, OpenInspection};
use crate::util::clock::nanos;
use crate::util::panics::unwind_safe;
use crate::util::sync::{Mutex, lock};
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

/// The registries that a program opens to inspection. See [`inspect`](crate::inspect).
///
/// A clone refers to the same list. It does not keep a registry alive: a registry leaves the list when its shutdown is
/// complete, or when its runtime is dropped.
#[derive(Clone)]
pub struct Inspector(Arc<Opened>);

/// What the clones of an inspector share with each other and with the views of its registries.
pub(super) struct Opened {
    registries: Mutex<Listed>,
    allows_actions: AtomicBool,
    /// In nanoseconds.
    slow_after: AtomicU64,
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

    /// Sets how long a message may be in hand before that is an [event](crate::inspect::RecentKind::Slow). One second
    /// unless set. Applies to all clones, for registries that are built after it.
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

    fn add(&self, registry: &Arc<dyn Inspect>) {
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

impl<W: Worker> Builder<W> {
    /// Opens the registry to [inspection](crate::inspect): a console that has the inspector lists its workers.
    ///
    /// Off by default. `key` makes the text of a key. A key that is secret or personal can be shortened or hashed
    /// there; nothing else of this crate shows a key. It runs in the task of the reader, never in the owner, under no
    /// lock: it may use the registry. Keep it short: one read may call it for each worker. If it panics, the text is
    /// `(the text of this key panicked)`.
    ///
    /// It also makes the registry keep what [`WorkerInfo`](crate::inspect::WorkerInfo) and
    /// [`RecentEvent`](crate::inspect::RecentEvent) have beyond what is derived: see
    /// [What it costs](crate::inspect#what-it-costs).
    ///
    /// # Examples
    ///
    /// See [`inspect`](crate::inspect#examples).
    #[doc(alias("console", "observer"))]
    pub fn inspect(mut self, inspector: &Inspector, key: impl Fn(&W::Key) -> String + Send + Sync + 'static) -> Self {
        let opened = Arc::clone(&inspector.0);
        let slow_after = Duration::from_nanos(opened.slow_after.load(Ordering::Relaxed));
        self.set_inspection(OpenInspection {
            slow_after,
            open: Box::new(move |starter, feed, labels| {
                let view = Arc::new(View::new(starter, feed, Arc::downgrade(&opened), Box::new(key), labels));
                let shown: Arc<dyn Inspect> = view.clone();
                opened.add(&shown);
                view as Arc<dyn Any + Send + Sync>
            }),
        });
        self
    }

    /// Shows more of a worker where one worker is shown: for example its names and groups, or the node that it serves.
    ///
    /// It has no effect without [`inspect`](Self::inspect), and runs as the function there does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// use gen_registry::Aliases;
    /// use gen_registry::inspect::{Inspector, Query};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let names = Aliases::<String, Room>::new();
    /// let inspector = Inspector::new();
    /// let rooms = Registry::<Room>::builder()
    ///     .inspect(&inspector, u32::to_string)
    ///     .inspect_labels({
    ///         let names = names.clone();
    ///         move |room| names.names_of(room)
    ///     })
    ///     .build()?;
    /// let room = rooms.start(&7, ()).await?;
    /// names.register("lobby".to_string(), &room)?;
    ///
    /// let shown = &inspector.registries()[0];
    /// let listed = &shown.workers(&Query::default()).workers[0];
    /// let lobby = shown.worker(&listed.worker).ok_or("it runs")?;
    /// assert_eq!((&*lobby.key, lobby.labels), ("7", vec!["lobby".to_string()]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn inspect_labels(mut self, labels: impl Fn(&WorkerHandle<W>) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.set_inspection_labels(Box::new(labels));
        self
    }
}
