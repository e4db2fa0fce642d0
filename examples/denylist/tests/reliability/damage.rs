//! A damaged database: a clear error, or a start with all rules. Never a panic, and never other rules.

use std::collections::BTreeMap;

use serde_json::json;
use test_support::Random;

use crate::harness::{Ran, Service, TestDir};
use crate::scaled;

const PAGE: usize = 4096;

type Rules = BTreeMap<String, Vec<String>>;

/// A database with rules of some phones, as its service leaves it, and what may be found in it.
///
/// After a kill, damage to the last change looks like a change that was never completed. So the state before it may be
/// found as well.
fn database(is_closed: bool) -> (Vec<u8>, Vec<Rules>) {
    let dir = TestDir::new();
    let service = dir.serve_with(&["--no-sample"]);
    let mut states = vec![Rules::new()];
    for phone in 0..20 {
        let number = format!("+12025550{:03}", 100 + phone);
        let rules: Vec<String> = (0..=phone).map(|n| format!("complaints:{}", 100 + n)).collect();
        let body = json!({ "rules": rules }).to_string();
        service.send("PUT", &format!("/v1/denylists/{number}"), &body).json(200);
        let mut state = states.last().expect("one state").clone();
        state.insert(number, rules);
        states.push(state);
    }
    if is_closed {
        drop(service.terminate());
    } else {
        service.kill();
    }
    states.drain(..states.len() - if is_closed { 1 } else { 2 });
    (std::fs::read(dir.path("denylist.redb")).expect("the file exists"), states)
}

/// A copy with one damage, and what it is.
fn damage(intact: &[u8], random: &mut Random) -> (Vec<u8>, String) {
    let used: Vec<usize> =
        (0..intact.len()).step_by(PAGE).filter(|at| intact[*at..].iter().take(PAGE).any(|byte| *byte != 0)).collect();
    let mut bytes = intact.to_vec();
    let kind = random.index(8);
    if kind < 2 {
        // At a page, or anywhere. A file of length 0 is one of its own.
        let length = if kind == 0 { *random.pick(&used) } else { random.index(bytes.len()) };
        bytes.truncate(length);
        return (bytes, format!("truncated to {length} bytes"));
    }
    // The first page describes the file. Bytes of zero are mostly unused.
    let page = if kind < 4 { 0 } else { *random.pick(&used) };
    let set: Vec<usize> = (page..page + PAGE).filter(|at| intact.get(*at).is_some_and(|byte| *byte != 0)).collect();
    let at = *random.pick(&set);
    let before = bytes[at];
    match kind {
        7 => bytes[page..(page + PAGE).min(intact.len())].fill(0),
        6 => bytes[at] = random.index(256) as u8,
        _ => bytes[at] ^= 1 << random.index(8),
    }
    let after = bytes[at];
    (bytes, format!("byte {at} (page {}) is {after:#04x} instead of {before:#04x}, kind {kind}", page / PAGE))
}

fn all_rules(service: &Service) -> Rules {
    let listed = service.get("/v1/denylists?limit=1000").json(200);
    let numbers: Vec<String> = serde_json::from_value(listed["denylists"].clone()).expect("a list of numbers");
    numbers.into_iter().map(|number| (number.clone(), service.rules(&number))).collect()
}

/// What a damage led to.
#[derive(Debug, Default)]
struct Outcomes {
    refused: usize,
    unharmed: usize,
    set_back: usize,
}

impl Outcomes {
    #[track_caller]
    fn add(&mut self, what: &str, expected: &[Rules], attempt: Result<Service, Ran>) {
        match attempt {
            Err(ran) => {
                assert!(matches!(ran.code, Some(65 | 74)), "{what}: {ran:?}");
                let lines: Vec<_> = ran.stderr.lines().collect();
                assert!(matches!(lines[..], [line] if line.contains("denylist.redb")), "{what}: {ran:?}");
                self.refused += 1;
            }
            Ok(service) => {
                let is_reported = service.log().iter().any(|line| line.contains("was damaged and is set back"));
                let found = all_rules(&service);
                if is_reported {
                    self.set_back += 1;
                    let latest = expected.last().expect("one state");
                    let other: Vec<_> = found.iter().filter(|(number, of)| latest.get(*number) != Some(of)).collect();
                    assert!(other.is_empty(), "{what}: other rules: {other:?}");
                } else {
                    self.unharmed += 1;
                    assert!(expected.contains(&found), "{what}: it starts without a report, with {found:?}");
                }
                service.kill();
            }
        }
    }
}

fn try_damages(is_closed: bool, count: usize) -> Outcomes {
    let (intact, expected) = database(is_closed);
    let dir = TestDir::new();
    let mut outcomes = Outcomes::default();
    let mut random = Random::new(if is_closed { 1 } else { 2 });
    for n in 0..count {
        let (bytes, what) = if n == 0 { (intact.clone(), String::from("none")) } else { damage(&intact, &mut random) };
        dir.file("denylist.redb", bytes);
        let mut command = dir.command();
        command.args(["--listen", "127.0.0.1:0", "--no-sample"]);
        outcomes.add(&format!("damage {n}: {what}"), &expected, Service::attempt(&mut command));
    }
    println!("{count} damages of a database that was {}: {outcomes:?}", if is_closed { "closed" } else { "killed" });
    outcomes
}

#[test]
fn damaged_database_is_refused_or_unharmed() {
    let outcomes = try_damages(true, scaled(24, 2_000));
    assert!(outcomes.refused > 0 && outcomes.unharmed > 0, "nothing was tried: {outcomes:?}");
}

#[test]
fn damage_after_a_kill_is_refused_or_unharmed() {
    let outcomes = try_damages(false, scaled(16, 1_000));
    assert!(outcomes.refused > 0 && outcomes.unharmed > 0, "nothing was tried: {outcomes:?}");
}

#[test]
fn empty_file_is_not_taken_for_a_new_database() {
    let dir = TestDir::new();
    dir.file("denylist.redb", "");
    dir.run(&["--listen", "127.0.0.1:0"]).failed(74, "the database denylist.redb is empty; restore it from a backup");
    assert_eq!(std::fs::metadata(dir.path("denylist.redb")).expect("it is left").len(), 0);
    dir.import("rows.csv", &[]).failed(74, "the database denylist.redb is empty");
}
