//! Regression cases from the property test, each with its own name: sequences in which registry and model once
//! differed.

use crate::plan::{Act, End, Eviction, Options, Plan, Policy, Send, Step, Target, Terminate, Todo, Transition, Verb};
use crate::{Lifecycle, Model, StateMachineTest};

const OPTIONS: Options = Options {
    policy: Policy::Transient,
    intensity: 1,
    backs_off: false,
    idles: false,
    max_workers: None,
    eviction: Eviction::Reject,
    remembers_failures: false,
};

const GOES: Plan = Plan { init: Step::Go, restart_init: Step::Go, terminate: Terminate::Go };

fn start(key: usize, plan: Plan, polls: Option<u8>) -> Todo {
    Todo::Start { key, verb: Verb::Start, plan, polls }
}

fn cast(key: usize, act: Act) -> Todo {
    Todo::Send { key, send: Send::Cast, act, target: Target::Key, polls: None }
}

/// Performs one step each millisecond and checks each against the model.
fn replay(options: Options, steps: impl IntoIterator<Item = Todo>) {
    let steps = steps.into_iter().map(|todo| Transition { after: 1, todo }).collect();
    Lifecycle::test_sequential(Default::default(), Model::new(options), steps, None);
}

#[test]
fn cancelled_caller_starts_nothing_after_eviction() {
    let options = Options { max_workers: Some(1), eviction: Eviction::LeastRecent, ..OPTIONS };
    replay(options, [start(0, GOES, None), start(1, GOES, Some(1))]);
}

#[test]
fn refused_start_is_ready_on_first_poll() {
    let options = Options { max_workers: Some(1), ..OPTIONS };
    replay(options, [start(0, GOES, None), start(1, GOES, Some(1))]);
}

#[test]
fn stopped_restart_counts_as_stopping() {
    let hangs = Plan { terminate: Terminate::Hang, ..GOES };
    let stop = Todo::End { key: 0, end: End::Stop, target: Target::Key, polls: None };
    replay(OPTIONS, [start(0, hangs, None), start(1, GOES, None), cast(0, Act::Fail), stop, Todo::Nothing]);
}

#[test]
fn restarted_busy_worker_is_not_evicted() {
    let options = Options { backs_off: true, max_workers: Some(1), eviction: Eviction::LeastRecent, ..OPTIONS };
    let again = Plan { restart_init: Step::Gate, ..GOES };
    replay(
        options,
        [
            start(0, again, None),
            cast(0, Act::Fail),
            Todo::Nothing,
            cast(0, Act::Gate),
            Todo::OpenGate { key: 0 },
            start(1, GOES, None),
        ],
    );
}

#[test]
fn failed_start_keeps_the_crash_history() {
    let panics = Plan { terminate: Terminate::Panic, ..GOES };
    let fails = Plan { init: Step::Fail, ..GOES };
    let stop = Todo::End { key: 0, end: End::Stop, target: Target::Key, polls: None };
    replay(OPTIONS, [start(0, panics, None), cast(0, Act::Fail), stop, start(0, fails, None), start(0, GOES, None)]);
}

#[test]
fn messages_before_first_idle_are_counted() {
    let options = Options { backs_off: true, max_workers: Some(2), eviction: Eviction::LeastFrequent, ..OPTIONS };
    // The restarted worker terminates slowly, which shows which victim was picked.
    let hangs = Plan { restart_init: Step::Gate, terminate: Terminate::Hang, ..GOES };
    let steps = [start(0, GOES, None), cast(0, Act::Go), start(1, hangs, None), cast(1, Act::Fail)];
    let terminates = std::iter::repeat_n(Todo::Nothing, 7);
    let back = [cast(1, Act::Go), cast(1, Act::Go), Todo::OpenGate { key: 1 }, start(2, GOES, None)];
    replay(options, steps.into_iter().chain(terminates).chain(back));
}
