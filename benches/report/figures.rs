//! The measurements: criterion's estimates, and the lines that the programs print.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// A figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) group: String,
    /// The variant.
    pub(crate) variant: String,
    /// The median for one operation.
    pub(crate) number: f64,
    /// The confidence interval. Equal to the number if there is none.
    pub(crate) interval: (f64, f64),
    pub(crate) unit: String,
    /// One number per round, if it was measured interleaved with others.
    rounds: Vec<f64>,
}

/// The ratio of two figures, with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) ratio: f64,
    pub(crate) interval: (f64, f64),
}

/// All figures of a run, and its notes.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) all: Vec<Figure>,
    /// Names and versions.
    pub(crate) versions: Vec<(String, String)>,
}

impl Figures {
    /// Reads the output of `compare.sh`: `criterion/`, and files of lines.
    pub(crate) fn read(run: &Path) -> anyhow::Result<Self> {
        let mut figures = Self::default();
        let criterion = run.join("criterion");
        if criterion.is_dir() {
            figures.read_criterion(&criterion)?;
        }
        let mut files: Vec<_> = fs::read_dir(run)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "tsv")) {
            figures.read_lines(&fs::read_to_string(file)?).with_context(|| file.display().to_string())?;
        }
        for figure in &mut figures.all {
            figure.sum_up();
        }
        figures.all.sort_by(|one, other| by_group(&one.group, &other.group).then(one.number.total_cmp(&other.number)));
        Ok(figures)
    }

    fn read_criterion(&mut self, folder: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            if path.ends_with("new") && path.join("benchmark.json").is_file() {
                let figure = from_criterion(&path).with_context(|| path.display().to_string())?;
                self.all.push(figure);
            } else {
                self.read_criterion(&path)?;
            }
        }
        Ok(())
    }

    /// Lines of fields separated by tabs: `figure`, group, variant, number, unit; or `interleaved`, group, variant,
    /// nanoseconds by round; or `version`, name, value. Other lines are ignored.
    pub(crate) fn read_lines(&mut self, lines: &str) -> anyhow::Result<()> {
        for line in lines.lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["figure", group, variant, number, unit] => {
                    let number = number.parse().with_context(|| format!("not a number: {line:?}"))?;
                    let (group, variant, unit) = (group.to_owned(), variant.to_owned(), unit.to_owned());
                    self.all.push(Figure {
                        group,
                        variant,
                        number,
                        interval: (number, number),
                        unit,
                        rounds: Vec::new(),
                    });
                }
                ["interleaved", group, variant, rounds] => {
                    let rounds: Result<Vec<f64>, _> = rounds.split(' ').map(str::parse).collect();
                    let rounds = rounds.with_context(|| format!("not numbers: {line:?}"))?;
                    // Each process prints its own line.
                    match self.all.iter_mut().find(|figure| figure.group == group && figure.variant == variant) {
                        Some(figure) => figure.rounds.extend(rounds),
                        None => self.all.push(Figure {
                            group: group.to_owned(),
                            variant: variant.to_owned(),
                            number: f64::NAN,
                            interval: (f64::NAN, f64::NAN),
                            unit: "ns".to_owned(),
                            rounds,
                        }),
                    }
                }
                ["version", name, value] => self.versions.push((name.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, group: &str, variant: &str) -> Option<&Figure> {
        self.all.iter().find(|figure| figure.group == group && figure.variant == variant)
    }

    /// The ratio of two variants of a group.
    pub(crate) fn ratio(&self, group: &str, variant: &str, other: &str) -> Option<Ratio> {
        Some(self.get(group, variant)?.over(self.get(group, other)?))
    }

    /// The groups in the order of the report, each with its figures, the smallest first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Figure]> {
        self.all.chunk_by(|one, next| one.group == next.group)
    }

    pub(crate) fn group(&self, name: &str) -> Option<&[Figure]> {
        self.groups().find(|group| group[0].group == name)
    }
}

/// The median and its 95 % confidence interval, whatever the distribution.
fn median(mut numbers: Vec<f64>) -> (f64, (f64, f64)) {
    numbers.sort_by(f64::total_cmp);
    let count = numbers.len();
    let median = f64::midpoint(numbers[(count - 1) / 2], numbers[count / 2]);
    // The ranks in the middle.
    let half = 0.98 * (count as f64).sqrt();
    let least = (count as f64 / 2.0 - half).floor().max(0.0) as usize;
    let most = ((count as f64 / 2.0 + half).ceil() as usize).min(count - 1);
    (median, (numbers[least], numbers[most]))
}

impl Figure {
    /// Computes the number from the rounds, if there are any.
    fn sum_up(&mut self) {
        if !self.rounds.is_empty() {
            (self.number, self.interval) = median(self.rounds.clone());
        }
    }

    /// The rounds of both figures in pairs.
    fn beside<'f>(&'f self, other: &'f Self) -> Option<impl Iterator<Item = (f64, f64)> + use<'f>> {
        let is_interleaved = !self.rounds.is_empty() && self.rounds.len() == other.rounds.len();
        is_interleaved.then(|| self.rounds.iter().copied().zip(other.rounds.iter().copied()))
    }

    pub(crate) fn over(&self, other: &Self) -> Ratio {
        if let Some(pairs) = self.beside(other) {
            let (ratio, interval) = median(pairs.map(|(one, other)| one / other).collect());
            return Ratio { ratio, interval };
        }
        Ratio {
            ratio: self.number / other.number,
            interval: (self.interval.0 / other.interval.1, self.interval.1 / other.interval.0),
        }
    }

    /// The sum of two operations, one after the other.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        let interval = (self.interval.0 + other.interval.0, self.interval.1 + other.interval.1);
        let rounds = self.beside(other).map(|pairs| pairs.map(|(one, other)| one + other).collect());
        Self { number: self.number + other.number, interval, rounds: rounds.unwrap_or_default(), ..self.clone() }
    }

    /// For display.
    pub(crate) fn text(&self) -> String {
        quantity(self.number, &self.unit)
    }
}

/// About three digits.
pub(crate) fn quantity(number: f64, unit: &str) -> String {
    let (number, unit) = match unit {
        "ns" if number >= 1e9 => (number / 1e9, "s"),
        "ns" if number >= 1e6 => (number / 1e6, "ms"),
        "ns" if number >= 1e3 => (number / 1e3, "µs"),
        _ => (number, unit),
    };
    let digits = if number >= 100.0 || number.fract() == 0.0 { 0 } else { 2 - usize::from(number >= 10.0) };
    let text = format!("{number:.digits$} {unit}");
    text.trim_end().to_owned()
}

/// Reads `benchmark.json` and `estimates.json`.
fn from_criterion(folder: &Path) -> anyhow::Result<Figure> {
    let read = |file: &str| -> anyhow::Result<Value> { Ok(serde_json::from_slice(&fs::read(folder.join(file))?)?) };
    let (benchmark, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let name = |field: &str| benchmark[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
    // An iteration performs this many operations.
    let operations = benchmark["throughput"]["Elements"].as_f64().unwrap_or(1.0);
    let median = &estimates["median"];
    let nanoseconds = |value: &Value| value.as_f64().map(|number| number / operations).context("no median");
    let bounds = &median["confidence_interval"];
    Ok(Figure {
        group: name("group_id")?,
        variant: name("function_id")?,
        number: nanoseconds(&median["point_estimate"])?,
        interval: (nanoseconds(&bounds["lower_bound"])?, nanoseconds(&bounds["upper_bound"])?),
        unit: "ns".to_owned(),
        rounds: Vec::new(),
    })
}

/// In the order of the report's questions, then by words and numbers.
fn by_group(one: &str, other: &str) -> Ordering {
    const OPERATIONS: [&str; 21] = [
        "lookup",
        "lookup_or_start",
        "start",
        "allocations of a hit",
        "cold_start",
        "call",
        "cast",
        "lookup and call",
        "via",
        "churn",
        "isolation",
        "limits",
        "metrics",
        "reduce",
        "to_list",
        "broadcast",
        "start, callers: 64",
        "shut down",
        "memory",
        "growth",
        "worker types",
    ];
    let place = |group: &str| {
        let operation = group.split('/').next().unwrap_or_default();
        OPERATIONS.iter().position(|one| *one == operation).unwrap_or(OPERATIONS.len())
    };
    place(one).cmp(&place(other)).then_with(|| words(one).cmp(&words(other)))
}

/// Numbers in a name compare as numbers: 8 before 64.
fn words(name: &str) -> Vec<(String, u64)> {
    let name = name.replace(',', "");
    let parts = name.split_inclusive(|c: char| !c.is_ascii_digit());
    parts
        .map(|part| {
            let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
            (part[digits.len()..].to_owned(), digits.parse().unwrap_or(0))
        })
        .collect()
}
