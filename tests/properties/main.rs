//! The whole lifecycle against a simple model: random sequences of starts, stops, kills, messages that succeed, fail,
//! panic, hang or wait, elapsed time, and callers that drop their futures, on a registry with random options and a
//! paused clock. After every step, when no task can make progress, the registry is checked against the invariants at
//! rest (G1, G3, G5, G9, G11) and against the model, which predicts every result, message, count and event.
//!
//! `GEN_REGISTRY_CASES` is the number of cases (default 400). A failure prints the smallest failing case and the seed.
//! Set `PROPTEST_RNG_SEED` and `GEN_REGISTRY_CASES` to the printed values to repeat the same cases in the same order.

mod found;
mod model;
mod plan;
mod rig;
mod system;

use std::cell::Cell;
use std::hash::BuildHasher;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use self::model::Model;
use self::plan::{KEYS, OptionRolls, Options, StepRolls, Transition};
use self::system::System;

/// Divisible by nearly every sum of weights.
const SIDES: u16 = 10_080;

// The strategies are numbers that index tables, because building proptest's trees took longer than the rest of the test.

fn options() -> impl Strategy<Value = Options> {
    (0..3_u16, 0..3_u16, any::<[bool; 3]>(), 0..SIDES, 0..SIDES).prop_map(
        |(policy, intensity, flags, room, eviction)| OptionRolls { policy, intensity, flags, room, eviction }.into(),
    )
}

fn transition() -> impl Strategy<Value = Transition> {
    (0..SIDES, 0..SIDES, 0..KEYS, 0..SIDES, [0..SIDES, 0..SIDES, 0..SIDES])
        .prop_map(|(after, kind, key, polls, others)| StepRolls { after, kind, key, polls, others }.into())
}

struct Lifecycle;

impl ReferenceStateMachine for Lifecycle {
    type State = Model;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Model> {
        options().prop_map(Model::new).boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Transition> {
        transition().boxed()
    }

    fn apply(mut model: Model, transition: &Transition) -> Model {
        model.step(transition);
        model
    }

    fn preconditions(model: &Model, transition: &Transition) -> bool {
        let mut model = model.clone();
        model.step(transition);
        !model.is_ambiguous
    }
}

impl StateMachineTest for Lifecycle {
    type SystemUnderTest = System;
    type Reference = Self;

    fn init_test(model: &Model) -> System {
        System::new(&model.options)
    }

    fn apply(mut system: System, model: &Model, transition: Transition) -> System {
        if model.is_stuck {
            return system;
        }
        STEPS.set(STEPS.get() + 1);
        system.follow(model, &transition);
        system
    }

    fn teardown(system: System, model: Model) {
        CUT_SHORT.set(CUT_SHORT.get() + u64::from(model.is_stuck));
        system.finish(model);
    }
}

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static CUT_SHORT: Cell<u64> = const { Cell::new(0) };
}

fn number(name: &str) -> Option<u64> {
    let set = std::env::var(name).ok()?;
    Some(set.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {set:?}")))
}

#[test]
fn registry_conforms_to_the_model() {
    let cases = number("GEN_REGISTRY_CASES").unwrap_or(400);
    // The standard library's only source of randomness.
    let seed = number("PROPTEST_RNG_SEED").unwrap_or_else(|| std::hash::RandomState::new().hash_one(()));
    let config = ProptestConfig {
        cases: u32::try_from(cases).expect("the number of cases fits in 32 bits"),
        rng_seed: RngSeed::Fixed(seed),
        // The seed is sufficient, and also works in a read-only checkout.
        failure_persistence: None,
        max_local_rejects: u32::MAX,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config.clone());
    let ran = runner.run(&Lifecycle::sequential_strategy(1..48_usize), |(model, transitions, seen)| {
        Lifecycle::test_sequential(config.clone(), model, transitions, seen);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}\nrun it again with PROPTEST_RNG_SEED={seed} GEN_REGISTRY_CASES={cases}");
    }
    println!(
        "{cases} cases with {} steps, of which {} cases were cut short, seed {seed}",
        STEPS.get(),
        CUT_SHORT.get()
    );
}
