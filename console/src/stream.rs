//! The stream of a page: what moves, as server-sent events. (rules 6 and 7 of [`api`](crate::api))
//!
//! A stream is a loop that is polled by its connection. It makes one event when the connection asks for one, from the newest
//! state: nothing is queued for a client, so a slow one costs what a fast one costs, and delays nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream;
use futures_util::stream::unfold;
use gen_registry::inspect::{Query, WorkerRef};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::json;
use crate::state::{MOST_STREAMS, Sampled, State};
use crate::workers;

/// A stream ends after this, and its client opens another: what it holds is bounded in time too.
const LIFETIME: Duration = Duration::from_secs(600);
/// Events of the feed in one event of the stream.
const MOST_EVENTS: usize = 500;
const LIST: Duration = Duration::from_secs(1);
const WORKER: Duration = Duration::from_millis(250);
/// All streams together read lists for at most the 200th part of the time: half a percent of a core.
const SHARE: u32 = 200;
/// The same while a list of many workers has not been examined once: otherwise that would take long.
const FIRST_SHARE: u32 = 50;

/// What the page of a stream shows beside the registries and the events. By the number of its registry: a reader that holds a
/// registry keeps it in the list of all, after its end too.
pub(crate) enum Focus {
    Nothing,
    List { registry: u64, query: Query },
    Worker { registry: u64, worker: WorkerRef },
}

struct Follow {
    state: Arc<State>,
    focus: Focus,
    /// The list that was read last, and when the next one is due.
    page: Option<(json::Page, Instant)>,
    sampled: watch::Receiver<Arc<Sampled>>,
    latest: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
    /// The sequence of the last event that was sent.
    after: u64,
    ticks: Interval,
    ends: Instant,
    /// Given back when the connection drops the stream.
    _permit: OwnedSemaphorePermit,
}

/// Makes the stream of a page. `after` is the last event that it knows.
pub(crate) fn follow(
    state: Arc<State>,
    focus: Focus,
    after: u64,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let period = if matches!(focus, Focus::Worker { .. }) { WORKER } else { LIST };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sampled, mut latest) = (state.sampled.subscribe(), state.latest.subscribe());
    // Both are sent at once.
    sampled.mark_changed();
    latest.mark_changed();
    let closed = state.closed.subscribe();
    let ends = Instant::now() + LIFETIME;
    let follow = Follow { state, focus, page: None, sampled, latest, closed, after, ticks, ends, _permit: permit };
    unfold(follow, async |mut follow| {
        let event = follow.next().await?;
        Some((Ok(event), follow))
    })
}

impl Follow {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if *self.closed.borrow() {
                return None;
            }
            // Each branch is cancel safe. The senders live as long as the state, so that a change is no error.
            tokio::select! {
                _ = self.closed.changed() => return None,
                () = sleep_until(self.ends) => return None,
                Ok(()) = self.sampled.changed() => {
                    let sampled = Arc::clone(&self.sampled.borrow_and_update());
                    return Some(Event::default().event("registries").data(sampled.text()));
                }
                Ok(()) = self.latest.changed() => {
                    self.latest.mark_unchanged();
                    let feed = self.state.events(self.after, MOST_EVENTS);
                    self.after = feed.latest;
                    if !feed.events.is_empty() {
                        return Some(event("events", &feed));
                    }
                }
                _ = self.ticks.tick() => {
                    if let Some(event) = self.read_focus().await {
                        return Some(event);
                    }
                }
            }
        }
    }

    async fn read_focus(&mut self) -> Option<Event> {
        match &self.focus {
            Focus::Nothing => None,
            Focus::Worker { registry, worker } => {
                let found = self.state.inspector.registry(*registry).and_then(|registry| registry.worker(worker));
                let detail = found.map(|view| workers::detail(&self.state, *registry, &view));
                Some(event("worker", &detail))
            }
            Focus::List { registry, query } => {
                // The page knows from the next sample that there is none.
                let registry = self.state.inspector.registry(*registry)?;
                match &mut self.page {
                    Some((page, due)) if Instant::now() < *due => workers::refresh(registry.as_ref(), page),
                    page => {
                        // A list that cannot be read now is read with a later tick.
                        let read = workers::page(&self.state, Arc::clone(&registry), query.clone()).await.ok()?;
                        let open = MOST_STREAMS - self.state.streams.available_permits();
                        let share = if read.complete { SHARE } else { FIRST_SHARE };
                        let pause = Duration::from_micros(read.took) * share * u32::try_from(open).unwrap_or(1);
                        if read.complete {
                            *page = Some((read, Instant::now() + pause.max(LIST)));
                        } else {
                            // The next part may be due sooner than the next tick.
                            self.ticks.reset_after(pause.min(LIST));
                            *page = Some((read, Instant::now() + pause));
                        }
                    }
                }
                self.page.as_ref().map(|(page, _)| event("workers", page))
            }
        }
    }
}

fn event(name: &str, value: &impl serde::Serialize) -> Event {
    // It fails for maps whose keys are no texts, and there are none.
    Event::default().event(name).data(serde_json::to_string(value).unwrap_or_default())
}
