//! [`Rule`]: one reason to reject a caller. [`RuleSet`]: the rules of one phone.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::phone_number::{Caller, NumberError, PhoneNumber};

/// How many rules a phone may have. They are in its worker's memory and sent in one reply.
pub const MAX_RULES: usize = 1_000;
const MOST_COMPLAINTS: u64 = 1_000_000_000;

/// A reason to reject a caller. Its text is `+12025550123`, `+1900*`, `anonymous` or `complaints:5`.
///
/// If several rules match, the first variant is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// This caller.
    Number(PhoneNumber),
    /// Every caller whose number begins with these digits.
    Prefix(u64),
    /// Every caller who hides the number.
    Anonymous,
    /// Every caller with at least this many complaints.
    Complaints(u64),
}

impl Rule {
    /// The kind of rule, a label of a metric.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Number(_) => "number",
            Self::Prefix(_) => "prefix",
            Self::Anonymous => "anonymous",
            Self::Complaints(_) => "complaints",
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("anonymous") {
            return Ok(Self::Anonymous);
        }
        if let Some(count) = text.strip_prefix("complaints:") {
            return match count.parse() {
                Ok(count @ 1..=MOST_COMPLAINTS) => Ok(Self::Complaints(count)),
                _ => Err(RuleError::Complaints),
            };
        }
        if let Some(prefix) = text.strip_suffix('*') {
            let digits: String = prefix.chars().filter(|char| !" -.()".contains(*char)).collect();
            let digits = digits.strip_prefix('+').ok_or(RuleError::Prefix)?;
            let is_number = (1..=14).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            // No country code begins with 0, so an integer holds a prefix without loss.
            let is_prefix = is_number && !digits.starts_with('0');
            return match digits.parse() {
                Ok(digits @ 1..) if is_prefix => Ok(Self::Prefix(digits)),
                _ => Err(RuleError::Prefix),
            };
        }
        Ok(Self::Number(text.parse()?))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Prefix(digits) => write!(f, "+{digits}*"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Complaints(count) => write!(f, "complaints:{count}"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RuleError {
    /// It ends with a star, and what precedes is not a prefix.
    #[error("a prefix is written like +1900*: a plus, 1 to 14 digits of which the first is not 0, and a star")]
    Prefix,
    /// It begins with `complaints:`, and what follows is not a threshold.
    #[error("a complaint threshold is written like complaints:5, with a number from 1 to 1000000000")]
    Complaints,
    /// It is read as a number, and is none.
    #[error("{0}; a rule is a number such as +12025550123, a prefix such as +1900*, anonymous, or complaints:5")]
    Number(#[from] NumberError),
}

/// A change to the rules of one phone.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Adds a rule.
    Add(Rule),
    /// Removes a rule.
    Remove(Rule),
    /// Replaces all rules.
    Replace(BTreeSet<Rule>),
}

/// The rules of one phone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet(BTreeSet<Rule>);

/// The verdict of the rules on a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The caller may ring.
    Place,
    /// The caller may not, because of this rule.
    Reject(Rule),
    /// Reject if the caller has at least this many complaints.
    RejectFrom(u64),
}

impl RuleSet {
    /// Decides on a caller by the most specific rule.
    pub fn judge(&self, caller: Caller) -> Verdict {
        let Caller::Known(number) = caller else {
            let is_rejected = self.0.contains(&Rule::Anonymous);
            return if is_rejected { Verdict::Reject(Rule::Anonymous) } else { Verdict::Place };
        };
        if self.0.contains(&Rule::Number(number)) {
            return Verdict::Reject(Rule::Number(number));
        }
        // The longest matching prefix is the most specific reason.
        let mut prefix = number.digits();
        while prefix > 0 {
            if self.0.contains(&Rule::Prefix(prefix)) {
                return Verdict::Reject(Rule::Prefix(prefix));
            }
            prefix /= 10;
        }
        // The lowest threshold decides.
        match self.0.range(Rule::Complaints(0)..).next() {
            Some(&Rule::Complaints(count)) => Verdict::RejectFrom(count),
            _ => Verdict::Place,
        }
    }

    /// The rules after a change.
    pub fn edited(&self, edit: &Edit) -> Self {
        let mut rules = self.clone();
        match edit {
            Edit::Add(rule) => _ = rules.0.insert(*rule),
            Edit::Remove(rule) => _ = rules.0.remove(rule),
            Edit::Replace(all) => rules.0.clone_from(all),
        }
        rules
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The rules.
    pub fn to_set(&self) -> BTreeSet<Rule> {
        self.0.clone()
    }

    /// The rules, the most specific first.
    pub fn to_vec(&self) -> Vec<Rule> {
        self.0.iter().copied().collect()
    }
}

impl FromIterator<Rule> for RuleSet {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> RuleSet {
        texts.iter().map(|text| text.parse::<Rule>().expect(text)).collect()
    }

    fn caller(text: &str) -> Caller {
        Caller::Known(text.parse().expect(text))
    }

    #[test]
    fn rule_round_trips_as_text() {
        for text in ["+12025550123", "+1900*", "anonymous", "complaints:5"] {
            assert_eq!(text.parse::<Rule>().expect(text).to_string(), text);
        }
        assert_eq!("(202) 555-0123".parse::<Rule>().unwrap().to_string(), "+12025550123");
        assert_eq!("+1 900 *".parse::<Rule>().unwrap().to_string(), "+1900*");
    }

    #[test]
    fn invalid_rules_are_rejected() {
        for text in ["", "*", "+*", "1900*", "+0900*", "+19x0*", "+1+9*", "+1234567890123456*", "+1 9Ġ0*", "+()02*"] {
            assert!(text.parse::<Rule>().is_err(), "{text:?}");
        }
        for text in
            ["complaints:0", "complaints:", "complaints:-1", "complaints:5x", "complaints:9999999999999999999999"]
        {
            assert_eq!(text.parse::<Rule>(), Err(RuleError::Complaints), "{text:?}");
        }
    }

    #[test]
    fn most_specific_rule_decides() {
        let all = rules(&["+12025550123", "+1202*", "+1*", "anonymous", "complaints:9", "complaints:5"]);
        let reject = |text: &str| Verdict::Reject(text.parse().unwrap());
        assert_eq!(all.judge(caller("+12025550123")), reject("+12025550123"));
        assert_eq!(all.judge(caller("+12025550124")), reject("+1202*"));
        assert_eq!(all.judge(caller("+13035550124")), reject("+1*"));
        assert_eq!(all.judge(Caller::Anonymous), reject("anonymous"));
        assert_eq!(all.judge(caller("+442079460123")), Verdict::RejectFrom(5));
        assert_eq!(rules(&["anonymous"]).judge(caller("+12025550123")), Verdict::Place);
        assert_eq!(rules(&["complaints:1"]).judge(Caller::Anonymous), Verdict::Place);
    }
}
