//! Single scenarios that the properties reach rarely or never.

use crate::lifecycle::Limits;
use crate::lifecycle::event::{Admission, Effect, Event, StartWaiter, StopKind, StopWaiter, Verb};
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
