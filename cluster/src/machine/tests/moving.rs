use std::time::Duration;

use crate::events::ClusterEvent;
use crate::id::Shard;
use crate::machine::record::{Key, Member, Record};
use crate::machine::tests::bench::{Bench, SECOND, other};
use crate::machine::{Effect, End, Input, Outcome, Settings};

/// The shards that should be at the other node.
fn theirs(bench: &Bench) -> Vec<Shard> {
    bench.machine.movable.iter().copied().collect()
}

/// The other node beats while the time passes.
fn pass(bench: &mut Bench, seconds: u32) {
    for _ in 0..seconds {
        bench.beat(other(1).0);
        bench.pass(SECOND);
    }
}

#[test]
fn shards_move_once_members_are_quiet_and_in_lanes() {
    let mut bench = Bench::member(Settings { shards: 64, lanes: 3, ..Bench::settings() });
    let (node, member) = other(1);
    bench.join(node, member);
    pass(&mut bench, 9);
    let theirs = theirs(&bench);
    assert!(theirs.len() > 20 && !bench.take().iter().any(|effect| matches!(effect, Effect::Drain { .. })));
    pass(&mut bench, 2);
    let mut moved = Vec::new();
    loop {
        let drains = bench.end_drains();
        if drains.is_empty() {
            break;
        }
        assert!(drains.len() <= 3, "{} at a time", drains.len());
        moved.extend(drains.into_iter().map(|(shard, _)| shard));
        bench.run();
    }
    assert_eq!(moved, theirs);
    assert!(moved.iter().all(|shard| bench.store.owner(*shard) == Some(node)));
}

#[test]
fn gift_is_sent_after_the_workers_have_ended() {
    let mut bench = Bench::member(Settings { lanes: 16, ..Bench::settings() });
    let (node, member) = other(1);
    let me = bench.machine.id();
    bench.join(node, member);
    pass(&mut bench, 11);
    assert_eq!(theirs(&bench), [], "all of them drain");
    pass(&mut bench, 5);
    assert!(bench.shards().into_iter().all(|shard| bench.store.owner(shard) == Some(me)));
    let drains = bench.end_drains();
    bench.run();
    assert!(!drains.is_empty());
    assert!(drains.iter().all(|(shard, _)| bench.store.owner(*shard) == Some(node)));
    let moved = |event: &ClusterEvent| matches!(event, ClusterEvent::ShardMoved { to, drained: 1, .. } if *to == node);
    assert_eq!(bench.events().iter().filter(|event| moved(event)).count(), drains.len());
}

#[test]
fn stuck_shard_is_kept_and_gives_its_lane_up() {
    let mut bench = Bench::member(Settings { lanes: 1, ..Bench::settings() });
    let (node, member) = other(1);
    bench.join(node, member);
    pass(&mut bench, 11);
    let drain = |effect: &Effect| match effect {
        Effect::Drain { shard, epoch } => Some((*shard, *epoch)),
        _ => None,
    };
    let drains: Vec<_> = bench.take().iter().filter_map(drain).collect();
    let [(shard, epoch)] = drains[..] else { panic!("{drains:?} in one lane") };
    bench.input(Input::Stuck { shard, epoch });
    assert!(bench.take().iter().any(|effect| drain(effect).is_some_and(|(other, _)| other != shard)));
    pass(&mut bench, 3);
    assert_eq!(bench.store.owner(shard), Some(bench.machine.id()));
    bench.input(Input::Ended { shard, epoch, workers: 1 });
    bench.run();
    assert_eq!(bench.store.owner(shard), Some(node));
}

#[test]
fn drained_shard_opens_again_only_under_a_new_epoch() {
    let mut bench = Bench::member(Settings { lanes: 1, ..Bench::settings() });
    let (node, member) = other(1);
    bench.join(node, member);
    pass(&mut bench, 11);
    bench.is_cut = true;
    let [(shard, epoch)] = bench.end_drains()[..] else { panic!("one lane") };
    let gift = bench.asked().pop().expect("the gift is sent");
    let Effect::Commit { id, .. } = gift else { panic!("{gift:?} is no commit") };
    // The gift is neither done nor refused, and its target leaves.
    bench.input(Input::Committed { id, outcome: Outcome::Unknown });
    bench.put(Key::Member(node), Record::Member(Member { is_leaving: true, ..other(1).1 }));
    bench.is_cut = false;
    bench.run();
    assert_eq!(bench.store.owner(shard), Some(bench.machine.id()));
    let opened = |effect: &Effect| match effect {
        Effect::Open { shard: opened, epoch } if *opened == shard => Some(*epoch),
        _ => None,
    };
    assert!(bench.take().iter().find_map(opened).expect("it opens again") > epoch);
    // The gift arrives after all, and comes too late.
    assert!(matches!(bench.answer(gift), Input::Committed { outcome: Outcome::Conflict, .. }));
}

#[test]
fn nothing_moves_while_two_versions_run() {
    let mut bench = Bench::member(Bench::settings());
    let (node, member) = other(1);
    bench.join(node, Member { version: 1, ..member });
    pass(&mut bench, 30);
    assert!(!theirs(&bench).is_empty());
    assert!(!bench.take().iter().any(|effect| matches!(effect, Effect::Drain { .. })));
}

#[test]
fn nothing_moves_to_a_member_that_does_not_beat() {
    let mut bench = Bench::member(Settings { settle: SECOND * 5, ..Bench::settings() });
    let (node, member) = other(1);
    bench.join(node, member);
    bench.pass(SECOND * 6);
    assert!(!theirs(&bench).is_empty());
    assert!(!bench.take().iter().any(|effect| matches!(effect, Effect::Drain { .. })));
    pass(&mut bench, 1);
    assert!(bench.take().iter().any(|effect| matches!(effect, Effect::Drain { .. })));
}

#[test]
fn leaving_node_gives_all_and_departs() {
    let mut bench = Bench::member(Bench::settings());
    let (node, member) = other(1);
    let me = bench.machine.id();
    bench.join(node, member);
    pass(&mut bench, 1);
    bench.take();
    bench.input(Input::Leave);
    loop {
        bench.run();
        if bench.end_drains().is_empty() {
            break;
        }
    }
    assert!(bench.shards().into_iter().all(|shard| bench.store.owner(shard) == Some(node)));
    assert!(bench.store.is_member(me), "answers are not flushed yet");
    bench.input(Input::Flushed);
    bench.run();
    assert!(!bench.store.is_member(me));
    assert_eq!(bench.take(), [Effect::Valid { until: crate::machine::Instant(0) }, Effect::End(End::Left)]);
}

#[test]
fn last_node_leaves_its_shards_vacant() {
    let mut bench = Bench::member(Settings { shards: 64, ..Bench::settings() });
    let me = bench.machine.id();
    bench.input(Input::Leave);
    bench.run();
    let mut effects = Vec::new();
    for _ in bench.shards() {
        effects.extend(bench.take());
        bench.end_all();
        bench.run();
    }
    assert!(effects.contains(&Effect::Flush), "{effects:?}");
    bench.input(Input::Flushed);
    bench.pass(Duration::from_millis(100));
    assert!(!bench.store.is_member(me));
    assert!(bench.take().contains(&Effect::End(End::Left)));
}

#[test]
fn leave_ends_a_node_that_is_no_member() {
    let mut bench = Bench::new(Bench::settings());
    bench.is_cut = true;
    bench.run();
    bench.input(Input::Leave);
    assert!(bench.take().contains(&Effect::End(End::Left)));

    let mut bench = Bench::member(Bench::settings());
    bench.input(Input::Fenced);
    bench.input(Input::Leave);
    assert!(!bench.take().contains(&Effect::End(End::Left)), "workers run");
    bench.end_all();
    assert!(bench.take().contains(&Effect::End(End::Left)));
}

#[test]
fn mark_of_a_leave_that_is_lost_is_sent_again() {
    let mut bench = Bench::member(Bench::settings());
    let (node, member) = other(1);
    bench.join(node, member);
    pass(&mut bench, 1);
    bench.is_cut = true;
    bench.input(Input::Leave);
    assert_eq!(bench.asked().len(), 1); // and is lost
    bench.pass(Duration::from_millis(900));
    bench.take();
    assert!(theirs(&bench).len() < 16, "no shard moves before the mark is seen");
    bench.asked();
    bench.is_cut = false;
    pass(&mut bench, 3);
    assert!(bench.take().iter().any(|effect| matches!(effect, Effect::Drain { .. })));
    assert!(bench.machine.members().any(|(node, record, _)| node == bench.machine.id() && record.is_leaving));
}
