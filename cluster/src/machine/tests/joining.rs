use std::time::Duration;

use crate::events::ClusterEvent;
use crate::id::{NodeId, Shard};
use crate::machine::record::{Config, HASH, Key, Member, Record, Write};
use crate::machine::tests::bench::{Bench, SECOND, commit, other};
use crate::machine::{Effect, End, Input, Machine, Outcome, Refusal, Settings, SettingsError};

fn config(config: Config) -> Bench {
    let mut bench = Bench::new(Bench::settings());
    bench.put(Key::Config, Record::Config(config));
    bench.run();
    bench
}

fn fitting() -> Config {
    Config { shards: 16, hash: HASH, era: 0 }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let error = |change: fn(&mut Settings)| {
        let mut settings = Bench::settings();
        change(&mut settings);
        Machine::new(settings, 1, crate::machine::Instant(0)).err()
    };
    assert_eq!(error(|_| ()), None);
    assert_eq!(error(|settings| settings.valid = SECOND * 9), Some(SettingsError::ValidTooLong));
    assert_eq!(error(|settings| settings.beat = SECOND * 3), Some(SettingsError::ValidTooShort));
    assert_eq!(error(|settings| settings.attempt = SECOND * 9), Some(SettingsError::Attempt));
    assert_eq!(error(|settings| settings.beat = Duration::ZERO), Some(SettingsError::Attempt));
    assert_eq!(error(|settings| settings.beat = Duration::from_nanos(1)), Some(SettingsError::Attempt));
    assert_eq!(error(|settings| settings.beat = Duration::MAX), Some(SettingsError::ValidTooShort));
    assert_eq!(error(|settings| settings.valid = Duration::MAX), Some(SettingsError::ValidTooLong));
    assert_eq!(error(|settings| settings.take = Duration::MAX), None);
    assert_eq!(error(|settings| settings.shards = 0), Some(SettingsError::Shards));
    assert_eq!(error(|settings| settings.lanes = 0), Some(SettingsError::Lanes));
    assert_eq!(error(|settings| settings.batch = 7), Some(SettingsError::Batch));
    assert_eq!(error(|settings| settings.address = "a\nstate=up".to_owned()), Some(SettingsError::Address));
}

#[test]
fn first_node_writes_the_config_and_joins() {
    let mut bench = Bench::new(Bench::settings());
    bench.run();
    let me = bench.machine.id();
    assert!(bench.store.read().iter().any(|entry| entry.record == Record::Config(fitting())));
    assert!(bench.store.is_member(me));
    assert_eq!(bench.events().first(), Some(&ClusterEvent::Joined(me)));
    assert_eq!(bench.machine.owner(Shard(3)).map(|(owner, _)| owner), Some(me));
}

#[test]
fn another_config_is_refused() {
    for (theirs, refusal) in [
        (Config { shards: 32, ..fitting() }, Refusal::Shards { cluster: 32 }),
        (Config { hash: HASH + 1, ..fitting() }, Refusal::Hash { cluster: HASH + 1 }),
        (Config { era: 1, ..fitting() }, Refusal::Era { cluster: 1 }),
    ] {
        let mut bench = config(theirs);
        assert_eq!(bench.take().last(), Some(&Effect::End(End::Refused(refusal))));
        assert!(!bench.store.is_member(bench.machine.id()));
    }
}

#[test]
fn higher_era_is_written_and_epochs_are_in_it() {
    let mut bench = Bench::new(Settings { era: 3, ..Bench::settings() });
    bench.put(Key::Config, Record::Config(fitting()));
    bench.run();
    assert!(bench.store.is_member(bench.machine.id()));
    let (_, epoch) = bench.machine.owner(Shard(0)).expect("the shard is claimed");
    assert_eq!(epoch.get() >> 48, 3);
}

#[test]
fn member_that_sees_a_higher_era_is_fenced_and_ends() {
    let mut bench = Bench::member(Bench::settings());
    bench.put(Key::Config, Record::Config(Config { era: 1, ..fitting() }));
    bench.run();
    assert!(bench.take().contains(&Effect::Fence));
    bench.end_all();
    assert_eq!(bench.take().last(), Some(&Effect::End(End::Refused(Refusal::Era { cluster: 1 }))));
}

#[test]
fn join_of_unknown_outcome_is_read() {
    for is_done in [true, false] {
        let mut bench = Bench::new(Bench::settings());
        bench.put(Key::Config, Record::Config(fitting()));
        bench.is_cut = true;
        bench.input(Input::Tick);
        let read = bench.asked().remove(0);
        let snapshot = bench.answer(read);
        bench.input(snapshot);
        let join = bench.asked().remove(0);
        let Effect::Commit { id, .. } = join else { panic!("{join:?} is no commit") };
        if is_done {
            let _ = bench.answer(join); // and the answer is lost
        }
        let before = bench.machine.id();
        bench.input(Input::Committed { id, outcome: Outcome::Unknown });
        bench.is_cut = false;
        bench.pass(SECOND);
        let me = bench.machine.id();
        assert_eq!(me == before, is_done, "an id is given up unless its join was done");
        assert!(bench.store.is_member(me));
    }
}

#[test]
fn join_that_is_done_late_is_removed_at_once() {
    let mut bench = Bench::member(Bench::settings());
    let late = NodeId { membership: 0, ..bench.machine.id() };
    bench.join(late, other(0).1);
    bench.run();
    assert!(!bench.store.is_member(late));
}

#[test]
fn claims_are_batched_and_fall_back_after_a_conflict() {
    let mut bench = Bench::new(Settings { shards: 300, ..Bench::settings() });
    let mut sizes = Vec::new();
    let mut conflicts = 4;
    bench.is_cut = true;
    bench.input(Input::Tick);
    for _ in 0..100 {
        for asked in bench.asked() {
            let claims = commit(&asked).map_or(0, |(when, then)| {
                assert!(when.len() <= 100 && then.len() <= 100);
                then.iter().filter(|write| matches!(write, Write::Put(Key::Claim(_), _))).count()
            });
            sizes.extend((claims > 0).then_some(claims));
            let input = match asked {
                Effect::Commit { id, .. } if claims > 0 && conflicts > 0 => {
                    conflicts -= 1;
                    Input::Committed { id, outcome: Outcome::Conflict }
                }
                asked => bench.answer(asked),
            };
            bench.input(input);
        }
        let (revision, changes) =
            (bench.store.revision, bench.store.changes(crate::id::Revision(0), bench.store.revision));
        bench.input(Input::Changes { revision, changes: changes.expect("nothing is compacted") });
        bench.now = bench.now + Duration::from_millis(1);
    }
    assert_eq!(sizes, [97, 25, 6, 1, 1, 4, 16, 64, 97, 97, 21]);
}

#[test]
fn client_owns_nothing_and_is_given_nothing() {
    let mut bench = Bench::new(Settings { weight: 0, ..Bench::settings() });
    bench.pass(SECOND * 3);
    assert!(bench.store.is_member(bench.machine.id()));
    assert_eq!(bench.store.owner(Shard(0)), None);
    let (node, member) = other(1);
    bench.join(node, Member { weight: 0, ..member });
    bench.pass(SECOND * 3);
    assert_eq!(bench.store.owner(Shard(0)), None);
}
