//! Registers that are read, written and compared with, from two clients, while a node is lost: an order of all operations of a
//! key exists that a register allows, and that keeps the order in real time.
//!
//! What may have run stays open until the end of the history, and may be left out. The
//! [checker](test_support::linearizability) is the one of the library's histories.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gen_registry_cluster::ClusterRegistry;
use rustix::process::Signal;
use test_support::Random;
use test_support::linearizability::{Model, Step, is_linearizable};
use tokio::time::sleep;

use crate::bed::{Bed, SECOND, keys, timing};
use crate::messages::{Counter, Operate, Operation};
use crate::support::proxy::Flow;
use crate::support::within;

const KEYS: usize = 12;
/// Of each key, over both clients.
const CALLERS: usize = 5;
/// Of each caller: a window has at most 200 operations of a key.
const OPERATIONS: usize = 40;

/// An operation, and what its answer was.
#[derive(Debug, Clone, Copy)]
enum Action {
    Read(u64),
    Write(u64),
    Swapped { from: u64, to: u64 },
    NotSwapped { from: u64 },
}

/// The number that a key has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Register(u64);

impl Model for Register {
    type Action = Action;

    fn apply(&self, _: usize, action: &Action) -> Option<Register> {
        match *action {
            Action::Read(number) => (self.0 == number).then(|| self.clone()),
            Action::Write(number) => Some(Register(number)),
            Action::Swapped { from, to } => (self.0 == from).then_some(Register(to)),
            Action::NotSwapped { from } => (self.0 != from).then(|| self.clone()),
        }
    }

    /// They change nothing.
    fn is_eager(action: &Action) -> bool {
        matches!(action, Action::Read(_) | Action::NotSwapped { .. })
    }
}

/// The moments of all operations, which one process gives out.
type Ticks = Arc<AtomicU64>;

/// The operations of one caller of a key.
async fn call(counters: ClusterRegistry<Counter>, key: String, caller: u64, ticks: Ticks) -> Vec<Step<Action>> {
    let (via, mut random, mut steps) = (counters.via(&key), Random::new(caller), Vec::new());
    let mut seen = 0;
    for turn in 0..OPERATIONS as u64 {
        // Each number is written once.
        let fresh = (caller + 1) * 1_000 + turn;
        let operation = match random.below(3) {
            0 => Operation::Read,
            1 => Operation::Write(fresh),
            _ => Operation::Swap { from: seen, to: fresh },
        };
        let called = ticks.fetch_add(1, Ordering::SeqCst);
        let end = via.call_timeout(60 * SECOND, Operate(operation)).await;
        let returned = ticks.fetch_add(1, Ordering::SeqCst);
        let action = match (operation, &end) {
            (Operation::Read, Ok((_, number))) => Some(Action::Read(*number)),
            (Operation::Swap { from, .. }, Ok((false, _))) => Some(Action::NotSwapped { from }),
            (Operation::Write(number), _) => Some(Action::Write(number)),
            (Operation::Swap { from, to }, _) => Some(Action::Swapped { from, to }),
            (Operation::Read, Err(_)) => None,
        };
        match &end {
            Ok((_, number)) => seen = *number,
            Err(error) => assert!(error.may_have_run(), "{key}: {error}"),
        }
        let returned = end.is_ok().then_some(returned);
        steps.extend(action.map(|action| Step { action, called, returned, after: None }));
        sleep(Duration::from_millis(random.below(350))).await;
    }
    steps
}

/// A window of operations with a fault in its first seconds.
async fn window(bed: &mut Bed, name: &str, fault: impl AsyncFnOnce(&mut Bed)) {
    let other = bed.join_client().await;
    let (ticks, keys) = (Ticks::default(), keys(name, KEYS));
    let callers = keys.iter().map(|key| {
        let one = |caller: usize| {
            let counters = [&bed.counters, &other.1][caller % 2];
            tokio::spawn(call(counters.clone(), key.clone(), caller as u64, ticks.clone()))
        };
        (0..CALLERS).map(one).collect::<Vec<_>>()
    });
    let callers: Vec<Vec<_>> = callers.collect();
    sleep(SECOND).await;
    fault(bed).await;
    let (mut all, mut open) = (0, 0);
    for (key, callers) in keys.iter().zip(callers) {
        let mut steps = Vec::new();
        for caller in callers {
            steps.extend(within(caller, "the end of a caller").await.expect("each call ends"));
        }
        all += steps.len();
        open += steps.iter().filter(|step| step.returned.is_none()).count();
        assert!(is_linearizable(Register(0), &steps), "{key}: no order of {steps:#?}");
    }
    println!(
        "    registers, {name}: {KEYS} histories with {all} operations, of which {open} may have run: linearizable"
    );
    assert!(all > KEYS * CALLERS * OPERATIONS * 9 / 10, "{all} operations");
    assert_eq!((bed.storage.overlaps(), bed.storage.refused(name)), (0, 0), "{name}");
    within(other.0.leave(), "the end of a client").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registers_are_linearizable_while_nodes_are_lost() {
    let Some(mut bed) = Bed::start(1, true).await else { return };
    window(&mut bed, "cut", async |bed| {
        let proxy = bed.nodes[0].proxies.to_engine.as_ref().expect("the run has proxies");
        proxy.both(Flow::Swallow);
        sleep(timing().take + SECOND).await;
        proxy.both(Flow::Pass);
        proxy.reset();
    })
    .await;
    bed.balanced(3).await;
    window(&mut bed, "stopped", async |bed| {
        let pause = bed.storage.paused(bed.nodes[1].pid());
        bed.nodes[1].signal(Signal::STOP);
        sleep(timing().take + SECOND).await;
        pause.end();
        bed.nodes[1].signal(Signal::CONT);
    })
    .await;
    bed.balanced(3).await;
    window(&mut bed, "killed", async |bed| {
        bed.kill(0);
        let _ = bed.nodes.remove(0).leave().await;
    })
    .await;
}

#[test]
fn history_with_a_stale_read_has_no_order() {
    let at = |called, action| Step { action, called, returned: Some(called + 1), after: None };
    let mut steps = vec![at(0, Action::Write(1)), at(2, Action::Write(2)), at(4, Action::Read(2))];
    assert!(is_linearizable(Register(0), &steps));
    steps.push(at(6, Action::Read(1)));
    assert!(!is_linearizable(Register(0), &steps), "it was overwritten");
    // A write that may have run explains it, as late as it likes.
    steps.push(Step { action: Action::Write(1), called: 3, returned: None, after: None });
    assert!(is_linearizable(Register(0), &steps));
    steps.push(at(8, Action::Swapped { from: 2, to: 3 }));
    assert!(!is_linearizable(Register(0), &steps));
}
