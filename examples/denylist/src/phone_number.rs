//! [`PhoneNumber`]: the key of both registries.

use std::fmt;
use std::str::FromStr;

use phonenumber::country;
use serde::{Serialize, Serializer};
use thiserror::Error;

/// The shortest number that can be dialled from abroad.
const MIN_DIGITS: usize = 7;
/// Longer texts are rejected, whatever their punctuation.
const MAX_LENGTH: usize = 40;
/// The first number with more than 15 digits.
const TOO_LONG: u64 = 1_000_000_000_000_000;
/// The national numbers of the North American plan: ten digits, the first being 2 to 9.
const NORTH_AMERICAN: std::ops::RangeInclusive<u64> = 2_000_000_000..=9_999_999_999;

/// A phone number in E.164. All spellings of a number are the same key.
///
/// It has at most 15 digits, and the first is not 0. So an integer holds it without loss, is cheap to copy and to hash,
/// and sorts in the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhoneNumber(u64);

impl PhoneNumber {
    /// The digits after the plus sign.
    pub fn digits(self) -> u64 {
        self.0
    }

    /// The number with these digits, unless there are too many or none.
    pub fn from_digits(digits: u64) -> Option<Self> {
        (1..TOO_LONG).contains(&digits).then_some(Self(digits))
    }
}

impl FromStr for PhoneNumber {
    type Err = NumberError;

    /// Parses the usual spellings. A number without a country code is from the US.
    fn from_str(text: &str) -> Result<Self, NumberError> {
        let number = Self::read(text)?;
        let written = number.to_string();
        // The parser drops digits that it takes for a prefix, and what is left may be no number: `+4611 136 0123`.
        if written == text || Self::read(&written) == Ok(number) { Ok(number) } else { Err(NumberError::NotInPlan) }
    }
}

impl PhoneNumber {
    fn read(text: &str) -> Result<Self, NumberError> {
        let text = text.trim();
        let text = text.strip_prefix("tel:").unwrap_or(text);
        if text.is_empty() {
            return Err(NumberError::Empty);
        }
        // The parser would convert letters and drop extensions. A caller's number has neither.
        if !text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.()/ ".contains(&byte)) {
            return Err(NumberError::NotANumber);
        }
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(NumberError::NotANumber);
        }
        if digits < MIN_DIGITS {
            return Err(NumberError::TooShort);
        }
        if text.len() > MAX_LENGTH {
            return Err(NumberError::TooLong);
        }
        let number = phonenumber::parse(Some(country::US), text).map_err(|error| match error {
            phonenumber::ParseError::TooShortAfterIdd | phonenumber::ParseError::TooShortNsn => NumberError::TooShort,
            phonenumber::ParseError::TooLong => NumberError::TooLong,
            _ => NumberError::NotANumber,
        })?;
        // Forged numbers often have unassigned area codes. Such a call rings a phone all the same.
        let is_north_american = number.country().code() == 1;
        let can_be_forged = is_north_american && NORTH_AMERICAN.contains(&number.national().value());
        if !can_be_forged && !number.is_valid() {
            return Err(match digits {
                0..=9 => NumberError::TooShort,
                11.. if is_north_american => NumberError::TooLong,
                _ => NumberError::NotInPlan,
            });
        }
        let e164 = number.format().mode(phonenumber::Mode::E164).to_string();
        match e164.trim_start_matches('+').parse() {
            Ok(digits) => Self::from_digits(digits).ok_or(NumberError::TooLong),
            Err(_) => Err(NumberError::TooLong),
        }
    }
}

impl Serialize for PhoneNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", self.0)
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a phone number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum NumberError {
    /// There is no text.
    #[error("no number")]
    Empty,
    /// It has other characters than digits and punctuation, or no digit, or digits that no number begins with.
    #[error("not a phone number")]
    NotANumber,
    /// No phone has such a short number.
    #[error("phone number too short")]
    TooShort,
    /// It has more digits than the plan of its country allows, or too much punctuation.
    #[error("phone number too long")]
    TooLong,
    /// Its length is plausible, and no country assigns it.
    #[error("in no country's numbering plan")]
    NotInPlan,
}

/// A caller: a number, or one that hides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// It hides its number.
    Anonymous,
    /// Its number is known.
    Known(PhoneNumber),
}

impl FromStr for Caller {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        if text.eq_ignore_ascii_case("anonymous") { Ok(Self::Anonymous) } else { text.parse().map(Self::Known) }
    }
}

impl Serialize for Caller {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Anonymous => serializer.serialize_str("anonymous"),
            Self::Known(number) => number.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_as_another_number_is_none() {
        for text in ["+4611 136 0123", "+46111360123"] {
            assert_eq!(text.parse::<PhoneNumber>(), Err(NumberError::NotInPlan), "{text}");
        }
    }

    #[test]
    fn all_notations_parse_to_one_number() {
        let ways = [
            "+12025550123",
            "+1 202 555 0123",
            "(202) 555-0123",
            "202.555.0123",
            "1-202-555-0123",
            "tel:+1-202-555-0123",
            " 2025550123 ",
            "011 1 202 555 0123",
        ];
        for text in ways {
            assert_eq!(text.parse(), Ok(PhoneNumber(12_025_550_123)), "{text}");
        }
    }

    #[test]
    fn foreign_number_needs_country_code() {
        assert_eq!("+44 20 7946 0123".parse(), Ok(PhoneNumber(442_079_460_123)));
        assert_eq!("442079460123".parse::<PhoneNumber>(), Err(NumberError::TooLong));
    }

    #[test]
    fn parse_error_names_the_cause() {
        let cases = [
            ("", NumberError::Empty),
            ("   ", NumberError::Empty),
            ("tel:", NumberError::Empty),
            ("12345", NumberError::TooShort),
            ("5550123", NumberError::TooShort),
            ("0000000000", NumberError::NotANumber),
            ("70611454600144", NumberError::TooLong),
            ("2025550123;222", NumberError::NotANumber),
            ("1-800-FLOWERS", NumberError::NotANumber),
            ("2025550123 ext 7", NumberError::NotANumber),
            ("+dwPAA;phone-context=AA", NumberError::NotANumber),
            ("٢٠٢٥٥٥٠١٢٣", NumberError::NotANumber),
            ("+++", NumberError::NotANumber),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<PhoneNumber>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn unassigned_area_code_is_accepted() {
        assert_eq!("9505550123".parse(), Ok(PhoneNumber(19_505_550_123)));
    }

    #[test]
    fn parser_never_panics() {
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let text: String = (0..14)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    char::from(b"0123456789+-.()/ 019"[(state >> 33) as usize % 20])
                })
                .collect();
            if let Ok(number) = text.parse::<PhoneNumber>() {
                assert_eq!(number.to_string().parse(), Ok(number), "{text:?} is not stable");
            }
        }
    }
}
