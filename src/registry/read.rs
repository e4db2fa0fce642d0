//! The verbs that read all workers: `count`, `reduce`, `sample`, `to_list`, `stats` and `subscribe`.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use crate::metrics::stats::{BACKLOG_SAMPLE, Stats};
use crate::registry::Registry;
use crate::worker::Worker;
use crate::worker::events::Events;
use crate::worker::handle::WorkerHandle;

impl<W: Worker> Registry<W> {
    /// Returns the number of workers that a lookup would find. One atomic load.
    #[doc(alias("len"))]
    pub fn count(&self) -> usize {
        self.starter.shared.numbers.live.load(Ordering::Relaxed)
    }

    /// Folds over the workers.
    ///
    /// A worker that is present throughout is seen exactly once. A worker that starts or stops meanwhile may be missed.
    /// If the table is being resized, the fold helps to complete that first, or waits for the thread that does.
    ///
    /// The closure runs in the caller, under a guard that delays the reclamation of memory: keep it short, and collect
    /// handles in it instead of waiting.
    ///
    /// # Panics
    ///
    /// If the closure panics. The registry is not affected.
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// for n in [3, 1, 2] {
    ///     rooms.start(&n, ()).await?;
    /// }
    /// assert_eq!(rooms.reduce(0, |max, &key, _room| key.max(max)), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("for_each", "fold", "iter"))]
    pub fn reduce<A>(&self, init: A, mut f: impl FnMut(A, &W::Key, &WorkerHandle<W>) -> A) -> A {
        let open = |handle: &WorkerHandle<W>| handle.is_open().then_some(());
        let folded = self.starter.table.fold(init, open, |folded, handle, ()| f(folded, handle.key(), handle));
        // A panic in the `Drop` of a captured value would leak a return value that is already in place.
        drop(f);
        folded
    }

    /// Returns one of the workers, or `None` if there is none.
    ///
    /// The choice is neither specified nor random: it is the first worker in the order of the table, and so the same one
    /// again and again. To spread work over workers, give them fixed keys and pick one of these.
    ///
    /// It takes a few steps while the table is about as full as it has been. A table that has shrunk is searched past
    /// its empty places: with ten workers left of a million, that takes some milliseconds. The same holds for
    /// [`reduce`](Self::reduce) and [`to_list`](Self::to_list).
    #[doc(alias("random"))]
    pub fn sample(&self) -> Option<WorkerHandle<W>> {
        let found = self.starter.table.try_fold((), |(), handle| {
            if handle.is_open() { ControlFlow::Break(handle.clone()) } else { ControlFlow::Continue(()) }
        });
        match found {
            ControlFlow::Break(handle) => Some(handle),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Returns the handles of all workers. A handle has the worker's [key](WorkerHandle::key).
    ///
    /// The list is as consistent as that of [`reduce`](Self::reduce).
    #[doc(alias("all", "keys", "values"))]
    pub fn to_list(&self) -> Vec<WorkerHandle<W>> {
        self.reduce(Vec::with_capacity(self.count()), |mut list, _, handle| {
            list.push(handle.clone());
            list
        })
    }

    /// Subscribes to the events of this registry's workers from now on: starts, restarts, exits and spent restart
    /// budgets.
    ///
    /// Past events are not kept, and a registry without a subscription makes none. The [`Events`] keep the registry's
    /// memory alive, but no worker.
    #[doc(alias("watch"))]
    pub fn subscribe(&self) -> Events<W> {
        self.starter.shared.events.subscribe()
    }

    /// Returns the registry's counters: how many workers are in each state, and totals since the registry was built.
    ///
    /// It inspects at most 1,024 mailboxes, and never waits for the owner. The totals add up exactly while nothing
    /// starts, ends or is sent.
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// rooms.start(&1, ()).await?;
    /// rooms.start(&2, ()).await?;
    /// rooms.stop(&1).await?;
    ///
    /// let stats = rooms.stats();
    /// assert_eq!((stats.running, stats.starts.ok, stats.exits.stopped), (1, 2, 1));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("info"))]
    pub fn stats(&self) -> Stats {
        let shared = &self.starter.shared;
        let workers = shared.numbers.workers.load(Ordering::Relaxed);
        shared.stats(self.starter.table.backlog(workers, BACKLOG_SAMPLE))
    }
}
