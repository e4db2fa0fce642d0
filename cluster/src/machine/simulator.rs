//! Machines against a linearizable store, over a network that delays, loses and doubles, with clocks of their own, in
//! processes that are stopped, suspended and killed. Everything follows from a seed.
//!
//! ```sh
//! cargo test -p gen-registry-cluster simulator                                      # a few seconds
//! GEN_REGISTRY_CLUSTER_STEPS=1000000 cargo test -p gen-registry-cluster simulator -- --nocapture     # as in CI
//! GEN_REGISTRY_CLUSTER_SEED=42 cargo test -p gen-registry-cluster simulator         # one run again
//! ```
//!
//! A run has some minutes with faults and then calm. A step is an input of a machine or a request at the store. A failure
//! prints the seed, the smallest plan that still fails, and the end of its trace.

mod checks;
mod driver;
mod node;
mod plan;
mod scenarios;
pub(super) mod store;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::machine::mutation::Mutation;
use crate::machine::simulator::checks::Failure;
use crate::machine::simulator::plan::{Breaks, Fault, Noise, Plan};
use crate::machine::simulator::world::World;

/// The steps of a plain `cargo test`.
const STEPS: u64 = 60_000;

/// Runs the plan to its end. Returns the world, and what did not hold.
fn run(plan: &Plan, is_traced: bool) -> (World, Result<(), Failure>) {
    let mut world = World::new(plan.clone(), is_traced);
    let result = world.check_calm();
    (world, result)
}

/// The number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The seeds to run, and for how many steps: one, if it is given; new ones in a long run; the same in each short one.
fn seeds() -> (Box<dyn Iterator<Item = u64>>, u64) {
    let steps = variable("GEN_REGISTRY_CLUSTER_STEPS");
    if let Some(seed) = variable("GEN_REGISTRY_CLUSTER_SEED") {
        return (Box::new(std::iter::once(seed)), u64::MAX);
    }
    let first = match steps {
        Some(_) => {
            use std::hash::{BuildHasher, Hasher};
            std::collections::hash_map::RandomState::new().build_hasher().finish() >> 16
        }
        None => 1,
    };
    println!("seeds from {first}");
    (Box::new(first..), steps.unwrap_or(STEPS))
}

/// The smallest plan found that fails in the same way.
fn shrink(plan: &Plan, kind: &str) -> Plan {
    let mut best = plan.clone();
    let fails = |plan: &Plan| run(plan, false).1.is_err_and(|failure| failure.kind == kind);
    let zero: [fn(&mut Noise) -> &mut u64; 7] = [
        |noise| &mut noise.very_slow,
        |noise| &mut noise.slow,
        |noise| &mut noise.lose,
        |noise| &mut noise.double,
        |noise| &mut noise.stuck,
        |noise| &mut noise.early_fences,
        |noise| &mut noise.never_yields,
    ];
    loop {
        let mut smaller: Vec<Plan> = Vec::new();
        let faults = best.faults.len();
        for (index, length) in [faults / 2, faults / 4, 1]
            .into_iter()
            .filter(|length| *length > 0)
            .flat_map(|length| (0..faults).step_by(length).map(move |index| (index, length)))
        {
            let mut plan = best.clone();
            plan.faults.drain(index..(index + length).min(faults));
            smaller.push(plan);
        }
        for field in zero {
            let mut plan = best.clone();
            if std::mem::take(field(&mut plan.noise)) > 0 {
                smaller.push(plan);
            }
        }
        match smaller.into_iter().find(fails) {
            Some(plan) => best = plan,
            None => return best,
        }
    }
}

fn explain(plan: &Plan, failure: &Failure) -> String {
    let smallest = shrink(plan, failure.kind);
    let (world, _) = run(&smallest, true);
    let trace = world.trace.unwrap_or_default();
    let last = &trace[trace.len().saturating_sub(120)..];
    format!(
        "{}: {}\nthe smallest plan: {smallest:#?}\nthe end of its trace:\n{}\nGEN_REGISTRY_CLUSTER_SEED={}",
        failure.kind,
        failure.what,
        last.join("\n"),
        plan.seed
    )
}

#[derive(Default)]
struct Totals {
    runs: u64,
    steps: u64,
    moves: u64,
    kept: u64,
    overlaps: u64,
    owned: Duration,
    reached: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, world: World) {
        self.runs += 1;
        self.steps += world.steps;
        self.moves += world.store.moves.values().sum::<u64>();
        self.kept += world.store.kept;
        self.overlaps += world.checks.overlaps;
        self.owned = self.owned.max(world.checks.owned);
        for (what, count) in world.checks.reached {
            *self.reached.entry(what).or_default() += count;
        }
    }
}

/// Runs plans until the steps are used up, and fails with the first that fails.
fn storm(breaks: Breaks) -> Totals {
    let (seeds, steps) = seeds();
    let (mut totals, begin) = (Totals::default(), Instant::now());
    for seed in seeds {
        let plan = Plan::new(seed, breaks);
        let (world, result) = run(&plan, false);
        if let Err(failure) = result {
            panic!("{}", explain(&plan, &failure));
        }
        totals.add(world);
        if totals.steps >= steps {
            break;
        }
    }
    let Totals { runs, steps, moves, kept, overlaps, owned, reached } = &totals;
    let rate = *steps as f64 / begin.elapsed().as_secs_f64();
    println!(
        "{steps} steps in {runs} runs, {rate:.0} steps/s: {moves} moves, {kept} gifts to itself, {overlaps} overlaps"
    );
    println!("{reached:?}; owned again {owned:.1?} after the last fault at the latest");
    totals
}

/// A simulator that never gets into trouble shows nothing.
#[track_caller]
fn assert_reached(totals: &Totals) {
    if totals.runs == 1 {
        return; // one run again
    }
    for what in [
        "conflict",
        "died",
        "drain",
        "engine away",
        "engine back",
        "fence",
        "flush",
        "left",
        "moved",
        "overdue",
        "read",
        "rejoined",
        "stuck",
        "watch begins anew",
        "watch is compacted",
    ] {
        assert!(totals.reached.contains_key(what), "{what:?} did not happen in {} runs", totals.runs);
    }
    // Its target has left while it drained: about once in 50,000 steps.
    assert!(totals.kept > 0 || totals.steps < 500_000, "no owner gave a shard to itself");
}

#[test]
fn c1_c2_hold_under_the_assumptions() {
    assert_reached(&storm(Breaks::default()));
}

#[test]
fn c2_epochs_grow_whatever_the_clocks_do() {
    let totals = storm(Breaks { beyond_a2: true, ..Breaks::default() });
    assert_reached(&totals);
    assert!(totals.runs == 1 || totals.overlaps > 0, "the clocks were never beyond A2");
}

/// The steps after which the break is found, and as what.
fn caught(breaks: Breaks) -> (u64, u64, Failure) {
    let (mut steps, budget) = (0, 1_000_000);
    for seed in 1.. {
        let (world, result) = run(&Plan::new(seed, breaks), false);
        steps += world.steps;
        match result {
            Err(failure) => return (seed, steps, failure),
            Ok(()) => assert!(steps < budget, "{breaks:?} is not found within {steps} steps"),
        }
    }
    unreachable!("there are seeds enough for the budget")
}

/// Each mistake breaks a guarantee: the simulator finds it, and finds nothing without it.
#[test]
fn every_mutation_is_caught() {
    use Mutation as M;
    let overlap = &["two holders", "two lives"][..];
    let mut all: Vec<(Breaks, &[&str])> = [
        (M::DeadlineFromAnswer, overlap),
        (M::RemovalWithoutCondition, overlap),
        (M::StuckCountsAsEnded, overlap),
        (M::CreateRevisionAsEpoch, &["epoch"]),
        (M::GiftBeforeDrain, overlap),
        (M::TakeIsValid, overlap),
        (M::GiftsBeforeMark, &["moves"]),
    ]
    .map(|(mutation, kinds)| (Breaks { mutation: Some(mutation), ..Breaks::default() }, kinds))
    .into();
    all.push((Breaks { clock_stops: true, ..Breaks::default() }, overlap));
    for (breaks, kinds) in all {
        let name = breaks.mutation.map_or("ClockStopsInSuspend".to_owned(), |mutation| format!("{mutation:?}"));
        let (seed, steps, Failure { kind, what }) = caught(breaks);
        println!("{name}: caught after {steps} steps, in run {seed}: {kind}: {what}");
        assert!(kinds.contains(&kind), "{name} is found as {kind}");
    }
}

#[test]
fn seed_gives_the_same_run_again() {
    let trace = |seed| run(&Plan::new(seed, Breaks::default()), true).0.trace.expect("it is traced");
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn smallest_plan_keeps_what_the_failure_needs() {
    let breaks = Breaks { clock_stops: true, ..Breaks::default() };
    let (seed, _, failure) = caught(breaks);
    let plan = Plan::new(seed, breaks);
    let smallest = shrink(&plan, failure.kind);
    assert!(smallest.faults.len() < plan.faults.len(), "{smallest:?}");
    assert!(smallest.faults.iter().any(|(_, fault)| matches!(fault, Fault::Suspend { .. })), "{smallest:?}");
}
