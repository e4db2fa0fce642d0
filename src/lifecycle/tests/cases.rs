//! Single scenarios that the properties reach rarely or never.

use crate::lifecycle::Limits;
use crate::lifecycle::event::{Admission, Deadline, Effect, Event, StartWaiter, StopKind, StopWaiter, Verb};
use crate::lifecycle::exit::StopMode;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::lifecycle::phase::{COMPACT_AT, Phase};
use crate::lifecycle::tests::Simulated;
use crate::lifecycle::tests::properties::Op;
use crate::lifecycle::tests::world::World;

fn world() -> World {
    World::new(Limits { max_workers: None, is_shared: false, is_paced: false })
}

/// A world in which these keys have running workers.
fn running(keys: &[u32]) -> (World, Vec<EntryId>) {
    let mut world = world();
    for (nth, &key) in keys.iter().enumerate() {
        world.apply(&Op::Start { key, is_start: true, waits_in: None });
        world.apply(&Op::InitSucceeds(nth));
        world.deliver_all();
    }
    let entries = world.entries(|_| true);
    (world, entries)
}

fn starter(world: &mut World, key: u32, verb: Verb) -> StartWaiter<Simulated> {
    let (caller, reply) = world.call(Some(verb), None, None);
    StartWaiter { verb, waits_in: None, spec: Some((key, caller)), reply }
}

#[test]
fn start_waits_on_closed_gate_before_its_notice() {
    let (mut world, _) = running(&[1]);
    world.apply(&Op::ClosesItself(0));
    assert_eq!(world.notices.len(), 1, "the notice is delivered later");
    world.apply(&Op::Start { key: 1, is_start: false, waits_in: None });
    assert_eq!(world.unanswered(), [1]);
    world.apply(&Op::Exits(0));
    world.deliver_all();
    world.apply(&Op::InitSucceeds(0));
    world.deliver_all();
    assert!(world.unanswered().is_empty());
}

#[test]
fn cancelled_callers_are_pruned_but_first_stays() {
    let mut world = world();
    let fresh = EntryId { id: WorkerId(1), hash: 1 };
    let first = starter(&mut world, 1, Verb::Start);
    world.step(Event::Start { starter: first, occupant: None, fresh, admission: Admission::Granted });
    for _ in 0..10_000 {
        let occupant = world.observe(fresh);
        let starter = starter(&mut world, 1, Verb::Start);
        starter.reply.is_abandoned.set(true);
        let (fresh, admission) = (EntryId { id: WorkerId(2), hash: 1 }, Admission::Granted);
        world.step(Event::Start { starter, occupant, fresh, admission });
    }
    let Some(Phase::Starting { waiting, .. }) = world.machine.phases.get(&fresh) else { panic!("it starts") };
    assert!(waiting.len() <= COMPACT_AT + 1, "{} callers are kept", waiting.len());
    assert_eq!(waiting[0].reply.caller, 0);
}

#[test]
fn cancelled_stops_are_pruned() {
    let (mut world, entries) = running(&[1]);
    let entry = entries[0];
    for _ in 0..10_000 {
        let (_, reply) = world.call(None, None, Some(entry));
        reply.is_abandoned.set(true);
        let stopper = StopWaiter { kind: StopKind::Stop(StopMode::Drain), waits_in: None, reply };
        let occupant = world.observe(entry);
        world.step(Event::Stop { occupant, stopper });
    }
    let Some(Phase::Stopping { stoppers, .. }) = world.machine.phases.get(&entry) else { panic!("it stops") };
    assert!(stoppers.len() <= COMPACT_AT, "{} callers are kept", stoppers.len());
}

#[test]
fn killed_worker_is_not_part_of_a_wait_cycle() {
    let (mut world, entries) = running(&[1, 2]);
    let stop = |world: &mut World, target: EntryId, kind, waits_in| {
        let (caller, reply) = world.call(None, waits_in, Some(target));
        let occupant = world.observe(target);
        world.step(Event::Stop { occupant, stopper: StopWaiter { kind, waits_in, reply } });
        caller
    };
    stop(&mut world, entries[1], StopKind::Stop(StopMode::Drain), Some(entries[0]));
    stop(&mut world, entries[0], StopKind::Kill, None);
    let third = stop(&mut world, entries[0], StopKind::Stop(StopMode::Drain), Some(entries[1]));
    assert!(world.unanswered().contains(&third), "the stop was refused, although the killed worker drops its wait");
}

#[test]
fn kill_does_not_close_the_gate_first() {
    let (mut world, entries) = running(&[1]);
    let entry = entries[0];
    let (_, reply) = world.call(None, None, Some(entry));
    let mut effects = Vec::new();
    let stopper = StopWaiter { kind: StopKind::Kill, waits_in: None, reply };
    let occupant = world.observe(entry);
    world.machine.step(Event::Stop { occupant, stopper }, &mut effects);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Kill(_))));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Close(..))), "the worker might drain and terminate");
}

const CRASH: Op = Op::Crash { key: 1, is_between_runs: false };

#[test]
fn crash_is_answered_by_the_run_it_names() {
    let (mut world, entries) = running(&[1, 2]);
    let answered = world.callers.len();
    world.apply(&CRASH);
    assert!(world.machine.has_crashes(entries[0]) && !world.machine.has_crashes(entries[1]));
    // The first run is over, and its notice has not arrived.
    world.apply(&Op::Restarts(0));
    world.apply(&CRASH);
    assert_eq!(world.unanswered(), [answered, answered + 1]);
    world.deliver_all();
    assert_eq!(world.unanswered(), [answered + 1], "only the first run has ended");
    world.apply(&Op::Restarts(0));
    world.deliver_all();
    assert!(world.unanswered().is_empty() && !world.machine.has_crashes(entries[0]));
}

#[test]
fn crash_deadline_answers_its_run_only() {
    let (mut world, _) = running(&[1]);
    let answered = world.callers.len();
    world.apply(&CRASH);
    world.apply(&Op::Restarts(0));
    world.apply(&CRASH);
    world.apply(&Op::CrashDeadlineExpires);
    assert_eq!(world.unanswered(), [answered + 1]);
    world.apply(&Op::CrashDeadlineExpires);
    assert!(world.unanswered().is_empty());
}

#[test]
fn g5_end_of_a_shutdown_answers_crashes() {
    let (mut world, _) = running(&[1]);
    world.apply(&CRASH);
    world.apply(&Op::Shutdown);
    world.apply(&Op::ShutdownDeadlineExpires);
    assert_eq!(world.unanswered().len(), 1, "it may still end");
    world.apply(&Op::ShutdownDeadlineExpires);
    assert!(world.report.is_some_and(|report| report.stuck == 1) && world.unanswered().is_empty());
}

#[test]
fn g5_start_that_meets_a_running_worker_is_answered() {
    let (mut world, _) = running(&[1]);
    for is_start in [false, true] {
        world.apply(&Op::Start { key: 1, is_start, waits_in: None });
    }
    assert!(world.unanswered().is_empty());
}

#[test]
fn place_of_a_cancelled_start_is_returned() {
    let mut world = World::new(Limits { max_workers: Some(0), is_shared: true, is_paced: false });
    let others = world.free_places;
    (0..others).for_each(|_| world.apply(&Op::OtherTakesPlace));
    world.apply(&Op::Start { key: 1, is_start: true, waits_in: None });
    world.apply(&Op::CallerCancels(0));
    world.apply(&Op::OtherReturnsPlace);
    world.deliver_all();
    assert_eq!((world.machine.places(), world.free_places), (0, 1), "the registry keeps a place without a worker");
}

#[test]
fn deadline_applies_in_its_state_only() {
    let (mut world, entries) = running(&[1]);
    let entry = entries[0];
    let awaited = |world: &World, entry| {
        [Deadline::Init, Deadline::Drain, Deadline::Abort].map(|deadline| world.machine.awaits(entry, deadline))
    };
    let applies = |deadlines: [bool; 3]| deadlines.map(Some);
    assert_eq!(awaited(&world, entry), [None; 3]);
    world.apply(&Op::Stop { key: 1, kind: StopKind::Stop(StopMode::Drain), waits_in: None });
    assert_eq!(awaited(&world, entry), applies([false, true, false]));
    world.apply(&Op::Stop { key: 1, kind: StopKind::Kill, waits_in: None });
    assert_eq!(awaited(&world, entry), applies([false, false, true]));
    let occupant = world.observe(entry).expect("it has not exited");
    world.step(Event::DeadlineExpired(occupant, Deadline::Abort));
    assert_eq!(awaited(&world, entry), applies([false; 3]), "it is stuck");

    world.apply(&Op::Start { key: 2, is_start: true, waits_in: None });
    let starting = world.entries(|worker| worker.key == 2)[0];
    world.observe(starting);
    assert_eq!(awaited(&world, starting), applies([true, false, false]));
}

#[test]
fn killed_worker_is_left_alone() {
    let (mut world, entries) = running(&[1]);
    world.apply(&Op::Stop { key: 1, kind: StopKind::Kill, waits_in: None });
    for kind in [StopKind::Kill, StopKind::Stop(StopMode::Discard), StopKind::Stop(StopMode::Drain)] {
        let (_, reply) = world.call(None, None, Some(entries[0]));
        let occupant = world.observe(entries[0]);
        let mut effects = Vec::new();
        world.machine.step(Event::Stop { occupant, stopper: StopWaiter { kind, waits_in: None, reply } }, &mut effects);
        assert!(effects.is_empty(), "{kind:?} has {} effects", effects.len());
    }
}

#[test]
fn few_callers_are_not_pruned() {
    let mut world = world();
    let fresh = EntryId { id: WorkerId(1), hash: 1 };
    let mut occupant = None;
    for _ in 0..COMPACT_AT {
        let starter = starter(&mut world, 1, Verb::LookupOrStart);
        starter.reply.is_abandoned.set(occupant.is_some());
        world.step(Event::Start { starter, occupant, fresh, admission: Admission::Granted });
        occupant = world.observe(fresh);
    }
    let Some(Phase::Starting { waiting, .. }) = world.machine.phases.get(&fresh) else { panic!("it starts") };
    assert_eq!(waiting.len(), COMPACT_AT);
}
