//! Writes `RESULTS.md` and its charts from the output of `compare.sh`.
//!
//!     cargo bench -p benches --bench report -- RUN OUT
//!
//! `RUN` is the folder with criterion's estimates and the files of lines. `OUT` is the folder to write to.

#[path = "../common/mod.rs"]
mod common;

mod chart;
mod figures;
mod targets;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use figures::{Figure, Figures};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["--test"] => smoke(),
        [run, out] if !run.starts_with('-') => report(Path::new(run), Path::new(out)),
        // A plain `cargo bench -p benches`, perhaps with options for criterion.
        [] | [_] => {
            println!("the report is written by benches/compare.sh");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("usage: report RUN OUT")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn report(run: &Path, out: &Path) -> anyhow::Result<()> {
    let figures = Figures::read(run).with_context(|| format!("could not read {}", run.display()))?;
    let charts = charts(&figures);
    let folder = out.join("charts");
    fs::create_dir_all(&folder)?;
    for (name, svg) in &charts {
        fs::write(folder.join(format!("{name}.svg")), svg)?;
    }
    let names: Vec<&str> = charts.iter().map(|(name, _)| *name).collect();
    fs::write(out.join("RESULTS.md"), page(&figures, &names))?;
    println!("{} figures in {}", figures.all.len(), out.join("RESULTS.md").display());
    Ok(())
}

/// One chart for each question that a chart can answer.
fn charts(figures: &Figures) -> Vec<(&'static str, String)> {
    let bars = |title: &str, groups: &[(&'static str, &str)]| {
        let parts: Vec<_> = groups.iter().map(|(name, group)| (*name, figures.group(group))).collect();
        chart::bars(title, &parts)
    };
    let charts = [
        (
            "lookup",
            bars(
                "A lookup that hits, time for one",
                &[
                    ("a hot key of 1,000", "lookup/hot key of 1,000"),
                    ("random of 100,000", "lookup/random of 100,000"),
                    ("random of 100,000, 2 callers", "lookup/random of 100,000, 2 callers"),
                ],
            ),
        ),
        (
            "cold_start",
            bars(
                "A start, until its init is through, time for one",
                &[
                    ("1 caller", "cold_start/distinct keys, callers: 1"),
                    ("64 callers", "cold_start/distinct keys, callers: 64"),
                ],
            ),
        ),
        (
            "messages",
            bars(
                "Messages, time for one",
                &[
                    ("call and answer, 1 caller", "call/callers: 1"),
                    ("call and answer, 8 callers", "call/callers: 8"),
                    ("cast, 1 caller", "cast/callers: 1"),
                    ("cast, to 1,000 workers", "cast/to 1,000 workers"),
                ],
            ),
        ),
        (
            "memory",
            bars(
                "An idle worker, bytes",
                &[
                    ("allocated, 100,000 workers", "memory/100,000 workers, allocated"),
                    ("resident, 100,000 workers", "memory/100,000 workers, RSS"),
                ],
            ),
        ),
        ("growth", growth_chart(figures)),
    ];
    charts.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}

fn growth_chart(figures: &Figures) -> Option<String> {
    let line = |name: &'static str| {
        let figures = figures.group(&format!("growth/{name}"))?;
        let mut points: Vec<_> =
            figures.iter().filter_map(|figure| Some((workers(&figure.variant)?, figure.number))).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        Some((name, points))
    };
    let names = ["start", "stop", "lookup and call", "lookup", "sample", "count", "papaya: lookup"];
    let lines: Vec<_> = names.into_iter().filter_map(line).collect();
    chart::lines("Cost of one operation by the number of workers", &lines)
}

/// Parses `1,000 workers`.
fn workers(variant: &str) -> Option<f64> {
    variant.strip_suffix(" workers")?.replace(',', "").parse().ok()
}

fn page(figures: &Figures, charts: &[&str]) -> String {
    let mut page = String::from("# Results\n\n");
    let mode = figures.versions.iter().find(|(name, _)| name == "Run").map_or("", |(_, value)| value);
    let _ = write!(
        page,
        "{mode}\nWritten by `benches/compare.sh`; [README.md](README.md) says what is measured and what is not comparable.\n\n\
         ## Targets\n\n\
         A ratio is gen-registry's time over the other's: less is better. Both are interleaved in rounds of some milliseconds, and\n\
         each ratio is computed within a round. The figure is the median, with its 95 % interval in brackets. \"Within the noise\"\n\
         means that the target lies inside the interval. Figures after \"Beside it\" have no target.\n\n\
         | what | target | measured | verdict |\n|---|---|---|---|\n"
    );
    for row in targets::rows(figures) {
        let _ = writeln!(page, "| {} | {} | {} | {} |", row.what, row.target, row.measured, row.verdict.text());
    }
    page += "\n## Charts\n\n";
    for name in charts {
        let _ = writeln!(page, "![{name}](charts/{name}.svg)\n");
    }
    page += "## Every figure\n\n\
        Time for one operation of one caller's: with several callers, what all of them took divided by what they did.\n";
    for group in figures.groups() {
        table(&mut page, group);
    }
    page += "\n## The machine and the versions\n\n| | |\n|---|---|\n";
    let machine = [("Processor", processor()), ("Memory", memory()), ("System", system())];
    for (name, value) in machine.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    for (name, value) in figures.versions.iter().filter(|(name, _)| name != "Run") {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    for (name, value) in crates() {
        let _ = writeln!(page, "| `{name}` | {value} |");
    }
    page
}

/// A group: its variants, and the ratio of gen-registry to each.
fn table(page: &mut String, group: &[Figure]) {
    let ours = group.iter().find(|figure| figure.variant == "gen-registry");
    let ours = ours.or_else(|| group.iter().find(|figure| figure.variant.starts_with("gen-registry, Via")));
    let _ = write!(page, "\n### {}\n\n", group[0].group);
    // Growth has one variant, with several numbers of workers.
    let is_growth = group[0].group.starts_with("growth/");
    let has_interval = group.iter().any(|figure| figure.interval.0 < figure.interval.1);
    let columns = match (is_growth, has_interval) {
        (true, _) => 2,
        (false, false) => 3,
        (false, true) => 4,
    };
    let names = ["", if has_interval { "median" } else { "" }, "gen-registry over it", "95 % interval"];
    let _ = writeln!(page, "| {} |\n{}|", names[..columns].join(" | "), "|---".repeat(columns));
    let mut group: Vec<&Figure> = group.iter().collect();
    if is_growth {
        group.sort_by(|one, other| {
            workers(&one.variant).unwrap_or(0.0).total_cmp(&workers(&other.variant).unwrap_or(0.0))
        });
    }
    for figure in group {
        let mut cells = vec![figure.variant.replace('<', "\\<"), figure.text()];
        if columns > 2 {
            let over = ours.filter(|ours| ours.variant != figure.variant && figure.number > 0.0);
            cells.push(over.map_or_else(String::new, |ours| format!("{:.2}", ours.over(figure).ratio)));
        }
        let (low, high) = figure.interval;
        if columns > 3 {
            let text = |number| figures::quantity(number, &figure.unit);
            cells.push(if low < high { format!("{} to {}", text(low), text(high)) } else { String::new() });
        }
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// A field of a system file.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processor() -> Option<String> {
    let cores = std::thread::available_parallelism().ok()?;
    Some(format!("{}, {cores} cores", field("/proc/cpuinfo", "model name")?))
}

fn memory() -> Option<String> {
    let kib: f64 = field("/proc/meminfo", "MemTotal")?.trim_end_matches("kB").trim().parse().ok()?;
    Some(format!("{:.0} GiB", kib / 1_048_576.0))
}

fn system() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(format!("{} {}", std::env::consts::OS, release.trim()))
}

/// The versions of the measured crates and of the tools, from the lock file.
fn crates() -> Vec<(String, String)> {
    const NAMES: [&str; 11] = [
        "gen-registry",
        "tokio",
        "papaya",
        "dashmap",
        "moka",
        "kameo",
        "ractor",
        "xtra",
        "criterion",
        "allocation-counter",
        "futures-util",
    ];
    let lock = include_str!("../../Cargo.lock");
    let packages = lock.split("[[package]]").filter_map(|package| {
        let value = |name: &str| {
            let line = package.lines().find(|line| line.starts_with(name))?;
            Some(line.split('"').nth(1)?.to_owned())
        };
        Some((value("name = ")?, value("version = ")?))
    });
    packages.filter(|(name, _)| NAMES.contains(&name.as_str())).collect()
}

/// With some figures, and with none: checks each verdict.
fn smoke() -> anyhow::Result<()> {
    use targets::Verdict;

    let verdict = |figures: &Figures, what: &str| {
        let mut rows = targets::rows(figures).into_iter();
        rows.find(|row| row.what.contains(what)).map(|row| row.verdict).expect("there is such a target")
    };
    let none = Figures::default();
    assert!(matches!(verdict(&none, "hot key"), Verdict::NotMeasured(_)));
    assert!(page(&none, &[]).contains("not measured"));

    let mut some = Figures::default();
    some.read_lines(
        "figure\tlookup/hot key of 1,000\tgen-registry\t30\tns\nfigure\tlookup/hot key of 1,000\tpapaya\t31\tns\n\
         figure\tlookup/hot key of 1,000\tkameo\t20\tns\nfigure\tcall/callers: 1\tgen-registry\t900\tns\n\
         figure\tcall/callers: 1\tmpsc + oneshot\t300\tns\nfigure\tcall/callers: 1\tElixir Registry\t9000\tns\n\
         for people\nversion\tRun\tmade up\n",
    )?;
    assert_eq!(verdict(&some, "hot key"), Verdict::Met);
    assert_eq!(verdict(&some, "call against"), Verdict::NotMet);
    assert_eq!(verdict(&some, "every peer"), Verdict::NotMet);
    let one = some.all[0].clone();
    assert_eq!(one.plus(&some.all[1]).number, 61.0);
    some.all[0].interval = (25.0, 45.0);
    assert_eq!(verdict(&some, "hot key"), Verdict::Barely(true));

    // Interleaved figures of two processes: twice as fast in each of three rounds, while the machine slows down.
    let dir = std::env::temp_dir().join(format!("gen-registry-report-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let lines = "interleaved\tcast/callers: 1\tgen-registry\t10 20\ninterleaved\tcast/callers: 1\tmpsc\t20 40\n\
         interleaved\tcast/callers: 1\tgen-registry\t30\ninterleaved\tcast/callers: 1\tmpsc\t60\n";
    let written = fs::write(dir.join("cast.tsv"), lines).map_err(anyhow::Error::from);
    let read = written.and_then(|()| Figures::read(&dir));
    fs::remove_dir_all(&dir)?;
    let ratio = read?.ratio("cast/callers: 1", "gen-registry", "mpsc").context("both are interleaved")?;
    assert_eq!((ratio.ratio, ratio.interval), (0.5, (0.5, 0.5)));

    let page = page(&some, &[]);
    assert!(page.contains("| mpsc + oneshot | 300 ns | 3.00 |"), "{page}");
    let parts = [("one", some.group("call/callers: 1"))];
    let svg = chart::bars("Some", &parts).context("the parts have figures")?;
    assert!(svg.contains("logarithmic") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(chart::lines("None", &[]).is_none());
    Ok(())
}
