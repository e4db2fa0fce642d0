//! Every public future, dropped after each number of polls, in each [`Situation`] of its key.
//!
//! The list of [`verbs`](verbs::verbs) is compared with the public futures of the source. It also shows that each future
//! is `Send`, and that its size stays within [its budget](sizes::BYTES). The test of the cooperative budget has the same
//! list: `tests/verbs/coop_budget.rs`.

mod sizes;
mod stage;
mod verbs;
mod worker;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use test_support::public_futures::public_futures;
use test_support::{poll_once, until_idle};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

use self::stage::{Answer, Situation, Stage};
use self::verbs::{Kind, Verb, verbs};
use self::worker::Token;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Polls the future once.
    Poll,
    /// Lets all other tasks run until they wait.
    Settle,
    /// Opens the gate at which the situation waits. No other task runs.
    Release,
    /// Lets every timeout expire.
    Advance,
}

/// A future is dropped after each prefix of this. So it is dropped while it waits, after it was woken, and between the
/// event that completes it and its wake-up.
const STEPS: [Step; 15] = {
    use Step::{Advance, Poll, Release, Settle};
    [Poll, Settle, Poll, Release, Poll, Settle, Poll, Settle, Poll, Advance, Poll, Advance, Poll, Settle, Poll]
};

/// Where a second caller of the same verb comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    BystanderFirst,
    /// Right after the first poll.
    BystanderSecond,
}

struct Cell<'v> {
    verb: &'v Verb,
    situation: Situation,
    order: Order,
    /// The number of steps before the drop.
    steps: usize,
}

struct Outcome {
    bystander: Option<Answer>,
    /// `None`: the future was dropped before it was ready.
    answer: Option<Answer>,
}

/// A second caller, in a task of its own. Its answer is `None` if the situation has no second such future.
fn spawn_bystander(stage: &Arc<Stage>, verb: &Verb) -> JoinHandle<Option<Answer>> {
    let (stage, make) = (Arc::clone(stage), verb.make);
    let mut own = stage.own(verb.name);
    tokio::spawn(async move {
        let made = make(&stage, &mut own)?;
        Some(made.future.await)
    })
}

impl Cell<'_> {
    fn name(&self) -> String {
        let done: Vec<_> = STEPS[..self.steps].iter().map(|step| format!("{step:?}")).collect();
        format!("{}, {:?}, {:?}, [{}]", self.verb.name, self.situation, self.order, done.join(" "))
    }

    fn run(&self) -> Option<Outcome> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let token = Token::default();
        let outcome = runtime.block_on(self.attempt(&token));
        assert_eq!(Arc::strong_count(&token), 1, "{}: values are left", self.name());
        outcome
    }

    async fn attempt(&self, token: &Token) -> Option<Outcome> {
        let (name, verb) = (self.name(), self.verb);
        let stage = Arc::new(Stage::set(self.situation, token, verb.name == "Task").await);
        if verb.name == "Mailbox::recv" {
            stage.shared.recv_polls.store(self.steps, Ordering::Relaxed);
        }
        let attempted = self.take_steps(&stage).await;
        let has_begun = attempted.as_ref().is_some_and(|attempted| attempted.has_begun);
        let ends = has_begun && matches!(verb.kind, Kind::Ends | Kind::Shuts);
        let shuts = self.situation == Situation::Shut || has_begun && verb.kind == Kind::Shuts;
        let (answer, bystander) = attempted.map(|attempted| (attempted.answer, attempted.bystander)).unzip();
        let bystander = stage.check(&name, ends, shuts, bystander.flatten()).await;
        answer.map(|answer| Outcome { bystander, answer })
    }

    /// Makes the future, takes the steps, and drops it. `None`: the situation has no such future.
    async fn take_steps(&self, stage: &Arc<Stage>) -> Option<Attempted> {
        let mut own = stage.own(self.verb.name);
        let mut future = (self.verb.make)(stage, &mut own)?.future;
        let mut attempted = Attempted { answer: None, bystander: None, has_begun: false };
        if self.order == Order::BystanderFirst {
            attempted.bystander = Some(spawn_bystander(stage, self.verb));
            yield_now().await;
        }
        for step in &STEPS[..self.steps] {
            match step {
                Step::Poll => {
                    let polled = poll_once(future.as_mut()).await;
                    if !attempted.has_begun && self.order == Order::BystanderSecond {
                        attempted.bystander = Some(spawn_bystander(stage, self.verb));
                    }
                    attempted.has_begun = true;
                    if let Poll::Ready(answer) = polled {
                        attempted.answer = Some(answer);
                        break;
                    }
                }
                Step::Settle => until_idle().await,
                Step::Release => stage.release(),
                Step::Advance => sleep(Duration::from_secs(3_600)).await,
            }
        }
        Some(attempted)
    }
}

struct Attempted {
    answer: Option<Answer>,
    bystander: Option<JoinHandle<Option<Answer>>>,
    has_begun: bool,
}

/// All cells of one verb and situation. Returns how many there were.
fn drop_everywhere(verb: &Verb, situation: Situation) -> usize {
    let mut cells = 0;
    // What a bystander gets that comes alone.
    let mut expected = None;
    for order in [Order::BystanderFirst, Order::BystanderSecond] {
        if order == Order::BystanderFirst && matches!(verb.kind, Kind::Ends | Kind::Shuts) {
            // It would end the situation.
            continue;
        }
        for steps in 0..=STEPS.len() {
            let cell = Cell { verb, situation, order, steps };
            let Some(outcome) = cell.run() else { return cells };
            cells += 1;
            let is_ready = outcome.answer.is_some();
            if verb.kind == Kind::Plain {
                for answer in outcome.bystander.into_iter().chain(outcome.answer) {
                    let expected = expected.get_or_insert_with(|| answer.clone());
                    assert_eq!(*expected, answer, "{}: an answer", cell.name());
                }
            }
            if is_ready {
                break;
            }
            let may_wait = steps < STEPS.len() || verb.kind == Kind::Waits;
            assert!(may_wait, "{}: never completes", cell.name());
        }
    }
    cells
}

#[test]
fn any_public_future_can_be_dropped_after_any_poll() {
    let (mut cells, mut failed) = (0, Vec::new());
    for verb in &verbs() {
        for situation in Situation::ALL {
            match catch_unwind(|| drop_everywhere(verb, situation)) {
                Ok(passed) => cells += passed,
                Err(_) => failed.push(format!("{}, {situation:?}", verb.name)),
            }
        }
    }
    println!("{cells} cells");
    assert!(failed.is_empty(), "these leave something behind: {failed:#?}");
    assert!(cells > 1_000, "only {cells} cells");
}

#[test]
fn public_futures_stay_within_their_sizes() {
    let mut measured = Vec::new();
    for verb in &verbs() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let bytes = runtime.block_on(async {
            let stage = Stage::set(Situation::Hit, &Token::default(), verb.name == "Task").await;
            let mut own = stage.own(verb.name);
            (verb.make)(&stage, &mut own).expect("an idle worker has each future").bytes
        });
        measured.push((verb.name, bytes));
    }
    let table: String = measured.iter().map(|(name, bytes)| format!("    (\"{name}\", {bytes}),\n")).collect();
    for &(name, bytes) in &measured {
        let budget = sizes::BYTES.iter().find(|(of, _)| *of == name);
        let (_, budget) = budget.unwrap_or_else(|| panic!("{name} has no size. Measured:\n{table}"));
        assert!(10 * bytes <= 11 * budget, "{name} grew from {budget} to {bytes} bytes. Measured:\n{table}");
    }
}

#[test]
fn every_public_future_is_dropped() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let public = public_futures(&source);
    let tried: BTreeSet<String> = verbs().into_iter().map(|verb| verb.name.to_owned()).collect();
    let missing: Vec<_> = public.difference(&tried).collect();
    let unknown: Vec<_> = tried.difference(&public).collect();
    assert!(missing.is_empty(), "add these public futures to `verbs.rs`: {missing:#?}");
    assert!(unknown.is_empty(), "these are no public futures: {unknown:#?}");
}
