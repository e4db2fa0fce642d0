use std::time::Duration;

use crate::events::ClusterEvent;
use crate::id::Revision;
use crate::machine::tests::bench::{Bench, SECOND};
use crate::machine::{CommitId, Effect, End, Input, Outcome, Refusal};

#[test]
fn second_and_late_answers_change_nothing() {
    let mut bench = Bench::member(Bench::settings());
    bench.is_cut = true;
    bench.pass(SECOND);
    let beat = bench.asked().remove(0);
    let Effect::Commit { id, .. } = beat else { panic!("{beat:?} is no commit") };
    let answer = bench.answer(beat);
    bench.input(answer);
    bench.take();
    for outcome in [Outcome::Conflict, Outcome::Unknown, Outcome::Done(Revision(1))] {
        bench.input(Input::Committed { id, outcome });
        bench.input(Input::Committed { id: CommitId(4711), outcome });
    }
    assert_eq!(bench.take(), []);
}

#[test]
fn read_and_watch_are_repeated_when_the_map_lags() {
    let mut bench = Bench::member(Bench::settings());
    for _ in 0..25 {
        bench.now = bench.now + Duration::from_millis(100);
        bench.input(Input::Tick);
        for asked in bench.asked() {
            if matches!(asked, Effect::Read { watch: true, .. }) {
                return assert!(bench.now.since(crate::machine::Instant(77_000_000_000)) >= SECOND * 2);
            }
            let answer = bench.answer(asked);
            bench.input(answer);
        }
    }
    panic!("the watch is silent, and the map is not read");
}

#[test]
fn engine_that_went_back_is_refused() {
    let mut bench = Bench::member(Bench::settings());
    // A watch that has just begun does not begin anew at once.
    bench.pass(SECOND);
    bench.is_cut = true;
    bench.input(Input::WatchLost);
    let asked = bench.asked();
    let Some(Effect::Read { read, watch: true }) = asked.first() else { panic!("{asked:?} is no read") };
    bench.input(Input::Snapshot { read: *read, revision: Revision(1), entries: Vec::new() });
    assert!(bench.take().contains(&Effect::Fence));
    bench.end_all();
    assert!(bench.take().contains(&Effect::End(End::Refused(Refusal::EngineWentBack))));
}

/// The watch of an engine that was restored waits for the revisions that it had before, and says nothing.
#[test]
fn commit_of_an_engine_that_went_back_is_refused() {
    let mut bench = Bench::member(Bench::settings());
    bench.is_cut = true;
    bench.pass(SECOND);
    let asked = bench.asked();
    let Some(Effect::Commit { id, .. }) = asked.first() else { panic!("{asked:?} is no beat") };
    let seen = bench.machine.revision();
    bench.input(Input::Committed { id: *id, outcome: Outcome::Done(seen) });
    assert!(bench.take().contains(&Effect::Fence));
    bench.end_all();
    assert!(bench.take().contains(&Effect::End(End::Refused(Refusal::EngineWentBack))));
}

#[test]
fn outage_of_the_engine_is_reported_once() {
    let mut bench = Bench::member(Bench::settings());
    bench.is_cut = true;
    bench.pass(SECOND * 5);
    assert_eq!(bench.events(), [ClusterEvent::EngineAway]);
    bench.asked();
    bench.is_cut = false;
    bench.pass(SECOND);
    assert_eq!(bench.events(), [ClusterEvent::EngineBack]);
}

#[test]
fn refused_connections_are_tried_again_at_a_quarter_beat() {
    let mut bench = Bench::member(Bench::settings());
    bench.is_cut = true;
    let mut attempts = 0;
    for _ in 0..500 {
        bench.now = bench.now + Duration::from_millis(10);
        bench.input(Input::Tick);
        for asked in bench.asked() {
            let Effect::Commit { id, .. } = asked else { continue };
            attempts += 1;
            bench.input(Input::Committed { id, outcome: Outcome::Unknown });
        }
    }
    // One after a second, then four a second.
    assert_eq!(attempts, 17);
}
