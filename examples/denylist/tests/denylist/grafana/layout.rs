//! The dashboard is complete: ids, positions, texts, units, variables. Most checks follow Grafana's own linter.

use std::collections::{BTreeMap, BTreeSet};

use rusty_promql_parser::LabelMatchOp;
use serde_json::Value;

use crate::grafana::dashboard::{Dashboard, list};
use crate::grafana::paths;
use crate::grafana::promql::Query;

/// The units in use. Grafana shows an unknown unit as text behind the number.
const UNITS: [&str; 6] = ["short", "percentunit", "s", "cps", "string", "ops"];
const COLUMNS: u64 = 24;
/// The metrics that have no label `registry`.
const WITHOUT_REGISTRY: [&str; 1] = ["gen_registry_build_info"];

pub(crate) fn problems(dashboard: &Dashboard) -> Vec<String> {
    problems_of(dashboard, "registry")
}

/// The problems of a dashboard whose last variable is this label.
pub(crate) fn problems_of(dashboard: &Dashboard, subject: &str) -> Vec<String> {
    let mut problems = Vec::new();
    whole(dashboard, &mut problems);
    panels(dashboard, &mut problems);
    positions(dashboard, &mut problems);
    variables(dashboard, subject, &mut problems);
    match (dashboard.targets(), dashboard.annotation_queries()) {
        (Ok(targets), Ok(annotations)) => {
            for query in targets.iter().map(|target| &target.query).chain(&annotations) {
                follows_the_variables(query, subject, &mut problems);
            }
        }
        (targets, annotations) => {
            problems.extend(targets.err().into_iter().chain(annotations.err()).flatten());
        }
    }
    problems
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

fn is_the_variable(datasource: &Value) -> bool {
    datasource["type"] == "prometheus" && datasource["uid"] == "${datasource}"
}

fn whole(dashboard: &Dashboard, problems: &mut Vec<String>) {
    let json = &dashboard.0;
    let mut has = |is_so: bool, what: &str| {
        if !is_so {
            problems.push(format!("dashboard: {what}"));
        }
    };
    has(is_text(&json["uid"]) && is_text(&json["title"]) && is_text(&json["description"]), "has no uid, title or text");
    has(json["schemaVersion"].as_u64().is_some_and(|version| (39..=42).contains(&version)), "another schema");
    // Only the import dialogue resolves these. A provisioned dashboard would have no data source.
    has(json.get("__inputs").is_none(), "has __inputs");
    has(requires(dashboard), "__requires is not Grafana, Prometheus and the types of its panels");
    // An id belongs to the database of one Grafana.
    has(json.get("id").is_none_or(Value::is_null), "has an id");
    // An imported dashboard is a copy, to change as needed. The provisioned one is protected by its provider.
    has(json["editable"] == true, "is not editable");
    for annotation in dashboard.annotations() {
        has(is_the_variable(&annotation["datasource"]), "an annotation does not use the variable's data source");
        let target = &annotation["target"];
        let is_whole = is_text(&target["refId"]) && is_text(&target["expr"]) && is_text(&target["interval"]);
        has(is_whole, "an annotation's query is not target: {refId, expr, interval}");
    }
    has(dashboard.annotations().count() > 0, "has no annotation");
}

/// Whether the dashboard lists what it needs, as an exported one does.
fn requires(dashboard: &Dashboard) -> bool {
    let listed: BTreeSet<_> = list(&dashboard.0["__requires"])
        .iter()
        .filter(|required| is_text(&required["name"]) && required["version"].is_string())
        .map(|required| (required["type"].as_str().unwrap_or_default(), required["id"].as_str().unwrap_or_default()))
        .collect();
    let panels = dashboard.panels().into_iter().map(|panel| ("panel", panel["type"].as_str().unwrap_or_default()));
    listed == panels.chain([("grafana", "grafana"), ("datasource", "prometheus")]).collect()
}

fn panels(dashboard: &Dashboard, problems: &mut Vec<String>) {
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard.all_panels() {
        let name = format!("panel {}", panel["title"]);
        let mut has = |is_so: bool, what: &str| {
            if !is_so {
                problems.push(format!("{name}: {what}"));
            }
        };
        has(panel["id"].as_u64().is_some_and(|id| id > 0 && ids.insert(id)), "its id is missing or a duplicate");
        has(is_text(&panel["title"]), "has no title");
        if panel["type"] == "row" {
            continue;
        }
        has(titles.insert(panel["title"].as_str().unwrap_or_default()), "its title is a duplicate");
        has(is_text(&panel["description"]), "has no description");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        has(UNITS.contains(&unit), "has no known unit");
        has(is_the_variable(&panel["datasource"]), "does not use the variable's data source");
        let targets = list(&panel["targets"]);
        has(!targets.is_empty(), "has no query");
        let mut references = BTreeSet::new();
        for target in targets {
            has(is_the_variable(&target["datasource"]), "a query does not use the variable's data source");
            let reference = target["refId"].as_str().unwrap_or_default();
            has(!reference.is_empty() && references.insert(reference), "a refId is missing or a duplicate");
            has(is_text(&target["legendFormat"]), "a series has no name");
            has((target["instant"] == true) != (target["range"] == true), "a query is not either instant or a range");
            let is_heatmap = target["format"] == "heatmap";
            has(is_heatmap == (panel["type"] == "heatmap"), "the format is not the panel's");
        }
    }
}

/// Each panel is within the grid, and no two panels overlap.
fn positions(dashboard: &Dashboard, problems: &mut Vec<String>) {
    let mut taken = BTreeMap::new();
    for panel in list(&dashboard.0["panels"]) {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64());
        let (Some(x), Some(y), Some(w), Some(h)) = (x, y, w, h) else {
            problems.push(format!("panel {}: has no position", panel["title"]));
            continue;
        };
        if w == 0 || h == 0 || x + w > COLUMNS {
            problems.push(format!("panel {}: does not fit into the grid", panel["title"]));
        }
        let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        let other = cells.filter_map(|cell| taken.insert(cell, &panel["title"])).last();
        if let Some(other) = other {
            problems.push(format!("panel {}: overlaps panel {other}", panel["title"]));
        }
    }
}

fn variables(dashboard: &Dashboard, subject: &str, problems: &mut Vec<String>) {
    let variables = dashboard.variables();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap_or_default()).collect();
    if names != ["datasource", "job", "instance", subject] {
        problems.push(format!("the variables are {names:?}"));
    }
    for variable in variables {
        let mut has = |is_so: bool, what: &str| {
            if !is_so {
                problems.push(format!("variable {}: {what}", variable["name"]));
            }
        };
        has(is_text(&variable["label"]), "has no label");
        if variable["name"] == "datasource" {
            has(variable["type"] == "datasource" && variable["query"] == "prometheus", "does not choose a Prometheus");
            has(variable["label"] == "Data source", "has an unusual label");
            continue;
        }
        has(variable["type"] == "query", "is not a query");
        has(is_the_variable(&variable["datasource"]), "does not use the variable's data source");
        has(variable["multi"] == true && variable["includeAll"] == true, "is not multi-select with All");
        has(variable["allValue"] == ".+", "its All is not `.+`");
        has(variable["refresh"] == 2, "is not refreshed when the time range changes");
    }
}

/// A query that ignores a variable would show what the user has deselected.
fn follows_the_variables(query: &Query, subject: &str, problems: &mut Vec<String>) {
    for reading in query.readings() {
        for label in ["job", "instance", subject] {
            if label == "registry" && WITHOUT_REGISTRY.contains(&reading.metric) {
                continue;
            }
            let variable = format!("${label}");
            let follows = reading.matchers.iter().any(|matcher| {
                matcher.name == label && matcher.op == LabelMatchOp::RegexMatch && matcher.value == variable
            });
            if !follows {
                problems.push(format!("{}: does not select {label}=~\"{variable}\": {}", query.location, query.text));
            }
        }
    }
    if let Some(range) = query.ranges().find(|range| *range != "$__rate_interval") {
        problems.push(format!(
            "{}: uses the range [{range}] instead of [$__rate_interval]: {}",
            query.location, query.text
        ));
    }
}

#[test]
fn dashboard_layout_has_no_problems() {
    assert_eq!(problems(&Dashboard::read()), [""; 0]);
}

#[test]
fn picture_shows_every_panel() {
    let (page, picture) = (paths::text("grafana/README.md"), paths::text("grafana/dashboard.svg"));
    assert!(page.contains("](dashboard.svg)"));
    for panel in Dashboard::read().all_panels() {
        let title = panel["title"].as_str().expect("a title");
        assert!(picture.contains(&format!(">{title}<")), "{title} is missing; README.md says how to draw it again");
    }
}

#[test]
fn dashboard_has_the_expected_rows() {
    let dashboard = Dashboard::read();
    let rows: Vec<_> = dashboard.all_panels().into_iter().filter(|panel| panel["type"] == "row").collect();
    let titles: Vec<_> = rows.iter().map(|row| row["title"].as_str().unwrap_or_default()).collect();
    assert_eq!(titles, ["Overview", "Workers", "Restarts", "Latency", "Saturation"]);
}
