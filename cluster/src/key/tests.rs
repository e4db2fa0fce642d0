use std::collections::HashSet;
use std::fmt;

use super::*;

fn bytes(key: &impl ClusterKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes);
    bytes
}

#[track_caller]
fn travels<K: ClusterKey + fmt::Debug>(key: K) {
    assert_eq!(K::decode(&bytes(&key)).expect("the bytes of a key decode"), key);
}

#[test]
fn keys_decode_from_their_bytes() {
    travels(String::from("löbby"));
    travels(String::new());
    travels(Arc::<str>::from("lobby"));
    travels(Box::<str>::from("lobby"));
    travels(u8::MAX);
    travels(-7_i16);
    travels(u32::MAX);
    travels(i64::MIN);
    travels(u128::MAX);
    travels([7_u8; 16]);
    travels((String::from("acme"), 7_u32));
    travels(((1_u8, String::new()), [0_u8; 0], -1_i8, u64::MAX));
}

#[test]
fn tuples_with_equal_text_have_different_bytes() {
    let keys = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(keys.iter().map(bytes).collect::<HashSet<_>>().len(), keys.len());
}

#[test]
fn bytes_of_no_key_are_an_error() {
    let error = String::decode(&[0xff]).expect_err("not UTF-8");
    assert!(error.chain().concat().contains("invalid utf-8"), "{error:?}");
    assert_eq!(u32::decode(&[1, 2]).expect_err("too short").chain().concat(), "2 bytes instead of 4");
    assert_eq!(<[u8; 2]>::decode(&[1, 2, 3]).expect_err("too long").chain().concat(), "3 bytes instead of 2");
    for wrong in [&[][..], &[0, 0, 0], &[0, 0, 0, 2, 7], &[0xff; 9], &[0, 0, 0, 1, 7, 0, 0, 0, 1, 7, 9]] {
        <(u8, u8)>::decode(wrong).expect_err("no pair");
    }
}

/// A change of any line moves keys to other shards in a running cluster. It needs another `HASH_VERSION`.
#[test]
fn bytes_and_shards_are_those_of_version_1() {
    assert_eq!(HASH_VERSION, 1);
    assert_eq!(bytes(&String::from("lobby")), b"lobby");
    assert_eq!(bytes(&0x0102_0304_u32), [1, 2, 3, 4]);
    assert_eq!(bytes(&-2_i16), [0xff, 0xfe]);
    assert_eq!(bytes(&(String::from("ab"), 7_u8)), [0, 0, 0, 2, b'a', b'b', 0, 0, 0, 1, 7]);
    // From the reference implementation of XXH3.
    assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
    // So are the hashes of these.
    let shards = ["", "lobby", "kitchen", "4711"].map(|key| shard_of(key.as_bytes(), 1_024).0);
    assert_eq!(shards, [180, 392, 523, 175]);
}

#[test]
fn keys_spread_over_all_shards() {
    for shards in [1, 3, 1_024, u16::MAX] {
        let mut found = HashSet::new();
        for key in 0..u64::from(shards) * 20 {
            let shard = shard_of(&bytes(&key), shards);
            assert!(shard.0 < shards);
            found.insert(shard);
        }
        assert!(found.len() >= usize::from(shards) - usize::from(shards) / 1_000, "{} of {shards}", found.len());
    }
}
