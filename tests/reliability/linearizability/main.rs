//! Whether a registry is linearizable: eight threads look up, start, stop, kill and crash the workers of a few keys,
//! and a [checker](test_support::linearizability) looks for an order of their operations that the [model] of one key allows.
//!
//! Each key has a history of its own: an object is linearizable if and only if each of its parts is.
//!
//! The checker is our own and not a dependency, since operations of the model have two steps, workers report steps that
//! may or may not happen, and the checkers that are published (`stateright`, `todc-utils`) know neither.
//!
//! `GEN_REGISTRY_HISTORIES` sets the number of histories, and `GEN_REGISTRY_SEED` what the threads do. The order of the
//! threads is not reproducible: a failure prints the history of its key.

mod history;
mod model;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use gen_registry::{Registry, Restart};
use test_support::Random;
use test_support::linearizability::{Step, is_linearizable};
use tokio::runtime::{Builder, Runtime};

use crate::history::{Client, History, Reporter};
use crate::model::{Action, Key};

const THREADS: usize = 8;
const KEYS: usize = 2;
const OPERATIONS: usize = 6;
/// Many times longer than a round takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many rounds share a registry.
const BATCH: usize = 100;

fn number_from(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |set| set.parse().expect("a number"))
}

/// Runs one round for each element: all threads begin together to operate on its keys.
fn run_rounds(runtime: &Runtime, seed: u64, rounds: &[[Arc<History>; KEYS]]) {
    let registry = {
        let _entered = runtime.enter();
        let builder = Registry::<Reporter>::builder().restart(Restart::Transient);
        builder.restart_intensity(usize::MAX, Duration::from_secs(1)).build().expect("valid options")
    };
    for (round, histories) in rounds.iter().enumerate() {
        let begin = Barrier::new(THREADS);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (registry, begin) = (&registry, &begin);
                scope.spawn(move || {
                    let mut random = Random::new(seed ^ (thread as u64) << 56 ^ (round as u64) << 32);
                    let operations = async {
                        for _ in 0..OPERATIONS {
                            let chosen = random.number();
                            let part = chosen as usize % KEYS;
                            let (key, history) = ((round * KEYS + part) as u64, &histories[part]);
                            Client { thread, registry, key, history }.operate(chosen >> 8).await;
                        }
                    };
                    begin.wait();
                    runtime.block_on(async {
                        let in_time = tokio::time::timeout(PATIENCE, operations).await;
                        in_time.unwrap_or_else(|_| panic!("lost: an operation of thread {thread} in round {round}"));
                    });
                });
            }
        });
    }
}

#[test]
fn histories_of_a_key_are_linearizable() {
    let histories = number_from("GEN_REGISTRY_HISTORIES", 1_000);
    let seed = number_from("GEN_REGISTRY_SEED", 1) as u64;
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    let (mut checked, mut steps) = (0, 0);
    while checked < histories {
        let rounds: Vec<[Arc<History>; KEYS]> = (0..BATCH).map(|_| std::array::from_fn(|_| Arc::default())).collect();
        run_rounds(&runtime, seed.wrapping_add(checked as u64), &rounds);
        for history in rounds.iter().flatten() {
            let of_key = history.steps();
            assert!(
                is_linearizable(Key::vacant(), &of_key),
                "not linearizable, seed {seed}, after {checked}:\n{history}"
            );
            checked += 1;
            steps += of_key.len();
        }
    }
    println!("{checked} histories with {} steps on average, all linearizable", steps / checked);
}

/// Histories in which each operation begins after the one before, unless the test says otherwise.
struct Sequence(Vec<Step<Action>>);

impl Sequence {
    fn of(actions: impl IntoIterator<Item = Action>) -> Self {
        let step = |(at, action)| Step { action, called: at, returned: Some(at), after: None };
        Self((0..).zip(actions).map(step).collect())
    }

    fn is_linearizable(&self) -> bool {
        is_linearizable(Key::vacant(), &self.0)
    }
}

#[test]
fn life_of_a_worker_is_linearizable() {
    use Action::*;
    let life = |worker| [InitBegan(worker), GateOpened(worker), Found(worker), GateClosed(worker), KeyFreed(worker)];
    assert!(Sequence::of(life(1).into_iter().chain(life(2))).is_linearizable());
    assert!(!Sequence::of(life(2).into_iter().chain(life(1))).is_linearizable(), "ids are reused");
}

#[test]
fn each_violation_is_rejected() {
    use Action::*;
    let violations: [(&str, &[Action]); 10] = [
        ("found before init", &[InitBegan(1), Found(1), GateOpened(1)]),
        ("found while it terminates", &[InitBegan(1), GateOpened(1), GateClosed(1), TerminateBegan(1), Found(1)]),
        ("found after its exit", &[InitBegan(1), GateOpened(1), GateClosed(1), KeyFreed(1), Found(1)]),
        ("not found while it is open", &[InitBegan(1), GateOpened(1), NothingFound, GateClosed(1)]),
        ("two workers", &[InitBegan(1), GateOpened(1), InitBegan(2)]),
        ("two workers, one ending", &[InitBegan(1), GateOpened(1), GateClosed(1), InitBegan(2)]),
        ("terminated while open", &[InitBegan(1), GateOpened(1), TerminateBegan(1)]),
        ("two starts of one worker", &[InitBegan(1), GateOpened(1), StartedOnce(1), StartedOnce(1)]),
        ("start of a worker that ran", &[InitBegan(1), GateOpened(1), NotStartedYet(1), StartedOnce(1)]),
        ("a taken key is vacant", &[InitBegan(1), FoundVacant]),
    ];
    for (violation, actions) in violations {
        assert!(!Sequence::of(actions.iter().cloned()).is_linearizable(), "{violation}");
    }
}

#[test]
fn stop_returns_only_after_an_exit_that_it_saw() {
    use Action::*;
    // The exit of worker 1 may be as late as the model needs it.
    let stop_during = |stop: (u64, u64), freed: u64| {
        let mut history = Sequence::of([InitBegan(1), GateOpened(1), GateClosed(1)]);
        let found = history.0.len();
        let step = |action, after| Step { action, called: stop.0, returned: Some(stop.1), after };
        history.0.push(step(FoundTaken, None));
        history.0.push(step(HolderExited(found), Some(found)));
        history.0.push(Step { action: KeyFreed(1), called: freed, returned: None, after: None });
        history.0.push(Step { action: FoundVacant, called: 20, returned: Some(20), after: None });
        history.is_linearizable()
    };
    assert!(stop_during((3, 10), 5));
    assert!(!stop_during((3, 10), 11), "it returned before the exit");
    assert!(!stop_during((21, 30), 5), "it has stopped a vacant key");
}

#[test]
fn cancelled_start_may_hold_the_key() {
    use Action::*;
    let step = |action, called, returned, after| Step { action, called, returned: Some(returned), after };
    let stop = |from| {
        vec![
            step(BeginCancelled, 0, 10, None),
            step(EndCancelled(0), 0, 10, Some(0)),
            step(FoundTaken, from, 20, None),
            step(HolderExited(2), from, 20, Some(2)),
        ]
    };
    assert!(is_linearizable(Key::vacant(), &stop(5)));
    assert!(!is_linearizable(Key::vacant(), &stop(11)), "nothing held the key");
}
