use crate::id::{NodeId, Shard};
use crate::machine::record::{Config, Key, Member, Record};

fn member() -> Member {
    Member { address: "10.0.0.7:7101".to_owned(), weight: 3, version: 12, is_leaving: true }
}

#[test]
fn keys_are_read_as_they_are_written() {
    let node = NodeId::first(0xc0_ffee);
    for (key, path) in [
        (Key::Config, "config"),
        (Key::Member(node), "m/0000000000c0ffee-1"),
        (Key::Beat(node), "b/0000000000c0ffee-1"),
        (Key::Claim(Shard(7)), "s/00007"),
        (Key::Claim(Shard(65_535)), "s/65535"),
    ] {
        assert_eq!(key.path(), path);
        assert_eq!(Key::parse(path), Some(key));
    }
}

#[test]
fn foreign_keys_are_refused() {
    for path in ["", "confi", "config/", "m/", "m/c0ffee", "s/7", "s/70000", "s/0007", "s/+0007", "x/1", "m"] {
        assert_eq!(Key::parse(path), None, "{path:?}");
    }
}

#[test]
fn records_are_read_as_they_are_written() {
    let node = NodeId::first(5);
    for (key, record) in [
        (Key::Config, Record::Config(Config { shards: 1024, hash: 1, era: 2 })),
        (Key::Member(node), Record::Member(member())),
        (Key::Member(node), Record::Member(Member { is_leaving: false, address: String::new(), ..member() })),
        (Key::Beat(node), Record::Beat),
        (Key::Claim(Shard(3)), Record::Claim(node)),
    ] {
        assert_eq!(Record::decode(key, &record.encode()), Some(record));
    }
}

#[test]
fn lines_of_a_newer_version_are_skipped() {
    let mut bytes = Record::Member(member()).encode();
    bytes.extend(b"zone=eu-1\nnothing\n");
    assert_eq!(Record::decode(Key::Member(NodeId::first(5)), &bytes), Some(Record::Member(member())));
}

#[test]
fn damaged_records_are_refused() {
    let node = NodeId::first(5);
    for (key, bytes) in [
        (Key::Config, &b"shards=1024\nhash=1\n"[..]),
        (Key::Config, b"shards=99999\nhash=1\nera=0\n"),
        (Key::Config, b"\xff\xfe"),
        (Key::Member(node), b"address=a\nweight=1\nversion=1\nstate=away\n"),
        (Key::Member(node), b"weight=1\nversion=1\nstate=up\n"),
        (Key::Claim(Shard(0)), b""),
        (Key::Claim(Shard(0)), b"node-1"),
    ] {
        assert_eq!(Record::decode(key, bytes), None, "{}", String::from_utf8_lossy(bytes));
    }
}
