//! Bodies of requests, against serde's own reading of them.

use std::collections::BTreeSet;

use denylist::body::{Call, NewRules, Object};
use denylist::phone_number::{Caller, PhoneNumber};
use denylist::problem::Problem;
use denylist::rule::Rule;
use serde_json::{Map, Value};

use crate::kind;

pub(crate) const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\u0000",
    "\"\"",
    "\"\":",
    "\"from\"",
    "\"to\"",
    "\"rules\"",
    "\"+12025550123\"",
    "\"anonymous\"",
    "\"+1900*\"",
    "\"complaints:5\"",
    "null",
    "true",
    "1e999",
    "-0",
    "{\"to\":\"+12025550123\"}",
    "{\"rules\":[]}",
    " ",
];

pub(crate) fn run(data: &[u8]) -> u64 {
    let value = serde_json::from_slice::<Value>(data);
    let object = Object::read(data);
    match (&value, &object) {
        (Ok(Value::Object(_)), Err(problem)) => panic!("{data:?} is an object, not: {problem:?}"),
        (Ok(Value::Object(_)), Ok(_)) | (_, Err(_)) => {}
        (read, Ok(_)) => panic!("{data:?} is no object but {read:?}"),
    }
    let fields = value.ok().and_then(|value| if let Value::Object(fields) = value { Some(fields) } else { None });
    let call = Object::read(data).and_then(Call::try_from);
    let rules = object.and_then(NewRules::try_from);
    match &call {
        Ok(call) => assert_eq!(Some(*call), fields.as_ref().and_then(expected_call), "{data:?}"),
        // A field that is given twice is one field in a map. serde keeps the last.
        Err(problem) if problem.detail().ends_with("is given twice") => {}
        Err(problem) => {
            assert_eq!(None, fields.as_ref().and_then(expected_call), "{problem:?}: {data:?}");
            is_short(problem);
        }
    }
    match &rules {
        Ok(rules) => assert_eq!(Some(rules.rules.clone()), fields.as_ref().and_then(expected_rules), "{data:?}"),
        Err(problem) if problem.detail().ends_with("is given twice") => {}
        Err(problem) => {
            assert_eq!(None, fields.as_ref().and_then(expected_rules), "{problem:?}: {data:?}");
            is_short(problem);
        }
    }
    kind((of(&call.map(|call| call.from == Caller::Anonymous)), of(&rules.map(|rules| rules.rules.len().min(4)))))
}

fn expected_call(fields: &Map<String, Value>) -> Option<Call> {
    let is_known = fields.keys().all(|name| name == "from" || name == "to");
    let from = match fields.get("from") {
        None | Some(Value::Null) => Caller::Anonymous,
        Some(from) => from.as_str()?.parse().ok()?,
    };
    let to: PhoneNumber = fields.get("to")?.as_str()?.parse().ok()?;
    is_known.then_some(Call { from, to })
}

fn expected_rules(fields: &Map<String, Value>) -> Option<BTreeSet<Rule>> {
    let is_known = fields.keys().all(|name| name == "rules");
    let rules = fields.get("rules")?.as_array()?.iter().map(|rule| rule.as_str()?.parse().ok()).collect();
    if is_known { rules } else { None }
}

/// A reason is the client's fault, and repeats little of what it sent.
fn is_short(problem: &Problem) {
    assert!(matches!(problem.status().as_u16(), 400 | 422), "{problem:?}");
    assert!((1..400).contains(&problem.detail().len()), "{problem:?}");
}

fn of<T: std::hash::Hash>(read: &Result<T, Problem>) -> u64 {
    match read {
        Ok(what) => kind(what),
        // Without the parts that differ in each input.
        Err(problem) => kind(problem.detail().split(['`', '(', '[']).next()),
    }
}
