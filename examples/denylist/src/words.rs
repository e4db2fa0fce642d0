//! Numbers and times as a person reads them.

use std::fmt::Display;
use std::time::Duration;

/// A number with its thousands separated: `12,345`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 rule`, `2,000 rules`.
pub(crate) fn count(of: u64, singular: impl Display) -> String {
    let plural = if of == 1 { "" } else { "s" };
    format!("{} {singular}{plural}", number(of))
}

/// A time in the unit that suits it, with three digits: `830 µs`, `1.25 ms`, `42.1 ms`, `5 s`.
pub(crate) fn duration(time: Duration) -> String {
    const UNITS: [(f64, &str); 3] = [(1.0, "s"), (1e3, "ms"), (1e6, "µs")];
    let seconds = time.as_secs_f64();
    // 0.9996 s is a second and not a thousand milliseconds.
    let (scale, unit) = UNITS.into_iter().find(|(scale, _)| seconds * scale >= 0.9995).unwrap_or(UNITS[2]);
    let value = seconds * scale;
    let decimals = match value {
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// A size in bytes: `340 kB`, `12.5 MB`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_000_000, "1,000,000")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!((count(1, "rule"), count(0, "rule")), (String::from("1 rule"), String::from("0 rules")));
    }

    #[test]
    fn times_have_three_digits() {
        let cases = [
            (Duration::ZERO, "0 µs"),
            (Duration::from_nanos(1_500), "1.5 µs"),
            (Duration::from_micros(830), "830 µs"),
            (Duration::from_nanos(999_600), "1 ms"),
            (Duration::from_micros(1_254), "1.25 ms"),
            (Duration::from_micros(42_149), "42.1 ms"),
            (Duration::from_millis(999), "999 ms"),
            (Duration::from_secs(5), "5 s"),
            (Duration::from_millis(61_500), "61.5 s"),
            (Duration::from_secs(120), "120 s"),
        ];
        for (time, text) in cases {
            assert_eq!(duration(time), text, "{time:?}");
        }
    }

    #[test]
    fn sizes_are_rounded() {
        let cases = [(0, "0 kB"), (1, "1 kB"), (340_000, "340 kB"), (12_460_000, "12.5 MB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
