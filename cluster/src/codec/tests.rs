use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Command {
    Join { user: String, seats: Option<u32> },
    Leave(u64, Vec<u8>),
    Close,
}

fn commands() -> [Command; 4] {
    [
        Command::Join { user: "ä".into(), seats: Some(2) },
        Command::Join { user: String::new(), seats: None },
        Command::Leave(u64::MAX, vec![0, 255]),
        Command::Close,
    ]
}

fn bytes<C: Codec<T>, T>(value: &T) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    C::encode(value, &mut bytes).expect("the value encodes");
    bytes.split_off(6)
}

fn travels<C: Codec<Command>>() {
    for command in commands() {
        assert_eq!(C::decode(&bytes::<C, _>(&command)).expect("the bytes decode"), command);
    }
}

#[test]
fn values_decode_from_their_bytes() {
    travels::<Named>();
    travels::<Json>();
}

#[derive(Clone, PartialEq, prost::Message)]
struct Say {
    #[prost(string, tag = "1")]
    text: String,
}

#[test]
fn prost_messages_decode_from_their_bytes() {
    let say = Say { text: "hello".into() };
    assert_eq!(<Prost as Codec<Say>>::decode(&bytes::<Prost, _>(&say)).expect("decodes"), say);
    <Prost as Codec<Say>>::decode(&[0xff]).expect_err("no message");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Before {
    user: String,
    removed: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct After {
    #[serde(default)]
    added: Vec<u32>,
    user: String,
}

#[test]
fn named_bears_fields_that_come_and_go() {
    let old = bytes::<Named, _>(&Before { user: "ann".into(), removed: 7 });
    assert_eq!(<Named as Codec<After>>::decode(&old).expect("decodes"), After { added: vec![], user: "ann".into() });
    let new = bytes::<Named, _>(&After { added: vec![1], user: "ann".into() });
    let error = <Named as Codec<Before>>::decode(&new).expect_err("no default for the field");
    assert!(error.chain().concat().contains("removed"), "{}", error.chain().concat());
}

fn rejects<C: Codec<Command>>() {
    for command in commands() {
        let good = bytes::<C, _>(&command);
        for end in 0..good.len() {
            C::decode(&good[..end]).expect_err("a part is no value");
        }
        C::decode(&[&good[..], b"{"].concat()).expect_err("more than a value");
    }
}

#[test]
fn bytes_of_no_value_are_an_error() {
    rejects::<Named>();
    rejects::<Json>();
}

#[test]
fn no_bytes_panic_or_exhaust_memory() {
    // An array and text that claim four billion elements, and arrays in arrays.
    for hostile in [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0xdb, 0xff, 0xff, 0xff, 0xff], &[0x91; 1 << 20]] {
        <Named as Codec<Vec<Vec<String>>>>::decode(hostile).expect_err("hostile");
        <Named as Codec<BTreeMap<String, String>>>::decode(hostile).expect_err("hostile");
    }
    let deep = "[".repeat(1 << 20);
    <Json as Codec<serde_json::Value>>::decode(deep.as_bytes()).expect_err("too deep");
}

#[test]
fn value_without_an_encoding_is_an_error() {
    let map: BTreeMap<Vec<u8>, u8> = [(vec![1], 2)].into();
    let error = <Json as Codec<BTreeMap<Vec<u8>, u8>>>::encode(&map, &mut Vec::new()).expect_err("no text as key");
    assert_eq!(error.to_string(), "the message cannot be encoded or decoded");
    assert_eq!(error.chain().concat(), "key must be a string");
    let error = error.of(Part::Reply);
    assert_eq!(error.part(), Part::Reply);
    assert!(error.to_string().contains("the reply"));
}
