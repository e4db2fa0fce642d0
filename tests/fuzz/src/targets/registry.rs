//! Sequences of operations on a registry, against the model of the property test (`tests/properties`): bytes instead of
//! proptest's random numbers, so that libFuzzer can prefer the sequences that reach more of the code.
//!
//! Operations run one after the other on a paused clock, so the model is exact. What happens at once is the subject of
//! the linearizability test and of the storms.

use std::collections::BTreeSet;
use std::mem::discriminant;

use crate::kind;
use crate::model::Model;
use crate::plan::{OptionRolls, StepRolls, Transition};
use crate::system::System;

/// Each step is checked against all operations before it, and a longer sequence finds what a shorter one does.
const MAX_STEPS: usize = 96;

fn options([limits, rolls]: [u8; 2]) -> OptionRolls {
    OptionRolls {
        policy: u16::from(rolls % 3),
        intensity: u16::from(limits / 20),
        flags: [rolls & 16 > 0, rolls & 32 > 0, rolls & 64 > 0],
        room: u16::from(limits % 4),
        eviction: u16::from(limits / 4 % 5),
    }
}

fn transition(&[after, kind, caller, first, second, third]: &[u8; 6]) -> Transition {
    let rolls = StepRolls {
        after: after.into(),
        kind: kind.into(),
        key: caller.into(),
        polls: u16::from(caller / 4),
        others: [first, second, third].map(u16::from),
    };
    rolls.into()
}

/// The first two bytes are the options, and each six bytes after them a step.
pub(crate) fn run(data: &[u8]) -> u64 {
    let Some((&first, steps)) = data.split_first_chunk() else { return 0 };
    let mut model = Model::new(options(first).into());
    let mut system = System::new(&model.options);
    for step in steps.chunks_exact(6).take(MAX_STEPS) {
        let transition = transition(step.try_into().expect("a chunk has six bytes"));
        let mut next = model.clone();
        next.step(&transition);
        if next.is_ambiguous {
            continue;
        }
        model = next;
        if model.is_stuck {
            break;
        }
        system.follow(&model, &transition);
    }
    // What each kind of operation resulted in, and how workers ended.
    let results: BTreeSet<_> =
        model.ops.iter().map(|op| kind((discriminant(&op.what), op.outcome.as_ref().map(discriminant)))).collect();
    let totals = &model.totals;
    let ends = [totals.exits.map(|count| count > 0)];
    let restarts = [totals.restarts.map(|count| count > 0), totals.restarts_by_caller.map(|count| count > 0)];
    let kind = kind((results, ends, restarts, totals.gave_up > 0, first));
    system.finish(model);
    kind
}
