//! What a worker emits to `tracing`: a span around all of its code, and an event when a run crashes, a start fails or
//! a restart follows.
//!
//! The span has the registry's name and the worker's id. It has the key only with `Builder::trace_keys`, because a
//! key may be a secret. All calls are made in the worker's own task: a subscriber is foreign code (G4). A panic in
//! any of the subscriber's methods is contained (G5).
//!
//! The worker's own tasks (`ctx.spawn`, timers, ...) run in the span in which they were made: the span of the worker,
//! or a child.

#[cfg(feature = "tracing")]
pub(crate) use on::{Trace, ended, task_panicked};

#[cfg(not(feature = "tracing"))]
pub(crate) use off::{Trace, ended, task_panicked};

#[cfg(feature = "tracing")]
mod on {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use tracing::field::Empty;
    use tracing::span::Entered;
    use tracing::{Level, Span, error, span_enabled, warn};

    use crate::lifecycle::id::WorkerId;
    use crate::lifecycle::{Exit, StartFailure};
    use crate::util::panics::{catch_panic, drop_payload};
    use crate::util::seeded::seeded;
    use crate::worker::Worker;
    use crate::worker::cell::{CellCore, WorkerCell};

    /// A worker's span, if a subscriber is interested in it. Boxed: each worker has one of these for its whole life.
    pub(crate) struct Trace(Option<Box<Span>>);

    impl Trace {
        pub(crate) fn new<W: Worker>(cell: &WorkerCell<W>) -> Self {
            Self::new_worker(&cell.shared.name, cell.entry.id, &|| Some(cell.shared.format_key?(&cell.key)))
        }

        fn new_worker(registry: &str, id: WorkerId, key: &dyn Fn() -> Option<String>) -> Self {
            // If the subscriber or the key's `Debug` panics, the worker has no span, and starts all the same. (G5)
            Self::of(|| {
                if !span_enabled!(target: "gen_registry", Level::INFO, "worker") {
                    return Span::none();
                }
                let span = tracing::info_span!(
                    target: "gen_registry", parent: None, "worker", registry, id = id.0, key = Empty,
                );
                if !span.is_disabled() {
                    if let Some(key) = key() {
                        span.record("key", key.as_str());
                    }
                }
                span
            })
        }

        /// The current span: in the worker's own code, the worker's span or a child.
        pub(crate) fn current() -> Self {
            seeded!(TasksOutsideSpan => return Self(None));
            Self::of(Span::current)
        }

        fn of(make: impl FnOnce() -> Span) -> Self {
            let made = catch_unwind(AssertUnwindSafe(make));
            Self(made.map_err(drop_payload).ok().filter(|span| !span.is_disabled()).map(Box::new))
        }

        /// Enters the span until the guard is dropped. If the subscriber panics, the span is not entered.
        #[inline]
        pub(crate) fn enter(&self) -> Option<Inside<'_>> {
            seeded!(SubscriberPanicEscapes => return self.0.as_ref().map(|span| Inside(Some(span.enter()))));
            self.0.as_ref().and_then(|span| {
                let entered = catch_unwind(AssertUnwindSafe(|| span.enter()));
                entered.map_err(drop_payload).ok().map(|entered| Inside(Some(entered)))
            })
        }
    }

    impl Drop for Trace {
        /// Closes the span. The subscriber may panic.
        fn drop(&mut self) {
            if let Some(span) = self.0.take() {
                catch_panic(|| drop(span));
            }
        }
    }

    /// A span that is entered.
    pub(crate) struct Inside<'s>(Option<Entered<'s>>);

    impl Drop for Inside<'_> {
        /// Exits the span. The subscriber may panic, also while another panic unwinds.
        fn drop(&mut self) {
            let entered = self.0.take();
            catch_panic(|| drop(entered));
        }
    }

    /// Emits an event for a panic in one of the worker's own tasks.
    pub(crate) fn task_panicked(registry: &str, cell: &CellCore, reason: &str) {
        let id = cell.entry.id.0;
        catch_panic(|| error!(target: "gen_registry", registry, id, reason, "a task of the worker panicked"));
    }

    /// Emits an event for the end of a run that an operator should know of, and for the restart that follows.
    pub(crate) fn ended(registry: &str, cell: &CellCore, exit: &Exit, next_after: Option<Duration>) {
        let (id, incarnation) = (cell.entry.id.0, cell.incarnation());
        catch_panic(|| match exit {
            Exit::Ended(reason) => {
                if reason.is_crash() {
                    error!(target: "gen_registry", registry, id, incarnation, %reason, "the worker crashed");
                }
                if let Some(after) = next_after {
                    warn!(target: "gen_registry", registry, id, incarnation, ?after, "the worker is restarted");
                } else if cell.has_reached_restart_limit() {
                    warn!(target: "gen_registry", registry, id, incarnation, "the worker has spent its restarts");
                }
            }
            Exit::NotStarted(StartFailure::Panicked(reason)) => {
                error!(target: "gen_registry", registry, id, %reason, "the worker panicked while it started");
            }
            Exit::NotStarted(StartFailure::Init(reason)) => {
                warn!(target: "gen_registry", registry, id, %reason, "the worker could not be started");
            }
            Exit::NotStarted(_) | Exit::NotRestarted(_) => {}
        });
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::time::Duration;

    use crate::lifecycle::Exit;
    use crate::worker::Worker;
    use crate::worker::cell::{CellCore, WorkerCell};

    pub(crate) struct Trace;

    impl Trace {
        pub(crate) fn new<W: Worker>(_: &WorkerCell<W>) -> Self {
            Self
        }

        pub(crate) fn current() -> Self {
            Self
        }

        pub(crate) fn enter(&self) -> Option<std::convert::Infallible> {
            None
        }
    }

    pub(crate) fn task_panicked(_: &str, _: &CellCore, _: &str) {}

    pub(crate) fn ended(_: &str, _: &CellCore, _: &Exit, _: Option<Duration>) {}
}
