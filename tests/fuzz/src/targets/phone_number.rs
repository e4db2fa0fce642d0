//! Phone numbers and callers.

use denylist::phone_number::{Caller, NumberError, PhoneNumber};

use crate::kind;

pub(crate) const WORDS: &[&str] = &[
    "+1",
    "+44",
    "+49",
    "+7",
    "+999",
    "tel:",
    "011",
    "00",
    "(202) ",
    "555",
    "-0123",
    "2025550123",
    "anonymous",
    " ",
    "+",
];

pub(crate) fn run(data: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(data);
    let parsed = text.parse::<PhoneNumber>();
    match parsed {
        Ok(number) => is_a_number(&text, number),
        Err(error) => {
            let text = text.trim();
            let is_empty = text.strip_prefix("tel:").unwrap_or(text).is_empty();
            assert!(!is_empty || error == NumberError::Empty, "{text:?} is empty, not: {error}");
        }
    }
    // Space around a number is no part of it.
    assert_eq!(format!(" {text}\t").parse::<PhoneNumber>(), parsed, "{text:?} with space around it");
    let caller = text.parse::<Caller>();
    match caller {
        Ok(Caller::Anonymous) => assert!(text.eq_ignore_ascii_case("anonymous"), "{text:?} is anonymous"),
        Ok(Caller::Known(number)) => assert_eq!(Ok(number), parsed, "{text:?} as a caller"),
        Err(error) => assert_eq!(Err(error), parsed, "{text:?} as a caller"),
    }
    let country = parsed.ok().map(|number| first_digits(number.digits()));
    let has_plus = text.contains('+');
    kind((parsed.err().map(|error| error.to_string()), country, has_plus, text.len().min(41)))
}

fn is_a_number(text: &str, number: PhoneNumber) {
    let digits = number.digits();
    assert!((1..1_000_000_000_000_000).contains(&digits), "{text:?} has {digits} as its digits");
    assert_eq!(PhoneNumber::from_digits(digits), Some(number), "{text:?}");
    let written = number.to_string();
    assert_eq!(written, format!("+{digits}"), "{text:?}");
    assert_eq!(written.parse(), Ok(number), "{text:?} is not stable");
    // No digit is invented: what is dialled ends with digits of the text.
    let given: String = text.chars().filter(char::is_ascii_digit).collect();
    assert!(given.ends_with(&written[written.len() - 4..]), "{text:?} became {written}");
}

fn first_digits(mut digits: u64) -> u64 {
    while digits >= 100 {
        digits /= 10;
    }
    digits
}
