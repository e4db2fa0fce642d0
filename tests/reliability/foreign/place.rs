//! [`Place`]: where foreign code runs, and what the table says about it.

use std::collections::BTreeMap;

macro_rules! places {
    ($($place:ident: $name:literal,)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Place {
            $($place,)+
        }

        impl Place {
            pub(crate) const ALL: &[Self] = &[$(Self::$place,)+];

            /// The name of its row in the table.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$place => $name,)+
                }
            }
        }
    };
}

places! {
    KeyHash: "a key's `Hash`",
    KeyEqInLookup: "a key's `Eq`, in a lookup",
    KeyEqInOwner: "a key's `Eq`, in a start",
    KeyClone: "a key's `Clone`",
    KeyDrop: "a key's `Drop`",
    KeyDebug: "a key's `Debug` (`trace_keys`)",
    ArgsMade: "the closure of `lookup_or_start_with`",
    ArgsMadeByVia: "the closure of `via_or_start_with`",
    ArgsClone: "the arguments' `Clone`, in a restart policy",
    ArgsDropUnused: "the arguments' `Drop`, of a start that finds a worker",
    ArgsDropAbandoned: "the arguments' `Drop`, of a caller that was dropped",
    Accepts: "the closure of `Builder::accepts`",
    AcceptsDrop: "the same, its `Drop`",
    Init: "`Worker::init`",
    Handle: "`Worker::handle`",
    Terminate: "`Worker::terminate`",
    StateDrop: "the state's `Drop`, without `terminate`",
    ErrorInto: "an error's `Into<Box<dyn Error>>`",
    ErrorDisplay: "an error's `Display` (`tracing`)",
    ErrorDrop: "an error's `Drop`",
    MessageMade: "the closure of `call`",
    MessageDropRefused: "a message's `Drop`, of a call that is refused",
    MessageDropUndelivered: "a message's `Drop`, undelivered",
    AnswerDrop: "an answer's `Drop`, of a caller that was dropped",
    Undelivered: "the closure of `Builder::on_undelivered`",
    UndeliveredDrop: "the same hook's `Drop`",
    Fold: "the closure of `Registry::reduce`",
    Broadcast: "the closure of `Groups::broadcast`",
    TaskCode: "a task of `Context::spawn`",
    TaskDrop: "the `Drop` of its captures, when it is aborted",
    BlockingCode: "the work of `Context::spawn_blocking`",
    Interval: "the closure of `Context::send_interval`",
    Monitor: "the closure of `Context::monitor`",
    TimerMessageDrop: "the `Drop` of a message of `send_after`, cancelled",
    NameHash: "a name's `Hash`",
    NameEqInRead: "a name's `Eq`, in a read",
    NameEqInChange: "a name's `Eq`, in a change",
    NameClone: "a name's `Clone`",
    NameDrop: "a name's `Drop`, at its worker's exit",
    NameFold: "the closure of `Aliases::reduce`",
    PropertyEqInChange: "a property's `Eq`, in a change",
    WakeForReply: "a waker that awaits an answer",
    WakeForRoom: "a waker that awaits room in a mailbox",
    WakeForClose: "a waker that awaits room, when a stop closes the mailbox",
    WakeForStart: "a waker that awaits a start",
    WakeForStop: "a waker that awaits a stop",
    WakeForExit: "a waker that awaits `closed`",
    WakeForEvent: "a waker that awaits an event, of a stop",
    WakeForReport: "a waker that awaits a shutdown",
    WakeForName: "a waker that awaits a registration",
    WakeForTask: "a waker that awaits a worker's task",
    WakerDropReplaced: "a waker's `Drop`, replaced in a send",
    WakerDropCancelled: "a waker's `Drop`, of a send that is dropped",
    WakerDropInMailbox: "a waker's `Drop`, replaced in `Mailbox::recv`",
    Recorder: "a metrics recorder, in a report",
    RecorderInHandling: "a metrics recorder, after a message (`measure_handling`)",
    RecorderDrop: "a metrics recorder's `Drop`",
    SpanMade: "a `tracing` subscriber's `new_span`",
    SpanEntered: "a `tracing` subscriber's `enter`",
    SpanExited: "a `tracing` subscriber's `exit`",
    SpanClosed: "a `tracing` subscriber's `try_close`",
    TraceEvent: "a `tracing` subscriber's `event`",
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// Where its panic ends.
    pub(crate) panic: &'static str,
    /// What its block delays.
    pub(crate) block: &'static str,
}

/// Reads the table of `places.md`.
pub(crate) fn table() -> BTreeMap<&'static str, Row> {
    let rows = include_str!("places.md").lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let &[name, _runs_in, panic, block] = &*cells else { return None };
        Some((name, Row { panic, block }))
    });
    // The first two rows are the head.
    rows.filter(|(name, _)| !["place", "---"].contains(name)).collect()
}

#[test]
fn table_has_a_row_for_each_place() {
    let named: std::collections::BTreeSet<_> = Place::ALL.iter().map(|place| place.name()).collect();
    assert_eq!(named.len(), Place::ALL.len(), "two places have one name");
    let rows: std::collections::BTreeSet<_> = table().into_keys().collect();
    assert_eq!(rows, named);
}
