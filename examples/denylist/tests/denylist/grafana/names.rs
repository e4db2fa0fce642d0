//! Every name in the dashboard and the rules is in the catalogue, and every metric of the catalogue is used.

use std::collections::{BTreeMap, BTreeSet};

use gen_registry::metrics::{ALL, Kind, LabelValues, Metric};

use serde_json::Value;

use crate::grafana::dashboard::{Dashboard, list};
use crate::grafana::paths;
use crate::grafana::promql::{Query, Reading, named_values, selects};
use crate::grafana::rules::{self, Rules};

/// The labels that Prometheus adds to every target.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];
/// The series that Prometheus generates from alerts.
const ALERTS: &str = "ALERTS";

/// What a name in an expression refers to.
enum Series<'a> {
    /// A metric, or one of the three series of a histogram.
    Of {
        metric: &'a Metric,
        is_counter: bool,
        is_bucket: bool,
    },
    Alerts,
    Recorded(&'a BTreeSet<String>),
}

/// All series that can be read: the catalogue, the recorded series with their labels, the alerts.
struct Names {
    recorded: BTreeMap<String, BTreeSet<String>>,
    alerts: BTreeSet<String>,
    /// The labels of the alerts' results, which `ALERTS` has too.
    alert_labels: BTreeSet<String>,
}

impl Names {
    fn find(&self, name: &str) -> Option<Series<'_>> {
        if name == ALERTS {
            return Some(Series::Alerts);
        }
        if let Some(labels) = self.recorded.get(name) {
            return Some(Series::Recorded(labels));
        }
        ALL.iter().find_map(|metric| {
            let (is_counter, is_bucket) = match (metric.kind, name.strip_prefix(metric.name)?) {
                (Kind::Counter, "") => (true, false),
                (Kind::Gauge, "") => (false, false),
                (Kind::Histogram { .. }, "_sum" | "_count") => (true, false),
                (Kind::Histogram { .. }, "_bucket") => (true, true),
                _ => return None,
            };
            Some(Series::Of { metric, is_counter, is_bucket })
        })
    }

    fn labels_of(&self, name: &str) -> BTreeSet<String> {
        match self.find(name) {
            Some(Series::Of { metric, is_bucket, .. }) => {
                let own = metric.labels.iter().map(|label| label.name);
                own.chain(TARGET_LABELS).chain(is_bucket.then_some("le")).map(String::from).collect()
            }
            Some(Series::Recorded(labels)) => labels.clone(),
            Some(Series::Alerts) => self
                .alert_labels
                .iter()
                .cloned()
                .chain(["alertname", "alertstate", "severity"].map(String::from))
                .collect(),
            None => BTreeSet::new(),
        }
    }

    /// The problems of one metric that is read.
    fn check_reading(&self, reading: &Reading<'_>) -> Vec<String> {
        let name = reading.metric;
        let mut problems = self.check_labels(reading);
        if let Some(Series::Of { is_counter, .. }) = self.find(name) {
            let is_rate = matches!(reading.over_time, Some("rate" | "irate" | "increase"));
            if is_counter != is_rate {
                problems.push(format!("{name}: rates are read of counters and of nothing else"));
            }
        }
        problems
    }

    /// The problems of its name, its labels and their values.
    fn check_labels(&self, reading: &Reading<'_>) -> Vec<String> {
        let name = reading.metric;
        let Some(series) = self.find(name) else { return vec![format!("{name} is not a metric")] };
        let labels = self.labels_of(name);
        let mut problems = Vec::new();
        for matcher in reading.matchers {
            if !labels.contains(&matcher.name) {
                problems.push(format!("{name} has no label {}", matcher.name));
                continue;
            }
            let closed: Vec<&str> = match (&series, matcher.name.as_str()) {
                (Series::Of { metric, .. }, label) => match metric.labels.iter().find(|own| own.name == label) {
                    Some(label) => match label.values {
                        LabelValues::OneOf(values) => values.to_vec(),
                        _ => continue,
                    },
                    None => continue,
                },
                (Series::Alerts, "alertstate") => vec!["pending", "firing"],
                (Series::Alerts, "alertname") => {
                    // A pattern that matches all alerts, including future ones.
                    if !self.alerts.iter().all(|alert| selects(matcher, alert)) {
                        problems.push(format!("{matcher} does not match every alert"));
                    }
                    continue;
                }
                _ => continue,
            };
            for value in named_values(matcher) {
                if !closed.contains(&value) {
                    problems.push(format!("{name}: {} is never {value:?}", matcher.name));
                }
            }
        }
        problems
    }

    fn check(&self, query: &Query) -> Vec<String> {
        let readings = query.readings();
        let mut problems: Vec<_> = readings.iter().flat_map(|reading| self.check_reading(reading)).collect();
        let labels: BTreeSet<_> = readings.iter().flat_map(|reading| self.labels_of(reading.metric)).collect();
        let unknown = query.grouping_labels().into_iter().filter(|label| !labels.contains(*label));
        problems.extend(unknown.map(|label| format!("no metric read has the label {label}")));
        problems.into_iter().map(|problem| format!("{}: {problem}: {}", query.location, query.text)).collect()
    }
}

/// The labels in `{{...}}`.
fn labels_in_template(template: &str) -> impl Iterator<Item = &str> {
    template.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim)
}

/// The differences between the catalogue and the dashboard with the rules.
pub(crate) fn problems(dashboard: &Dashboard, rules: &Rules) -> Vec<String> {
    find_problems(dashboard, rules).unwrap_or_else(|does_not_parse| does_not_parse)
}

fn find_problems(dashboard: &Dashboard, rules: &Rules) -> Result<Vec<String>, Vec<String>> {
    let (targets, annotations) = (dashboard.targets()?, dashboard.annotation_queries()?);
    let (variables, rule_queries) = (dashboard.variable_queries()?, rules.queries()?);
    let alerts = rules.alerts().filter_map(|alert| alert["alert"].as_str()).map(String::from).collect();
    let mut names = Names { recorded: BTreeMap::new(), alerts, alert_labels: BTreeSet::new() };
    let mut problems = Vec::new();
    // In order, because a rule may read what an earlier one recorded.
    for (record, query) in &rule_queries {
        problems.extend(names.check(query));
        let labels = query.result_labels(&|name| names.labels_of(name));
        for label in TARGET_LABELS.into_iter().chain(["registry"]).filter(|label| !labels.contains(*label)) {
            problems.push(format!("{}: its result has no label {label}: {}", query.location, query.text));
        }
        match record {
            Some(record) => drop(names.recorded.insert(record.clone(), labels)),
            None => names.alert_labels.extend(labels),
        }
    }
    for target in &targets {
        let query = &target.query;
        problems.extend(names.check(query));
        let labels = query.result_labels(&|name| names.labels_of(name));
        for label in labels_in_template(&target.legend).filter(|label| !labels.contains(*label)) {
            problems
                .push(format!("{}: the legend shows {label}, which the result lacks: {}", query.location, query.text));
        }
    }
    for query in &annotations {
        problems.extend(names.check(query));
    }
    for (label, query) in &variables {
        problems.extend(names.check(query));
        if !query.readings().iter().all(|reading| names.labels_of(reading.metric).contains(label)) {
            problems.push(format!("{}: no label {label}: {}", query.location, query.text));
        }
    }

    let rule_queries: Vec<_> = rule_queries.into_iter().map(|(_, query)| query).collect();
    let seen = |queries: &mut dyn Iterator<Item = &Query>| -> BTreeSet<String> {
        queries.flat_map(Query::readings).map(|reading| reading.metric.to_owned()).collect()
    };
    let used = seen(&mut targets.iter().map(|target| &target.query).chain(&annotations).chain(&rule_queries));
    for metric in ALL {
        let is_used = used
            .iter()
            .any(|name| matches!(names.find(name), Some(Series::Of { metric: used, .. }) if used.name == metric.name));
        if !is_used {
            problems.push(format!("unused metric {}", metric.name));
        }
    }
    let used_by_rules = seen(&mut rule_queries.iter());
    let unused = names.recorded.keys().filter(|name| !used_by_rules.contains(*name));
    problems.extend(unused.map(|name| format!("unused recording rule {name}")));
    Ok(problems)
}

/// Input series of the alert tests that no program exports. A case for such a series proves nothing.
pub(crate) fn problems_of_inputs(tests: &Value) -> Vec<String> {
    let names = Names { recorded: BTreeMap::new(), alerts: BTreeSet::new(), alert_labels: BTreeSet::new() };
    let inputs = list(&tests["tests"]).iter().flat_map(|test| list(&test["input_series"]));
    let problems = inputs.flat_map(|input| {
        let text = input["series"].as_str().unwrap_or_default();
        let query = match Query::new("input", text) {
            Ok(query) => query,
            Err(does_not_parse) => return vec![does_not_parse],
        };
        let mut problems = Vec::new();
        for reading in query.readings() {
            let expected = names.labels_of(reading.metric);
            let given: BTreeSet<_> = reading.matchers.iter().map(|matcher| matcher.name.clone()).collect();
            problems.extend(names.check_labels(&reading));
            if given != expected {
                problems.push(format!("{} has the labels {expected:?}", reading.metric));
            }
        }
        problems.into_iter().map(|problem| format!("input: {problem}: {text}")).collect()
    });
    problems.collect()
}

#[test]
fn alert_tests_use_exported_series() {
    assert_eq!(problems_of_inputs(&paths::yaml(rules::TESTS)), [""; 0]);
}

#[test]
fn every_metric_is_used_and_every_name_exists() {
    assert_eq!(problems(&Dashboard::read(), &Rules::read()), [""; 0]);
}

#[test]
fn dashboard_needs_no_recorded_series() {
    // The dashboard may be imported where the rules are not loaded.
    let (dashboard, rules) = (Dashboard::read(), Rules(Value::Null));
    let problems = problems(&dashboard, &rules);
    assert_eq!(problems.iter().filter(|problem| problem.contains("is not a metric")).count(), 0, "{problems:?}");
}
