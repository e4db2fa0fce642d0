//! [`Complaint`]: one row of the FTC's Do Not Call Reported Calls. [`Record`]: all complaints about one caller.

use std::fmt;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::phone_number::PhoneNumber;

/// A complaint to the FTC about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The number that called.
    pub about: PhoneNumber,
    /// When the complaint was made.
    pub created: Timestamp,
    /// What the call was about, shortened.
    pub subject: String,
    /// Whether it was a recorded message.
    pub is_robocall: bool,
    /// A digest of all columns, because the file has no id for a complaint.
    pub digest: u128,
}

/// A date and time without a time zone, as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Parses `2021-07-07 00:01:15`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_shaped = text.len() == 19
            && text.bytes().zip(b"0000-00-00 00:00:00").all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                _ => byte == *shape,
            });
        let digits = text.bytes().filter(u8::is_ascii_digit);
        is_shaped.then(|| Self(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))))
    }

    /// 20210707000115.
    pub fn to_stored(self) -> u64 {
        self.0
    }

    /// `None` if it has more than 14 digits.
    pub fn from_stored(digits: u64) -> Option<Self> {
        (digits < 100_000_000_000_000).then_some(Self(digits))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0 / 1_000_000, self.0 % 1_000_000);
        write!(f, "{:04}-{:02}-{:02} ", date / 10_000, date / 100 % 100, date % 100)?;
        write!(f, "{:02}:{:02}:{:02}", time / 10_000, time / 100 % 100, time % 100)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The complaints about one caller.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub(crate) struct Record {
    pub(crate) complaints: u64,
    /// How many of them were about a recorded message.
    pub(crate) robocalls: u64,
    /// The date of the latest complaint.
    pub(crate) last: Option<Timestamp>,
    /// The subjects of the calls, the most frequent first.
    pub(crate) subjects: Vec<Subject>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Subject {
    pub(crate) subject: String,
    pub(crate) complaints: u64,
}

impl Record {
    /// How many subjects are shown.
    const SUBJECTS: usize = 10;

    pub(crate) fn new(complaints: u64, robocalls: u64, last: Timestamp, subjects: Vec<(String, u64)>) -> Self {
        let mut subjects: Vec<_> =
            subjects.into_iter().map(|(subject, complaints)| Subject { subject, complaints }).collect();
        subjects.sort_by_key(|subject| std::cmp::Reverse(subject.complaints));
        subjects.truncate(Self::SUBJECTS);
        Self { complaints, robocalls, last: Some(last), subjects }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_round_trips_as_text() {
        for text in ["2021-07-07 00:01:15", "1999-12-31 23:59:59"] {
            assert_eq!(Timestamp::parse(text).expect(text).to_string(), text);
        }
        for text in [
            "",
            "2021-07-07",
            "2021-07-07T00:01:15",
            "7/7/2021 00:01:15",
            "2021-07-07 00:01:1x",
            "2021-07-07 00:01:15Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text:?}");
        }
    }
}
