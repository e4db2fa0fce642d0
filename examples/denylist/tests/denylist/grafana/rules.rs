//! [`Rules`]: the recording rules and the alerts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::grafana::dashboard::{all_or_errors, list};
use crate::grafana::paths;
use crate::grafana::promql::Query;

pub(crate) const FILE: &str = "grafana/prometheus/rules.yml";
pub(crate) const TESTS: &str = "grafana/prometheus/rules_test.yml";
const RUNBOOK: &str = "grafana/RUNBOOK.md";

pub(crate) struct Rules(pub(crate) Value);

impl Rules {
    pub(crate) fn read() -> Self {
        Self(paths::yaml(FILE))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Value> {
        list(&self.0["groups"]).iter().flat_map(|group| list(&group["rules"]))
    }

    pub(crate) fn alerts(&self) -> impl Iterator<Item = &Value> {
        self.all().filter(|rule| rule["alert"].is_string())
    }

    /// The queries, each with the name that it is recorded under, if any, or the parse errors.
    pub(crate) fn queries(&self) -> Result<Vec<(Option<String>, Query)>, Vec<String>> {
        all_or_errors(self.all().map(|rule| {
            let record = rule["record"].as_str();
            let name = record.or(rule["alert"].as_str()).unwrap_or("without a name");
            let query = Query::new(format!("rule {name}"), rule["expr"].as_str().unwrap_or_default())?;
            Ok((record.map(String::from), query))
        }))
    }

    /// The problems of the alerts.
    pub(crate) fn problems(&self) -> Vec<String> {
        let runbook = paths::text(RUNBOOK);
        let manifest = paths::text("Cargo.toml");
        let repository = manifest.lines().find_map(|line| line.strip_prefix("repository = \"")?.strip_suffix('"'));
        let repository = repository.expect("the manifest names the repository");
        let headings: BTreeSet<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let mut problems = Vec::new();
        for alert in self.alerts() {
            let name = alert["alert"].as_str().unwrap_or_default();
            let mut has = |is_so: bool, what: &str| {
                if !is_so {
                    problems.push(format!("alert {name}: {what}"));
                }
            };
            let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
            has(["warning", "critical"].contains(&severity), "has an unknown severity");
            has(alert["for"].as_str().is_some_and(|duration| duration.ends_with('m')), "fires without waiting");
            for annotation in ["summary", "description"] {
                let text = alert["annotations"][annotation].as_str().unwrap_or_default();
                has(text.contains("{{ $labels.registry }}"), &format!("names no registry in its {annotation}"));
            }
            // The anchor of a heading on the page of the repository.
            let url = format!("{repository}/blob/main/{RUNBOOK}#{}", name.to_lowercase());
            has(alert["annotations"]["runbook_url"] == url.as_str(), "has no link to its chapter of the runbook");
            has(headings.contains(name), "has no chapter in the runbook");
            has(name.starts_with("GenRegistry"), "is not found by the dashboard, which counts GenRegistry*");
        }
        let alerts: BTreeSet<_> = self.alerts().filter_map(|alert| alert["alert"].as_str()).collect();
        let chapters = headings.iter().filter(|heading| heading.starts_with("GenRegistry"));
        problems.extend(
            chapters
                .filter(|heading| !alerts.contains(**heading))
                .map(|heading| format!("runbook {heading}: no alert")),
        );
        problems
    }
}

/// Each alert needs a case that fires and one that does not.
pub(crate) fn untested(rules: &Rules, tests: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for alert in rules.alerts() {
        let name = alert["alert"].as_str().unwrap_or_default();
        let cases = list(&tests["tests"]).iter().flat_map(|test| {
            // The silent registries among the series of a case are those for which it must not fire.
            let series = list(&test["input_series"]).iter().filter_map(|series| series["series"].as_str());
            let registries: BTreeSet<_> = series.filter_map(registry_of).collect();
            list(&test["alert_rule_test"]).iter().filter(|case| case["alertname"] == name).map(move |case| {
                let fires =
                    list(&case["exp_alerts"]).iter().filter_map(|alert| alert["exp_labels"]["registry"].as_str());
                let fires: BTreeSet<_> = fires.collect();
                (fires.len(), registries.difference(&fires).count())
            })
        });
        let cases: Vec<_> = cases.collect();
        if !cases.iter().any(|(firing, silent)| *firing > 0 && *silent > 0) {
            problems.push(format!("alert {name}: no case has a registry that fires beside one that does not"));
        }
        if !cases.iter().any(|(firing, _)| *firing == 0) {
            problems.push(format!("alert {name}: no case tests its delay"));
        }
    }
    problems
}

fn registry_of(series: &str) -> Option<&str> {
    series.split_once("registry=\"")?.1.split('"').next()
}

#[test]
fn alerts_have_severity_and_runbook() {
    assert_eq!(Rules::read().problems(), [""; 0]);
}

#[test]
fn alerts_have_firing_and_silent_cases() {
    assert_eq!(untested(&Rules::read(), &paths::yaml(TESTS)), [""; 0]);
}
