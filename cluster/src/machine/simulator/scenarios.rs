//! Runs without chance: what an operator or the machine room does, and what must follow.

use std::time::Duration;

use crate::id::Shard;
use crate::machine::simulator::plan::{Fault, Plan};
use crate::machine::simulator::run;
use crate::machine::simulator::world::World;

const SECOND: Duration = Duration::from_secs(1);

fn seconds(seconds: u64) -> u64 {
    SECOND.as_nanos() as u64 * seconds
}

/// Runs the faults, calm for 200 seconds apart from them.
fn play(nodes: usize, shards: u16, faults: &[(u64, Fault)]) -> World {
    let faults = faults.iter().map(|(at, fault)| (SECOND * *at as u32, *fault)).collect();
    let (world, result) = run(&Plan::quiet(nodes, shards, SECOND * 200, faults), false);
    if let Err(failure) = result {
        panic!("{failure:?}");
    }
    world
}

fn most_moves(world: &World) -> u64 {
    world.store.moves.values().copied().max().unwrap_or(0)
}

#[test]
fn deploy_in_place_moves_a_shard_at_most_twice() {
    let before = play(3, 256, &[]);
    for (gap, down) in [(60, 1), (20, 1), (3, 1), (15, 8)] {
        let leave =
            |node: u64| (60 + gap * node, Fault::Leave { node: node as usize, down: seconds(down), version: 1 });
        let world = play(3, 256, &[leave(0), leave(1), leave(2)]);
        for (shard, moves) in &world.store.moves {
            let earlier = before.store.moves.get(shard).copied().unwrap_or(0);
            assert!(*moves <= earlier + 2, "{shard:?} moves {} times, one node each {gap} s", moves - earlier);
        }
        assert_eq!(world.checks.count("fence"), 0, "a deploy fences no node");
    }
}

#[test]
fn short_outage_of_the_engine_passes_unnoticed() {
    let before = play(3, 64, &[]);
    let world = play(3, 64, &[(60, Fault::Away { time: seconds(6) })]);
    assert_eq!((world.checks.count("fence"), most_moves(&world)), (0, most_moves(&before)));
}

#[test]
fn long_outage_of_the_engine_fences_all_and_moves_nothing() {
    let before = play(3, 64, &[]);
    let world = play(3, 64, &[(60, Fault::Away { time: seconds(30) })]);
    assert_eq!(world.checks.count("fence"), 3);
    // Each node joins again at its address, which is its place: it opens what it had, once.
    assert_eq!(world.checks.opened.len(), before.checks.opened.len() + 64);
    assert_eq!(most_moves(&world), most_moves(&before));
}

#[test]
fn flapping_node_moves_a_shard_at_most_twice() {
    let before = play(4, 64, &[]);
    let cut = |at| (at, Fault::Cut { node: 1, time: seconds(2), to: true, from: true });
    let flaps: Vec<_> = (0..15).map(|n| cut(60 + 4 * n)).collect();
    let world = play(4, 64, &flaps);
    assert!(most_moves(&world) <= most_moves(&before) + 2);
    assert_eq!(world.checks.count("fence"), 0);
}

#[test]
fn paused_node_is_fenced_and_joins_again() {
    let world = play(3, 64, &[(60, Fault::Pause { node: 2, time: seconds(13) })]);
    assert_eq!(world.checks.count("fence"), 1);
    let world = play(3, 64, &[(60, Fault::Pause { node: 2, time: seconds(4) })]);
    assert_eq!(world.checks.count("fence"), 0);
}

#[test]
fn c8_c9_dead_node_is_replaced_and_no_other_shard_opens() {
    let crash = Fault::Crash { node: 1, down: u64::MAX / 2, version: 0 };
    let plan = Plan::quiet(4, 256, SECOND * 200, vec![(SECOND * 60, crash)]);
    let mut world = World::new(plan, false);
    let run_until = |world: &mut World, at: u64| world.run_until(at).expect("nothing is violated");
    run_until(&mut world, seconds(60) - 1);
    let (opened, died) = (world.checks.opened.len(), world.now);
    let id = world.nodes[1].machine.as_ref().expect("it runs").id();
    let held = (0..256).filter(|shard| world.store.owner(Shard(*shard)) == Some(id)).count();
    run_until(&mut world, seconds(60));
    assert_eq!(world.unserved().len(), held);
    while !world.unserved().is_empty() {
        let next = world.now + 10_000_000;
        run_until(&mut world, next);
    }
    let outage = Duration::from_nanos(world.now - died);
    assert!(outage > SECOND * 9 && outage <= SECOND * 10 + SECOND / 2, "{outage:?}");
    assert!(held > 30);
    assert_eq!(world.checks.opened.len(), opened + held);
}
