//! The checker: the algorithm of Wing and Gong, with Lowe's cache of the states that were tried.
//!
//! Wing and Gong, "Testing and Verifying Concurrent Objects", 1993; Lowe, "Testing for Linearizability", 2017.
//!
//! A history is a list of [`Step`]s. It is linearizable if there is an order of the steps in which each step is allowed
//! by the model, and in which a step comes before all steps that were called after it had returned. Three things go
//! beyond the textbook:
//!
//! - An operation may have several steps, which are taken in their order ([`Step::after`]). A stop, for instance, finds
//!   a worker, and later finds it exited.
//! - A step without an end may be left out.
//! - A step that is [never too early](Model::is_eager) is taken as soon as the model allows it. This changes no result,
//!   and leaves few orders to try.

use std::collections::HashSet;
use std::hash::Hash;

/// The longest history that can be checked.
pub const MAX_STEPS: usize = 64 * WORDS;
const WORDS: usize = 8;

#[derive(Debug, Clone)]
pub struct Step<A> {
    pub action: A,
    pub called: u64,
    /// `None`: the step may happen at any time after `called`, or not at all.
    pub returned: Option<u64>,
    /// The index of the step of the same operation that comes before this one.
    pub after: Option<usize>,
}

pub trait Model: Clone + Eq + Hash {
    type Action;

    /// The state after a step. `None`: the step is not possible in this state.
    fn apply(&self, step: usize, action: &Self::Action) -> Option<Self>;

    /// Whether a step that is possible now may be taken now without loss: if there is an order of the other steps in
    /// which this one comes later, there is also one in which it comes first.
    fn is_eager(action: &Self::Action) -> bool;
}

type Taken = [u64; WORDS];

fn is_taken(taken: &Taken, step: usize) -> bool {
    taken[step / 64] >> (step % 64) & 1 == 1
}

/// Whether there is an order of the steps that the model allows.
pub fn is_linearizable<M: Model>(initial: M, steps: &[Step<M::Action>]) -> bool {
    assert!(steps.len() <= MAX_STEPS, "the history has {} steps", steps.len());
    let mut tried = HashSet::new();
    let mut untried = vec![([0; WORDS], initial)];
    while let Some((taken, state)) = untried.pop() {
        if !tried.insert((taken, state.clone())) {
            continue;
        }
        let left = || (0..steps.len()).filter(|&step| !is_taken(&taken, step));
        // The first of the remaining steps to return. No step that was called later comes before it.
        let Some(first_return) = left().filter_map(|step| steps[step].returned).min() else { return true };
        let is_next = |step: &usize| {
            let step = &steps[*step];
            step.called <= first_return && step.after.is_none_or(|former| is_taken(&taken, former))
        };
        let mut next = Vec::new();
        for step in left().filter(is_next) {
            let Some(state) = state.apply(step, &steps[step].action) else { continue };
            let mut taken = taken;
            taken[step / 64] |= 1 << (step % 64);
            if M::is_eager(&steps[step].action) {
                next = vec![(taken, state)];
                break;
            }
            next.push((taken, state));
        }
        untried.append(&mut next);
    }
    false
}
