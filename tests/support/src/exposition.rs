//! [`Exposition`]: a strict parser of the Prometheus text format.

use std::collections::{BTreeMap, BTreeSet};

use gen_registry::metrics::{Kind, LabelValues, Metric};

/// The families by name.
#[derive(Debug, Default)]
pub struct Exposition(pub BTreeMap<String, Family>);

#[derive(Debug, Default)]
pub struct Family {
    pub help: Option<String>,
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Exposition {
    /// Parses the text. Each family must occur once, with its type before its samples, and each series once.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut families = BTreeMap::<String, Family>::new();
        let mut helps = BTreeMap::new();
        let mut current = String::new();
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("HELP without text: {line}"));
                assert!(helps.insert(name.to_owned(), help.to_owned()).is_none(), "duplicate HELP: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("TYPE without a name: {line}"));
                let kinds = ["counter", "gauge", "histogram", "summary"];
                assert!(kinds.contains(&kind), "{line}");
                let family = Family { help: helps.get(name).cloned(), kind: kind.to_owned(), samples: Vec::new() };
                assert!(families.insert(name.to_owned(), family).is_none(), "duplicate TYPE: {line}");
                name.clone_into(&mut current);
            } else {
                let sample = Sample::parse(line);
                assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "duplicate series: {line}");
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("sample before its TYPE: {line}"));
                let suffix =
                    sample.name.strip_prefix(&*current).unwrap_or_else(|| panic!("not a sample of {current}: {line}"));
                let suffixes: &[&str] = match &*family.kind {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "summary" => &["", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(suffixes.contains(&suffix), "{line}");
                family.samples.push(sample);
            }
        }
        Self(families)
    }

    /// The value of the only series with these labels.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.find(name, labels);
        let [sample] = &*found else { panic!("{name} {labels:?}: {found:?}") };
        sample.value
    }

    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let samples = self.0.values().flat_map(|family| &family.samples);
        let has_labels = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|&(name, value)| sample.labels.get(name).is_some_and(|l| l == value))
        };
        samples.filter(has_labels).collect()
    }

    pub fn series(&self) -> usize {
        self.0.values().map(|family| family.samples.len()).sum()
    }

    /// Asserts that a metric of the catalogue has its help, its type, and every value of its labels for this registry.
    #[track_caller]
    pub fn assert_complete(&self, metric: &Metric, registry: &str) {
        let family = self.0.get(metric.name).unwrap_or_else(|| panic!("{} is missing", metric.name));
        assert_eq!(family.help.as_deref(), Some(metric.help), "{}", metric.name);
        assert_eq!(family.kind, metric.kind.name(), "{}", metric.name);
        let mut expected = vec![BTreeMap::new()];
        for label in metric.labels {
            let values = match label.values {
                LabelValues::RegistryName => vec![registry],
                LabelValues::OneOf(values) => values.to_vec(),
                other => panic!("unknown label {other:?}"),
            };
            let with = |labels: &BTreeMap<String, String>| {
                let labels = labels.clone();
                values.clone().into_iter().map(move |value| {
                    let mut labels = labels.clone();
                    labels.insert(label.name.to_owned(), value.to_owned());
                    labels
                })
            };
            expected = expected.iter().flat_map(with).collect();
        }
        for labels in expected {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            match metric.kind {
                Kind::Histogram { buckets } => {
                    let found = self.find(&format!("{}_bucket", metric.name), &labels);
                    let bounds: Vec<_> =
                        found.iter().map(|sample| sample.labels["le"].parse::<f64>().expect("a number")).collect();
                    assert_eq!(bounds, [buckets, &[f64::INFINITY]].concat(), "{}", metric.name);
                    self.value(&format!("{}_sum", metric.name), &labels);
                    self.value(&format!("{}_count", metric.name), &labels);
                }
                _ => {
                    self.value(metric.name, &labels);
                }
            }
        }
    }
}

impl Sample {
    #[track_caller]
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("invalid value: {line}"));
        let (name, mut rest) = match series.split_once('{') {
            Some((name, rest)) => {
                (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("unterminated labels: {line}")))
            }
            None => (series, ""),
        };
        let mut labels = BTreeMap::new();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next() {
                    Some((_, '\\')) => value.push(match characters.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, escaped)) => escaped,
                        None => panic!("ends in an escape: {line}"),
                    }),
                    Some((end, '"')) => break end,
                    Some((_, character)) => value.push(character),
                    None => panic!("unterminated label: {line}"),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "duplicate label: {line}");
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        Self { name: name.to_owned(), labels, value }
    }
}
