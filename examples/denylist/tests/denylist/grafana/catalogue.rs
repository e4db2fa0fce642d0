//! The catalogue follows Prometheus' naming rules, and the table in the documentation matches the catalogue.

use std::collections::BTreeSet;
use std::fmt::Write;

use gen_registry::metrics::{ALL, Kind, LabelValues, PREFIX, Presence, Unit};

use crate::grafana::paths;

/// The table that the catalogue describes.
fn table() -> String {
    let mut table = String::from("| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n");
    for metric in ALL {
        let labels = metric.labels.iter().map(|label| match label.values {
            LabelValues::RegistryName => format!("`{}`", label.name),
            // A single value, which changes with each release.
            LabelValues::OneOf(_) if label.name == "version" => format!("`{}`", label.name),
            LabelValues::OneOf(values) => format!("`{}` = {}", label.name, values.join(", ")),
            other => panic!("the table does not describe {other:?}"),
        });
        let presence = match metric.presence {
            Presence::Always => "",
            Presence::WithLimit => " Absent without a limit.",
            Presence::OptIn => " Only if asked for.",
            other => panic!("the table does not describe {other:?}"),
        };
        let labels: Vec<_> = labels.collect();
        let (kind, unit) = (metric.kind.name(), metric.unit.name());
        writeln!(table, "| `{}` | {kind} | {} | {unit} | {}{presence} |", metric.name, labels.join("; "), metric.help)
            .expect("writing to a string cannot fail");
    }
    table
}

#[test]
fn docs_table_matches_the_catalogue() {
    let expected = table();
    assert!(paths::text("src/metrics/METRICS.md") == expected, "src/metrics/METRICS.md must be:\n\n{expected}");
}

#[test]
fn names_follow_prometheus_conventions() {
    let mut names = BTreeSet::new();
    for metric in ALL {
        let name = metric.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(name.starts_with(PREFIX), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        // The exporter appends a missing suffix, and the name would differ from the one in the dashboard.
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_seconds"), metric.unit == Unit::Seconds, "{name}");
        // The exporter uses these suffixes itself.
        assert!(!["_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)), "{name}");
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\', '|']), "{name}: {}", metric.help);
    }
}

#[test]
fn labels_have_bounded_values() {
    for metric in ALL {
        let mut names = BTreeSet::new();
        for label in metric.labels {
            assert!(names.insert(label.name), "{}: {} is there twice", metric.name, label.name);
            match label.values {
                LabelValues::RegistryName => assert_eq!(label.name, "registry", "{}", metric.name),
                LabelValues::OneOf(values) => {
                    let distinct: BTreeSet<_> = values.iter().collect();
                    assert!(distinct.len() == values.len() && !values.is_empty(), "{}: {values:?}", metric.name);
                }
                other => panic!("{}: {other:?} may be unbounded", metric.name),
            }
        }
        // Labels of Prometheus itself, which hide those of a metric.
        assert!(["job", "instance", "le"].iter().all(|taken| !names.contains(taken)), "{}", metric.name);
        assert_ne!(names.contains("registry"), names.contains("version"), "{}", metric.name);
    }
}

#[test]
fn buckets_ascend() {
    for metric in ALL {
        if let Kind::Histogram { buckets } = metric.kind {
            assert!((5..=20).contains(&buckets.len()), "{}: {} series for each label", metric.name, buckets.len());
            assert!(buckets[0] > 0.0 && buckets.is_sorted_by(|a, b| a < b), "{}: {buckets:?}", metric.name);
            assert!(buckets.iter().all(|bound| bound.is_finite()), "{}: infinity is left out", metric.name);
        }
    }
}
