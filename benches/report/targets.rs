//! The targets, and whether a run meets them.

use crate::figures::{Figures, Ratio, quantity};

/// A row of the table.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) target: &'static str,
    pub(crate) measured: String,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Met,
    NotMet,
    /// Met or not met, but the figures are not exact enough for another run to agree.
    Barely(bool),
    /// The reason.
    NotMeasured(&'static str),
}

impl Verdict {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Met => "met".to_owned(),
            Self::NotMet => "**not met**".to_owned(),
            Self::Barely(true) => "met, within the noise".to_owned(),
            Self::Barely(false) => "**not met**, within the noise".to_owned(),
            Self::NotMeasured(why) => format!("not measured: {why}"),
        }
    }

    /// The combination of several verdicts: the worst one.
    fn and(self, other: Self) -> Self {
        let rank = |verdict: &Self| match verdict {
            Self::Met => 0,
            Self::Barely(true) => 1,
            Self::NotMeasured(_) => 2,
            Self::Barely(false) => 3,
            Self::NotMet => 4,
        };
        if rank(&self) >= rank(&other) { self } else { other }
    }
}

const OURS: &str = "gen-registry";
const BESIDE: &str = "papaya, key beside the sender";
const NOT_RUN: &str = "its bench did not run";

/// Judges a ratio. Returns its text too.
fn at_most(limit: f64, ratio: Option<Ratio>) -> (String, Verdict) {
    let Some(Ratio { ratio, interval: (low, high) }) = ratio else {
        return ("?".to_owned(), Verdict::NotMeasured(NOT_RUN));
    };
    let met = ratio <= limit;
    let verdict = match (low <= limit, high <= limit) {
        (true, true) => Verdict::Met,
        (false, false) => Verdict::NotMet,
        _ => Verdict::Barely(met),
    };
    (format!("{ratio:.2} ({low:.2} to {high:.2})"), verdict)
}

/// All of the first must be at most the limit. The others are shown beside them and not judged.
fn ratios<const N: usize, const M: usize>(
    what: &'static str,
    (target, limit): (&'static str, f64),
    judged: [(&str, Option<Ratio>); N],
    beside: [(&str, Option<Ratio>); M],
) -> Row {
    let mut verdict = Verdict::Met;
    let mut measured = Vec::new();
    for (name, ratio) in judged {
        let (text, this) = at_most(limit, ratio);
        measured.push(join(name, &text));
        verdict = verdict.and(this);
    }
    let mut measured = measured.join("; ");
    let beside: Vec<_> =
        beside.iter().filter_map(|(name, ratio)| Some(join(name, &format!("{:.2}", (*ratio)?.ratio)))).collect();
    if !beside.is_empty() {
        measured += &format!(". Beside it: {}", beside.join("; "));
    }
    Row { what, target, measured, verdict }
}

fn join(name: &str, text: &str) -> String {
    if name.is_empty() { text.to_owned() } else { format!("{name} {text}") }
}

/// Numbers that must each be at most their limit.
fn numbers(figures: &Figures, what: &'static str, target: &'static str, limits: &[(&str, &str, &str, f64)]) -> Row {
    let mut verdict = Verdict::Met;
    let mut measured = Vec::new();
    for &(name, group, variant, limit) in limits {
        let Some(figure) = figures.get(group, variant) else {
            verdict = verdict.and(Verdict::NotMeasured(NOT_RUN));
            continue;
        };
        measured.push(join(name, &figure.text()));
        verdict = verdict.and(if figure.number <= limit { Verdict::Met } else { Verdict::NotMet });
    }
    Row { what, target, measured: measured.join("; "), verdict }
}

/// All targets, in the order of the list.
pub(crate) fn rows(figures: &Figures) -> Vec<Row> {
    let over = |group: &str, other: &str| figures.ratio(group, OURS, other);
    let memory = |size: &str, what: &str| format!("memory/{size} workers, {what}");
    let million = |what: &str| memory("1,000,000", what);
    let mut rows = vec![
        ratios(
            "lookup hit, hot key, against a bare `papaya` get and `Arc` clone with the same hasher",
            ("≤ 1.2", 1.2),
            [("", over("lookup/hot key of 1,000", "papaya"))],
            [
                ("current-thread", over("lookup/hot key of 1,000, current-thread", "papaya")),
                ("2 callers", over("lookup/hot key of 1,000, 2 callers", "papaya")),
                ("8 callers", over("lookup/hot key of 1,000, 8 callers", "papaya")),
                ("`u64`", over("lookup/hot u64 key of 1,000", "papaya")),
            ],
        ),
        ratios(
            "lookup hit, random of 100,000, against the same",
            ("≤ 1.1", 1.1),
            [("", over("lookup/random of 100,000", "papaya"))],
            [
                ("over a set with the key beside the sender", over("lookup/random of 100,000", BESIDE)),
                ("current-thread", over("lookup/random of 100,000, current-thread", "papaya")),
                ("2 callers", over("lookup/random of 100,000, 2 callers", "papaya")),
                ("8 callers", over("lookup/random of 100,000, 8 callers", "papaya")),
                ("`u64`", over("lookup/random u64 of 100,000", "papaya")),
            ],
        ),
        lookup_or_start(figures),
        peers(figures),
        ratios(
            "cold start against the hand-written `DashMap` entry, spawn and mpsc that waits for its init as well",
            ("≤ 1.3 with 1 caller and with 64", 1.3),
            [
                ("1 caller", over("cold_start/distinct keys, callers: 1", "DashMap")),
                ("64 callers", over("cold_start/distinct keys, callers: 64", "DashMap")),
            ],
            [
                ("1 caller, over a bare owner task", over("cold_start/distinct keys, callers: 1", "a bare owner task")),
                ("64 callers, over it", over("cold_start/distinct keys, callers: 64", "a bare owner task")),
                ("1 caller, over one lock", over("cold_start/distinct keys, callers: 1", "one lock")),
                ("64 callers, over it", over("cold_start/distinct keys, callers: 64", "one lock")),
                (
                    "1 caller, over a guarded `DashMap`",
                    over("cold_start/distinct keys, callers: 1", "a guarded DashMap"),
                ),
                ("64 callers, over it", over("cold_start/distinct keys, callers: 64", "a guarded DashMap")),
                ("8 callers", over("cold_start/distinct keys, callers: 8", "DashMap")),
                ("1 caller, current-thread", over("cold_start/distinct keys, callers: 1, current-thread", "DashMap")),
                (
                    "64 callers, current-thread",
                    over("cold_start/distinct keys, callers: 64, current-thread", "DashMap"),
                ),
                (
                    "64 callers of one key, over a `DashMap` of `OnceCell`",
                    over("cold_start/one key, callers: 64", "DashMap of OnceCell"),
                ),
            ],
        ),
        ratios(
            "call against bare mpsc and oneshot",
            ("≤ 1.0", 1.0),
            [("1 caller", over("call/callers: 1", "mpsc + oneshot"))],
            [
                ("2 callers", over("call/callers: 2", "mpsc + oneshot")),
                ("8 callers", over("call/callers: 8", "mpsc + oneshot")),
                ("1 caller, current-thread", over("call/callers: 1, current-thread", "mpsc + oneshot")),
                ("8 callers, current-thread", over("call/callers: 8, current-thread", "mpsc + oneshot")),
            ],
        ),
        ratios(
            "cast throughput against bare bounded mpsc (time over time)",
            ("≤ 1.0", 1.0),
            [("1 caller", over("cast/callers: 1", "mpsc"))],
            [
                ("2 callers", over("cast/callers: 2", "mpsc")),
                ("8 callers", over("cast/callers: 8", "mpsc")),
                ("to 1,000 workers", over("cast/to 1,000 workers", "mpsc")),
                ("1 caller, current-thread", over("cast/callers: 1, current-thread", "mpsc")),
                ("8 callers, current-thread", over("cast/callers: 8, current-thread", "mpsc")),
            ],
        ),
        ratios(
            "send through `Via` on a live worker against a send through its handle and a lookup",
            ("≤ lookup + 10 %", 1.1),
            [("call", via(figures, "via/call")), ("cast", via(figures, "via/cast"))],
            [
                ("current-thread: call", via(figures, "via/call, current-thread")),
                ("cast", via(figures, "via/cast, current-thread")),
                ("over both measured apart: call", via_apart(figures, "via/call")),
                ("cast", via_apart(figures, "via/cast")),
                ("the same, current-thread: call", via_apart(figures, "via/call, current-thread")),
                ("cast", via_apart(figures, "via/cast, current-thread")),
            ],
        ),
        numbers(
            figures,
            "bytes per idle worker, all in, string key, default options",
            "≤ 700",
            &[
                ("100,000 workers:", &memory("100,000", "allocated"), OURS, 700.0),
                ("1,000,000 workers:", &million("allocated"), OURS, 700.0),
            ],
        ),
        with_options(figures),
    ];
    let types = |what: &str, other: &str| over(&format!("worker types/{what}, each further"), other);
    rows.push(ratios(
        "a further worker type in a program, against one of kameo's",
        ("≤ 1.0", 1.0),
        [("time to compile", types("compile", "kameo")), ("bytes of the binary", types("binary", "kameo"))],
        [("over ractor: time", types("compile", "ractor")), ("bytes", types("binary", "ractor"))],
    ));
    rows.push(numbers(
        figures,
        "a million workers",
        "start ≤ 6 s, shut down ≤ 3 s, ≤ 1 GiB RSS",
        &[
            ("start", &million("start"), OURS, 6.0),
            ("shut down", &million("shut down"), OURS, 3.0),
            ("RSS", &million("RSS of the process"), OURS, 1_024.0),
            ("at its peak", &million("peak RSS of the process, the shutdown included"), OURS, 1_024.0),
        ],
    ));
    rows.push(ratios(
        "`reduce` over 100,000 against iterating the bare map",
        ("≤ 1.2", 1.2),
        [("", over("reduce/100,000", "papaya"))],
        [
            (
                "over open senders only, which is what `reduce` shows",
                over("reduce/100,000", "papaya, open senders only"),
            ),
            (
                "over a set with the key beside the sender, by the same batches",
                over("reduce/100,000", "papaya, key beside the sender, by batches"),
            ),
            (
                "over the same that asks whether they are open",
                over("reduce/100,000", "papaya, key and gate beside the sender, by batches"),
            ),
        ],
    ));
    rows.push(isolation(figures));
    rows.push(ratios(
        "kill to the next live worker, p50, in cold starts",
        ("≤ 3", 3.0),
        [("", over("churn/kill to the next worker, p50", "gen-registry's cold start"))],
        [],
    ));
    rows.push(growth(figures));
    rows
}

/// A send through an address, over a lookup and a send through the handle in one loop.
fn via(figures: &Figures, group: &str) -> Option<Ratio> {
    figures.ratio(group, "gen-registry, Via", "gen-registry, lookup and handle")
}

/// Over the sum of a loop of lookups and a loop of sends.
fn via_apart(figures: &Figures, group: &str) -> Option<Ratio> {
    let lookup = figures.get(group, "gen-registry's lookup")?;
    let baseline = figures.get(group, "gen-registry, handle")?.plus(lookup);
    Some(figures.get(group, "gen-registry, Via")?.over(&baseline))
}

fn lookup_or_start(figures: &Figures) -> Row {
    let hit = |group: &str| figures.ratio(group, OURS, "gen-registry's lookup");
    let baseline = |group: &str| figures.ratio(group, OURS, "papaya");
    let mut row = ratios(
        "`lookup_or_start` hit against `lookup`",
        ("≤ 1.1, no allocation", 1.1),
        [
            ("hot key", hit("lookup_or_start/hit, hot key of 1,000")),
            ("random of 100,000", hit("lookup_or_start/hit, random of 100,000")),
        ],
        [
            ("random `u64` of 100,000", hit("lookup_or_start/hit, random u64 of 100,000")),
            ("over a hand-written `papaya` lookup, hot key", baseline("lookup_or_start/hit, hot key of 1,000")),
            ("random of 100,000", baseline("lookup_or_start/hit, random of 100,000")),
        ],
    );
    let allocations = figures.get("allocations of a hit/lookup_or_start", OURS);
    let (text, verdict) = match allocations {
        Some(none) if none.number == 0.0 => ("no allocation".to_owned(), Verdict::Met),
        Some(some) => (format!("{} allocations", some.number), Verdict::NotMet),
        None => ("allocations?".to_owned(), Verdict::NotMeasured(NOT_RUN)),
    };
    row.measured = format!("{text}; {}", row.measured);
    row.verdict = row.verdict.and(verdict);
    row
}

/// Every lookup that a peer also has.
fn peers(figures: &Figures) -> Row {
    const PEERS: [&str; 3] = ["kameo", "ractor", "Elixir Registry"];
    let mut worst: Option<(Ratio, &str, &str)> = None;
    let (mut slower, mut number) = (0, 0);
    for group in figures.groups().map(|group| group[0].group.as_str()).filter(|name| name.starts_with("lookup/")) {
        for peer in PEERS {
            let Some(ratio) = figures.ratio(group, OURS, peer) else { continue };
            number += 1;
            slower += usize::from(ratio.ratio >= 1.0);
            if worst.as_ref().is_none_or(|(worst, ..)| ratio.ratio > worst.ratio) {
                worst = Some((ratio, group, peer));
            }
        }
    }
    let (text, verdict) = at_most(1.0, worst.as_ref().map(|(ratio, ..)| *ratio));
    let mut measured = format!("at worst {text}");
    if let Some((_, group, peer)) = worst {
        measured +=
            &format!(", over {peer}, {}; slower in {slower} of {number} comparisons", &group["lookup/".len()..]);
        let floors = [("a bare `papaya` over the same", "papaya"), ("a set with the key beside the sender", BESIDE)];
        let beside: Vec<_> = floors
            .iter()
            .filter_map(|(name, variant)| {
                Some(join(name, &format!("{:.2}", figures.ratio(group, variant, peer)?.ratio)))
            })
            .collect();
        if !beside.is_empty() {
            measured += &format!(". Beside it: {}", beside.join("; "));
        }
    }
    Row { what: "any lookup against every peer", target: "faster than all", measured, verdict }
}

/// Every variant of gen-registry with options.
fn with_options(figures: &Figures) -> Row {
    let options = figures.all.iter().filter(|figure| {
        figure.group.starts_with("memory/")
            && figure.group.ends_with("allocated")
            && figure.variant.starts_with("gen-registry, ")
    });
    let most = options.max_by(|one, other| one.number.total_cmp(&other.number));
    let (measured, verdict) = match most {
        Some(most) => {
            let verdict = if most.number <= 1_024.0 { Verdict::Met } else { Verdict::NotMet };
            (format!("at most {} ({})", most.text(), most.variant), verdict)
        }
        None => (String::new(), Verdict::NotMeasured("benches/memory.rs has no variant with them")),
    };
    Row { what: "the same with idle timeout and metrics", target: "never above 1,024", measured, verdict }
}

/// Allows a tenth for the noise of a run.
fn isolation(figures: &Figures) -> Row {
    let with = |operation: &str| {
        let group = format!("isolation/{operation}, with and without");
        figures.ratio(&group, "gen-registry, 100 inits hang", "gen-registry, none hangs")
    };
    ratios(
        "unrelated start or lookup while 100 inits hang",
        ("the same as without (≤ 1.1 here)", 1.1),
        [("cold start", with("cold start")), ("lookup", with("lookup"))],
        [],
    )
}

fn growth(figures: &Figures) -> Row {
    let (measured, verdict) = match figures.get("growth/logarithmic", OURS) {
        Some(all) if all.number > 0.0 => ("none grows faster".to_owned(), Verdict::Met),
        Some(_) => ("some grow faster".to_owned(), Verdict::NotMet),
        None => (String::new(), Verdict::NotMeasured(NOT_RUN)),
    };
    let start = figures.get("growth/start", "1,000 workers").zip(figures.get("growth/start", "1,000,000 workers"));
    let starts = start.map(|(few, many)| {
        format!(
            "; a start takes {} beside 1,000 and {} beside 1,000,000",
            quantity(few.number, "ns"),
            quantity(many.number, "ns")
        )
    });
    Row {
        what: "cost per operation with 1,000 to 1,000,000 workers",
        target: "nothing worse than logarithmic",
        measured: measured + &starts.unwrap_or_default(),
        verdict,
    }
}
