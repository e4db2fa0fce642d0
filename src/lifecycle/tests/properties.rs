//! Generated sequences of [`Op`]s, each continued until every caller must have its reply.

use proptest::prelude::*;

use crate::lifecycle::Limits;
use crate::lifecycle::event::StopKind;
use crate::lifecycle::exit::StopMode;
use crate::lifecycle::tests::world::{Gate, World};

impl World {
    /// Workers do what they are asked to and no deadline expires: each worker that does not wait makes progress.
    fn settle(&mut self) {
        for _ in 0..100 {
            for nth in 0..self.workers.len() {
                self.apply(&Op::InitSucceeds(nth));
                if self.workers.values().nth(nth).is_some_and(|worker| worker.gate >= Gate::Closed) {
                    self.apply(&Op::Exits(nth));
                } else if self.workers.values().nth(nth).is_some_and(|worker| worker.is_crashed) {
                    self.apply(&Op::Restarts(nth));
                }
            }
            self.apply(&Op::OtherReturnsPlace);
            self.deliver_all();
        }
    }

    /// No worker makes progress any more, and every deadline expires.
    fn expire_all_deadlines(&mut self) {
        loop {
            // A start has no deadline before it has a permit, so each one gets its permit.
            for _ in 0..4 {
                for nth in 0..self.workers.len() {
                    self.apply(&Op::InitBegins(nth));
                }
                self.deliver_all();
            }
            let is_armed = !self.armed.is_empty() || !self.crashes_armed.is_empty();
            let is_awaited = is_armed || self.shutdown_armed.is_some() || !self.waits_for_place.is_empty();
            if self.report.is_some() || !is_awaited {
                return;
            }
            self.apply(&Op::NoRoom);
            self.apply(&Op::CrashDeadlineExpires);
            self.apply(&Op::DeadlineExpires(0));
            self.apply(&Op::ShutdownDeadlineExpires);
        }
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let max_workers = prop_oneof![
        Just((None, false)),
        Just((Some(1), false)),
        Just((Some(2), false)),
        // It takes its places from the world.
        Just((Some(0), true)),
    ];
    let limits = |((max_workers, is_shared), is_paced)| Limits { max_workers, is_shared, is_paced };
    (max_workers, any::<bool>()).prop_map(limits)
}

/// Ten times as many as the property model of whole registries.
fn cases() -> ProptestConfig {
    let set = std::env::var("GEN_REGISTRY_CASES").ok();
    let cases = set.map_or(400, |cases| cases.parse::<u32>().expect("a number of cases"));
    ProptestConfig { cases: 10 * cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    // Without deadlines a cycle of waiting workers would wait forever.
    #[test]
    fn all_callers_answered_if_workers_comply(limits in limits(), ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new(limits);
        for op in &ops {
            world.apply(op);
        }
        world.settle();
        prop_assert_eq!(world.unanswered(), Vec::<usize>::new(), "callers wait in a cycle, or were lost");
        if world.is_shut_down {
            prop_assert!(world.report.is_some());
        }
    }

    #[test]
    fn all_callers_answered_if_workers_hang(limits in limits(), ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new(limits);
        for op in &ops {
            world.apply(op);
        }
        world.expire_all_deadlines();
        prop_assert_eq!(world.unanswered(), Vec::<usize>::new(), "callers wait forever for a stuck worker");
        if world.is_shut_down {
            prop_assert!(world.report.is_some());
        }
    }
}

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
