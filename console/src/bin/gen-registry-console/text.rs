//! Numbers and texts, as they are shown.

use std::fmt::Write;

use gen_registry_console::json::Overview;

/// A text of the service without what a terminal would obey: a key is whatever a user of the service has sent.
pub(crate) fn clean(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// At most five characters: 9999, 12.3k, 4.56M.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn short(number: u64) -> String {
    if number < 10_000 { number.to_string() } else { scaled(number as f64) }
}

fn scaled(number: f64) -> String {
    let (unit, size) =
        [("G", 1e9), ("M", 1e6), ("k", 1e3)].into_iter().find(|(_, size)| number >= size * 0.9995).unwrap_or(("", 1.0));
    let value = number / size;
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$}{unit}")
}

/// A rate: 0, 0.2, 340, 12.3k.
pub(crate) fn rate(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        n if n < 0.05 => "<0.1".to_owned(),
        n if n < 99.95 => format!("{n:.1}").trim_end_matches(".0").to_owned(),
        n if n < 9_999.5 => format!("{n:.0}"),
        n => scaled(n),
    }
}

/// A duration in milliseconds: 40ms, 1.2s, 3m20s, 2h05m, 3d04h.
pub(crate) fn duration(milliseconds: Option<u64>) -> String {
    let Some(milliseconds) = milliseconds else { return "-".to_owned() };
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..10 => format!("{seconds}.{}s", milliseconds % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The time of day of a moment, in UTC: a terminal knows no other zone without help.
pub(crate) fn clock(moment: u64) -> String {
    let seconds = moment / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A line of points as bars, the newest at the right.
pub(crate) fn bars(points: &[f64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &points[points.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let mut line = " ".repeat(width - shown.len());
    for point in shown {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to 7")]
        let level = if most > 0.0 { (point / most * 7.0).round() as usize } else { 0 };
        line.push(BARS[level.min(7)]);
    }
    line
}

/// What is queued of what fits: `███░░░░░`.
pub(crate) fn meter(value: usize, limit: usize, width: usize) -> String {
    let full = if limit == 0 { 0 } else { (value * width).div_ceil(limit).min(width) };
    "█".repeat(full) + &"░".repeat(width - full)
}

/// All registries as lines, for `--once`.
pub(crate) fn overview(overview: &Overview) -> String {
    let names = overview.registries.iter().map(|registry| clean(&registry.name));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).max("REGISTRY".len());
    let mut text = format!(
        "{:width$}  WORKERS    LIMIT  STARTS  RESTARTS    EXITS  CRASHES  HANDLED  WAITING  UNDELIVERED\n",
        "REGISTRY"
    );
    for registry in &overview.registries {
        let limit = registry.limit.map_or_else(|| "-".to_owned(), |limit| short(limit as u64));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:width$}  {:>7}  {limit:>7}  {:>6}  {:>8}  {:>7}  {:>7}  {:>7}  {:>7}  {:>11}",
            clean(&registry.name),
            short(registry.workers.total() as u64),
            short(registry.starts.ok),
            short(registry.restarts),
            short(registry.exits.total()),
            short(registry.crashes),
            short(registry.handled),
            short(registry.queued as u64),
            short(registry.undelivered.total()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [0, 9_999, 10_000, 12_345, 999_400, 999_950, 4_560_000];
        assert_eq!(numbers.map(short), ["0", "9999", "10.0k", "12.3k", "999k", "1.00M", "4.56M"]);
        assert_eq!(
            [0.0, 0.01, 0.2, 12.0, 99.9, 340.4, 12_345.0].map(rate),
            ["0", "<0.1", "0.2", "12", "99.9", "340", "12.3k"]
        );
    }

    #[test]
    fn durations_have_two_units() {
        let shown = [0, 999, 1_250, 42_000, 200_000, 7_500_000, 273_600_000].map(|time| duration(Some(time)));
        assert_eq!(shown, ["0ms", "999ms", "1.2s", "42s", "3m20s", "2h05m", "3d04h"]);
    }

    #[test]
    fn key_cannot_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\u{202e}d"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn bars_end_with_the_newest_point() {
        assert_eq!(bars(&[0.0, 7.0, 14.0], 5), "  ▁▅█");
        assert_eq!(bars(&[9.0, 0.0, 14.0], 2), "▁█");
        assert_eq!((meter(0, 8, 4), meter(1, 8, 4), meter(8, 8, 4)), ("░░░░".into(), "█░░░".into(), "████".into()));
    }
}
