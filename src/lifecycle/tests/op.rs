//! [`Op`]: one step of a generated sequence.

use proptest::prelude::*;

use crate::lifecycle::event::StopKind;
use crate::lifecycle::exit::StopMode;

/// A step of a caller, a worker, or the clock. A worker is meant by its place in the table, and an op that does not
/// apply to it has no effect.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Start {
        key: u32,
        is_start: bool,
        waits_in: Option<usize>,
    },
    Stop {
        key: u32,
        kind: StopKind,
        waits_in: Option<usize>,
    },
    Crash {
        key: u32,
        is_between_runs: bool,
    },
    Shutdown,
    CallerCancels(usize),
    /// The worker gets its permit.
    InitBegins(usize),
    InitSucceeds(usize),
    InitFails(usize),
    ClosesItself(usize),
    /// The run ends, and the worker restarts.
    Restarts(usize),
    Exits(usize),
    /// The machine gets the oldest notice.
    DeliverNotice,
    DeadlineExpires(usize),
    CrashDeadlineExpires,
    ShutdownDeadlineExpires,
    /// Another registry takes a place of the limits that it shares with this one, or returns it.
    OtherTakesPlace,
    OtherReturnsPlace,
    /// A victim is stuck: the start that has waited shortest is refused.
    NoRoom,
}

fn stop_kind() -> impl Strategy<Value = StopKind> {
    prop_oneof![
        1 => Just(StopKind::Stop(StopMode::Drain)),
        1 => Just(StopKind::Stop(StopMode::Discard)),
        2 => Just(StopKind::Kill),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let waits_in = proptest::option::weighted(0.4, 0..6_usize);
    prop_oneof![
        8 => (0..3_u32, any::<bool>(), waits_in.clone())
            .prop_map(|(key, is_start, waits_in)| Op::Start { key, is_start, waits_in }),
        4 => (0..3_u32, stop_kind(), waits_in).prop_map(|(key, kind, waits_in)| Op::Stop { key, kind, waits_in }),
        3 => (0..3_u32, proptest::bool::weighted(0.1))
            .prop_map(|(key, is_between_runs)| Op::Crash { key, is_between_runs }),
        3 => (0..6_usize).prop_map(Op::Restarts),
        1 => Just(Op::CrashDeadlineExpires),
        5 => (0..6_usize).prop_map(Op::InitSucceeds),
        2 => (0..6_usize).prop_map(Op::InitFails),
        2 => (0..6_usize).prop_map(Op::ClosesItself),
        3 => (0..6_usize).prop_map(Op::InitBegins),
        4 => (0..6_usize).prop_map(Op::Exits),
        12 => Just(Op::DeliverNotice),
        2 => (0..8_usize).prop_map(Op::DeadlineExpires),
        2 => (0..20_usize).prop_map(Op::CallerCancels),
        1 => Just(Op::Shutdown),
        1 => Just(Op::ShutdownDeadlineExpires),
        2 => Just(Op::OtherTakesPlace),
        2 => Just(Op::OtherReturnsPlace),
        1 => Just(Op::NoRoom),
    ]
}
