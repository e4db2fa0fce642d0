//! From what the library knows to what the JSON has.

use std::fmt::{self, Display, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use gen_registry::inspect::{Action, Inspect, Parent, RecentEvent, RecentKind, WorkerView};
use gen_registry::{Stats, WorkerState};

use crate::json;

/// Milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds of the epoch. A clock before 1970 shows 0.
pub(crate) fn moment(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}

pub(crate) fn now() -> u64 {
    moment(SystemTime::now())
}

/// The longest text of an error that is shown, in bytes.
const LONGEST: usize = 4_096;

/// A text that code of the program makes: the `Display` of an error. A panic of it is contained, and what is longer than
/// 4 KiB is cut off while it is written.
pub(crate) fn text_of(shown: &dyn Display) -> String {
    let mut text = Bounded(String::new());
    match catch_unwind(AssertUnwindSafe(|| write!(text, "{shown}"))) {
        Ok(Ok(())) => text.0,
        Ok(Err(_)) => text.0 + "\u{2026}",
        Err(_) => "(the text of this error panicked)".to_owned(),
    }
}

/// A text of at most [`LONGEST`] bytes. What is longer is an error.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = LONGEST - self.0.len();
        let end = (0..=room.min(more.len())).rev().find(|end| more.is_char_boundary(*end));
        self.0.push_str(&more[..end.unwrap_or(0)]);
        if more.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

/// A registry's name, or its worker's type without the path.
pub(crate) fn name(registry: &dyn Inspect) -> String {
    if !registry.name().is_empty() {
        return registry.name().to_owned();
    }
    // `a::b::Room<c::D>` is Room<c::D>.
    let full = registry.worker_type();
    let generics = full.find('<').unwrap_or(full.len());
    let start = full[..generics].rfind("::").map_or(0, |at| at + 2);
    full[start..].to_owned()
}

/// A registry without rates, options and history.
pub(crate) fn registry(registry: &dyn Inspect) -> json::Registry {
    let stats = registry.stats();
    let actions =
        if registry.allows_actions() { Action::ALL.iter().map(Action::to_string).collect() } else { Vec::new() };
    json::Registry {
        id: registry.id(),
        name: name(registry),
        built: moment(registry.built_at()),
        parent: registry.parents().into_iter().next().map(parent),
        workers: json::Workers {
            starting: stats.starting,
            running: stats.running,
            restarting: stats.restarting,
            stopping: stats.stopping,
            waiting_for_turn: stats.waiting_for_turn,
            waiting_for_room: stats.waiting_for_room,
        },
        limit: stats.limit,
        capacity: capacity(registry),
        starts: stats.starts.into(),
        exits: stats.exits.into(),
        crashes: crashes(&stats),
        restarts: stats.restarts.total() + stats.restarts_by_caller.total(),
        gave_up: stats.gave_up,
        task_panics: stats.task_panics,
        lookups: stats.lookups.into(),
        handled: stats.handled,
        undelivered: stats.undelivered.into(),
        queued: stats.queued,
        fullest: stats.fullest_mailbox,
        owner_queue: stats.owner_queue,
        actions,
        ..json::Registry::default()
    }
}

/// Each crash is followed by a restart or by an exit, and the library counts those.
fn crashes(stats: &Stats) -> u64 {
    let (restarts, exits) = (stats.restarts, stats.exits);
    restarts.failed + restarts.panicked + restarts.crashed + exits.failed + exits.panicked + exits.crashed
}

pub(crate) fn options(registry: &dyn Inspect) -> Vec<(String, String)> {
    registry.options().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The option `mailbox_capacity`, which the library has as a text.
fn capacity(registry: &dyn Inspect) -> usize {
    let options = registry.options();
    let capacity = options.iter().find(|(name, _)| *name == "mailbox_capacity");
    capacity.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
}

fn parent(parent: Parent) -> json::Parent {
    json::Parent { registry: parent.registry, worker: parent.worker.to_string(), key: parent.key }
}

pub(crate) fn row(view: &WorkerView) -> json::Row {
    let info = &view.info;
    json::Row {
        key: view.key.clone(),
        worker: view.worker.to_string(),
        state: info.state.to_string(),
        incarnation: info.incarnation,
        age: info.age.map(millis),
        queued: info.queued,
        capacity: info.capacity,
        handled: info.handled,
        restarts: info.restarts,
        idle: info.idle_for.map(millis),
        busy: info.busy_for.map(millis),
    }
}

/// A worker without children and events.
pub(crate) fn worker(view: &WorkerView) -> json::Worker {
    let info = &view.info;
    json::Worker {
        now: now(),
        row: row(view),
        started: info.started_at.map(moment),
        undelivered: info.undelivered,
        budget: info.restarts_allowed.map(|allowed| json::Budget { used: info.restarts_used, allowed }),
        crash: info
            .last_crash
            .as_ref()
            .map(|crash| json::Crash { at: crash.at.map(moment), reason: text_of(&crash.reason) }),
        labels: view.labels.clone(),
        children: Vec::new(),
        events: Vec::new(),
    }
}

/// An event without its sequence.
pub(crate) fn event(event: RecentEvent, registry: u64, name: &str) -> json::Event {
    json::Event {
        sequence: 0,
        at: moment(event.at),
        registry,
        name: name.to_owned(),
        kind: event.kind.name().to_owned(),
        level: level(&event.kind).to_owned(),
        key: event.key,
        worker: event.worker.map(|worker| worker.to_string()),
        incarnation: event.incarnation,
        detail: detail(&event.kind),
    }
}

/// What the kind does not say itself.
fn detail(kind: &RecentKind) -> String {
    match kind {
        RecentKind::Restarted => String::new(),
        RecentKind::Evicted { others: 0 } => "to make room".to_owned(),
        RecentKind::Evicted { others } => format!("to make room, after {others} others"),
        RecentKind::StartFailed { reason } => text_of(reason),
        RecentKind::Slow { lasted, is_in_hand } => {
            let (verb, seconds) = (if *is_in_hand { "is" } else { "was" }, lasted.as_secs_f64());
            format!("a message {verb} in hand for {seconds:.1} s")
        }
        RecentKind::MailboxFull { undelivered: 1 } => "1 message undelivered so far".to_owned(),
        RecentKind::MailboxFull { undelivered } => format!("{undelivered} messages undelivered so far"),
        kind => text_of(kind),
    }
}

fn level(kind: &RecentKind) -> &'static str {
    match kind {
        RecentKind::Crashed { .. } | RecentKind::GaveUp { .. } => "crash",
        RecentKind::Restarted | RecentKind::Evicted { .. } => "note",
        // Of kinds to come, better one too many is shown.
        _ => "warning",
    }
}

/// The states that a list may ask for.
pub(crate) const STATES: [(&str, Option<WorkerState>); 5] = [
    ("any", None),
    ("starting", Some(WorkerState::Starting)),
    ("running", Some(WorkerState::Running)),
    ("restarting", Some(WorkerState::Restarting)),
    ("stopping", Some(WorkerState::Stopping)),
];

#[cfg(test)]
mod tests {
    use super::*;

    struct Endless;

    impl Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("\u{e4}nd so on ")?;
            }
        }
    }

    struct Panics;

    impl Display for Panics {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half of it")?;
            panic!("a text that panics")
        }
    }

    #[test]
    fn text_of_an_error_is_bounded_and_contained() {
        assert_eq!(text_of(&"short"), "short");
        let endless = text_of(&Endless);
        assert!(
            (LONGEST - 3..LONGEST + 4).contains(&endless.len()) && endless.ends_with('\u{2026}'),
            "{}",
            endless.len()
        );
        assert_eq!(text_of(&"x".repeat(LONGEST)).len(), LONGEST);
        assert_eq!(text_of(&Panics), "(the text of this error panicked)");
    }
}
