//! Rules, and what they decide, against a model that reads every rule of a list.

use std::collections::BTreeSet;

use denylist::phone_number::Caller;
use denylist::rule::{Edit, Rule, RuleSet, Verdict};

use crate::kind;

pub(crate) const WORDS: &[&str] = &[
    "\n",
    "+12025550123",
    "+1202*",
    "+1*",
    "*",
    "+",
    "anonymous",
    "complaints:",
    "complaints:5",
    "1000000000",
    "+1 900 *",
    "2025550123",
    "-",
    "?",
];

/// Lines: a rule to add, `-` and a rule to remove, or `?` and a caller to decide on.
pub(crate) fn run(data: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(data);
    let (mut rules, mut model) = (RuleSet::default(), BTreeSet::new());
    let mut seen = BTreeSet::new();
    for line in text.lines().take(64) {
        if let Some(caller) = line.strip_prefix('?') {
            if let Ok(caller) = caller.parse::<Caller>() {
                let verdict = rules.judge(caller);
                assert_eq!(verdict, judge(&model, caller), "{caller:?} under {model:?}");
                seen.insert(verdict_kind(verdict));
            }
            continue;
        }
        let (is_removal, line) = line.strip_prefix('-').map_or((false, line), |line| (true, line));
        let rule = match line.parse::<Rule>() {
            Ok(rule) => rule,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                seen.insert(kind(std::mem::discriminant(&error)));
                continue;
            }
        };
        assert_eq!(rule.to_string().parse(), Ok(rule), "{line:?} is not stable");
        if let Rule::Prefix(prefix) = rule {
            let digits: String = line.chars().filter(char::is_ascii_digit).collect();
            assert_eq!(prefix.to_string(), digits, "{line:?} lost digits");
        }
        if is_removal {
            rules = rules.edited(&Edit::Remove(rule));
            model.remove(&rule);
        } else {
            rules = rules.edited(&Edit::Add(rule));
            model.insert(rule);
        }
        seen.insert(kind((is_removal, std::mem::discriminant(&rule))));
        assert_eq!(rules.to_set(), model, "after {line:?}");
    }
    let replaced = RuleSet::default().edited(&Edit::Replace(model.clone()));
    assert_eq!(replaced, rules, "replaced at once");
    assert_eq!(model.into_iter().collect::<RuleSet>(), rules, "collected");
    kind(seen)
}

/// The documented order: the number, the longest prefix, then the lowest threshold.
fn judge(rules: &BTreeSet<Rule>, caller: Caller) -> Verdict {
    let Caller::Known(number) = caller else {
        let anonymous = rules.iter().find(|rule| **rule == Rule::Anonymous);
        return anonymous.map_or(Verdict::Place, |rule| Verdict::Reject(*rule));
    };
    if let Some(rule) = rules.iter().find(|rule| **rule == Rule::Number(number)) {
        return Verdict::Reject(*rule);
    }
    let digits = number.digits().to_string();
    let prefixes = rules.iter().filter_map(|rule| match rule {
        Rule::Prefix(prefix) if digits.starts_with(&prefix.to_string()) => Some(*prefix),
        _ => None,
    });
    if let Some(longest) = prefixes.max() {
        return Verdict::Reject(Rule::Prefix(longest));
    }
    let thresholds = rules.iter().filter_map(|rule| match rule {
        Rule::Complaints(count) => Some(*count),
        _ => None,
    });
    thresholds.min().map_or(Verdict::Place, Verdict::RejectFrom)
}

fn verdict_kind(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Place => kind(0),
        Verdict::RejectFrom(_) => kind(1),
        Verdict::Reject(rule) => kind((2, std::mem::discriminant(&rule))),
    }
}
