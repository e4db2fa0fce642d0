use bytes::Bytes;

use crate::engine::{self, Commit, EngineError, Expect, Op};
use crate::id::{NodeId, Revision, Shard};
use crate::machine::record::{Condition, Key, Record, Write};
use crate::machine::wire::{Wire, outcome};
use crate::machine::{Input, Outcome};

fn put(key: &str, value: &'static [u8]) -> Op {
    Op::Put(key.into(), Bytes::from_static(value))
}

#[test]
fn commits_are_written_below_the_prefix() {
    let (wire, node) = (Wire::new("chat"), NodeId::first(1));
    assert_eq!(wire.prefix(), "/chat/");
    let when = [Condition::Absent(Key::Claim(Shard(3))), Condition::At(Key::Member(node), Revision(7))];
    assert_eq!(
        wire.conditions(&when),
        [("/chat/s/00003".into(), Expect::Absent), ("/chat/m/0000000000000001-1".into(), Expect::At(Revision(7))),]
    );
    let then = [Write::Put(Key::Claim(Shard(3)), Record::Claim(node)), Write::Delete(Key::Beat(node))];
    assert_eq!(
        wire.ops(&then),
        [put("/chat/s/00003", b"0000000000000001-1"), Op::Delete("/chat/b/0000000000000001-1".into())]
    );
}

#[test]
fn changes_skip_what_a_newer_version_writes() {
    let wire = Wire::new("chat");
    let ops = vec![
        put("/chat/s/00003", b"0000000000000001-1"),
        put("/chat/zones/eu", b"1"),
        Op::Delete("/chat/b/0000000000000001-1".into()),
    ];
    let input = wire.changes(&engine::Change { revision: Revision(9), ops }).expect("the records are whole");
    let Input::Changes { revision: Revision(9), changes } = input else { panic!("{input:?}") };
    let seen: Vec<_> = changes.iter().map(|change| (change.key, change.record.clone())).collect();
    let node = NodeId::first(1);
    assert_eq!(seen, [(Key::Claim(Shard(3)), Some(Record::Claim(node))), (Key::Beat(node), None)]);
}

#[test]
fn damaged_record_is_an_error_that_names_its_key() {
    let wire = Wire::new("chat");
    let ops = vec![put("/chat/s/00003", b"a node")];
    let error = wire.changes(&engine::Change { revision: Revision(9), ops }).expect_err("the record is damaged");
    assert_eq!(error.to_string(), "the engine's record \"/chat/s/00003\" is damaged");
    let entries =
        vec![engine::Entry { key: "/chat/config".into(), value: Bytes::from_static(b"?"), revision: Revision(1) }];
    let snapshot = engine::Snapshot { revision: Revision(9), entries };
    assert!(wire.snapshot(1, &snapshot).is_err());
}

#[test]
fn error_of_the_engine_is_an_unknown_outcome() {
    assert_eq!(outcome(&Ok(Commit::Done(Revision(4)))), Outcome::Done(Revision(4)));
    assert_eq!(outcome(&Ok(Commit::Conflict)), Outcome::Conflict);
    assert_eq!(outcome(&Err(EngineError::Unavailable("no route".into()))), Outcome::Unknown);
}
