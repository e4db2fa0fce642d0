use std::time::Duration;

use crate::events::ClusterEvent;
use crate::id::Shard;
use crate::machine::query::Counts;
use crate::machine::record::{Key, Record};
use crate::machine::tests::bench::{Bench, SECOND, commit, other};
use crate::machine::{Effect, Input, Outcome};

#[test]
fn deadline_is_counted_from_the_sending() {
    let mut bench = Bench::member(Bench::settings());
    bench.is_cut = true;
    bench.pass(SECOND);
    let (sent, beat) = (bench.now, bench.asked().remove(0));
    bench.now = bench.now + Duration::from_millis(900);
    let answer = bench.answer(beat);
    bench.input(answer);
    assert_eq!(bench.take(), [Effect::Valid { until: sent + SECOND * 8 }]);
}

#[test]
fn beat_that_is_answered_after_the_deadline_comes_too_late() {
    let mut bench = Bench::member(crate::machine::Settings { attempt: SECOND * 8, ..Bench::settings() });
    bench.is_cut = true;
    bench.pass(SECOND * 7);
    let beat = bench.asked().remove(0);
    let answer = bench.answer(beat);
    bench.now = bench.now + SECOND * 2;
    bench.input(answer);
    let effects = bench.take();
    assert!(effects.contains(&Effect::Fence), "{effects:?}");
}

#[test]
fn unanswered_node_is_fenced_at_its_deadline_and_rejoins() {
    let mut bench = Bench::member(Bench::settings());
    let (before, joined) = (bench.machine.id(), bench.now);
    bench.is_cut = true;
    bench.pass(Duration::from_millis(7900));
    assert!(!bench.take().contains(&Effect::Fence));
    bench.pass(Duration::from_millis(100));
    let events = bench.events();
    assert!(events.contains(&ClusterEvent::Fenced { late: Duration::ZERO }), "{events:?}");
    assert_eq!(bench.now, joined + SECOND * 8);
    // The engine is there again, but a worker still runs.
    bench.asked();
    bench.is_cut = false;
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.machine.id(), before);
    bench.end_all();
    bench.pass(SECOND);
    let me = bench.machine.id();
    assert_eq!(me, before.next());
    assert!(bench.store.is_member(me) && !bench.store.is_member(before));
    assert!(bench.events().contains(&ClusterEvent::Rejoined(me)));
    assert!(bench.shards().into_iter().all(|shard| bench.store.owner(shard) == Some(me)));
}

#[test]
fn workers_that_outlive_the_fence_are_overdue_once() {
    let mut bench = Bench::member(Bench::settings());
    bench.is_cut = true;
    bench.pass(Duration::from_millis(8900));
    assert!(!bench.take().contains(&Effect::Overdue));
    bench.pass(SECOND * 20);
    // Half of `take - valid` after the deadline.
    assert_eq!(bench.take().iter().filter(|effect| **effect == Effect::Overdue).count(), 1);
}

#[test]
fn removed_node_is_fenced_by_the_conflict_of_its_beat() {
    let mut bench = Bench::member(Bench::settings());
    let me = bench.machine.id();
    bench.delete(Key::Member(me));
    bench.is_cut = true; // the watch says nothing
    bench.pass(SECOND);
    let beat = bench.asked().remove(0);
    let answer = bench.answer(beat);
    assert!(matches!(answer, Input::Committed { outcome: Outcome::Conflict, .. }));
    bench.input(answer);
    let effects = bench.take();
    assert!(effects.contains(&Effect::Fence), "{effects:?}");
}

#[test]
fn removed_node_is_fenced_by_the_event() {
    let mut bench = Bench::member(Bench::settings());
    bench.delete(Key::Member(bench.machine.id()));
    bench.run();
    assert!(bench.take().contains(&Effect::Fence));
}

#[test]
fn shard_that_the_map_has_elsewhere_is_aborted() {
    let mut bench = Bench::member(Bench::settings());
    let (node, member) = other(1);
    bench.join(node, member);
    bench.put(Key::Claim(Shard(5)), Record::Claim(node)); // by hand: no node takes a shard from a member
    bench.run();
    let (_, epoch) = bench.machine.owner(Shard(5)).expect("it has an owner");
    let effects = bench.take();
    let aborted = effects.iter().find_map(|effect| match effect {
        Effect::Abort { shard: Shard(5), epoch } => Some(*epoch),
        _ => None,
    });
    assert!(aborted.expect("it is aborted") < epoch);
    // Given back, it opens after its workers have ended.
    bench.put(Key::Claim(Shard(5)), Record::Claim(bench.machine.id()));
    bench.run();
    assert_eq!(bench.take(), []);
    bench.end_all();
    let effects = bench.take();
    assert!(matches!(effects[0], Effect::Open { shard: Shard(5), epoch: new } if new > epoch), "{effects:?}");
}

#[test]
fn silent_member_is_removed_unless_it_beats() {
    let mut bench = Bench::member(Bench::settings());
    let (node, member) = other(1);
    bench.join(node, member);
    bench.pass(Duration::from_millis(9900));
    bench.beat(node); // seen a tenth of a second later
    bench.pass(Duration::from_millis(10_050));
    assert!(bench.store.is_member(node));
    bench.pass(Duration::from_millis(100));
    assert!(!bench.store.is_member(node));
    assert!(bench.events().contains(&ClusterEvent::Died(node)));
}

#[test]
fn removal_names_the_beat_that_was_seen() {
    let mut bench = Bench::member(Bench::settings());
    let (node, member) = other(1);
    bench.join(node, member);
    bench.run();
    // This node sees nothing any more, but its own beats are answered.
    for _ in 0..101 {
        bench.now = bench.now + Duration::from_millis(100);
        bench.input(Input::Tick);
        for asked in bench.asked() {
            let is_removal = commit(&asked).is_some_and(|(_, then)| then.len() == 2);
            if is_removal {
                bench.beat(node);
            }
            let is_read = matches!(asked, Effect::Read { .. });
            let answer = bench.answer(asked);
            if is_removal {
                assert!(matches!(answer, Input::Committed { outcome: Outcome::Conflict, .. }));
            }
            if !is_read {
                bench.input(answer);
            }
        }
    }
    assert!(bench.store.is_member(node));
}

#[test]
fn node_that_was_fenced_by_its_thread_joins_again() {
    let mut bench = Bench::member(Bench::settings());
    let before = bench.machine.id();
    assert_eq!(bench.machine.counts(), Counts { here: 16, ..Counts::default() });
    bench.input(Input::Fenced);
    assert!(bench.take().contains(&Effect::Fence));
    assert_eq!(bench.machine.deadline(), None);
    assert_eq!(bench.machine.counts(), Counts { ending: 16, ..Counts::default() });
    bench.input(Input::Fenced); // and once more, by the thread
    assert_eq!(bench.take(), []);
    bench.end_all();
    bench.run();
    assert_eq!(bench.machine.members().map(|(node, ..)| node).collect::<Vec<_>>(), [before.next()]);
    assert_eq!(bench.machine.counts(), Counts { here: 16, ..Counts::default() });
}
