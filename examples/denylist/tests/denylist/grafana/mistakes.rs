//! The checks detect mistakes: each mistake below is made in a copy and must be found.

use serde_json::{Value, json};

use crate::grafana::dashboard::Dashboard;
use crate::grafana::paths;
use crate::grafana::rules::{self, Rules};
use crate::grafana::{layout, names, schema};

fn all_problems(dashboard: &Dashboard, rules: &Rules) -> Vec<String> {
    let mut problems = names::problems(dashboard, rules);
    problems.extend(layout::problems(dashboard));
    problems.extend(schema::problems(dashboard));
    problems.extend(rules.problems());
    problems
}

/// Replaces a text in a file and expects this problem.
#[track_caller]
fn text_is_found(file: &str, from: &str, to: &str, problem: &str) {
    let whole = paths::text(file);
    assert!(whole.contains(from), "{file} has no {from:?} to replace");
    let broken = whole.replacen(from, to, 1);
    let (mut dashboard, mut rules) = (Dashboard::read(), Rules::read());
    if file == rules::FILE {
        rules = Rules(yaml_serde::from_str(&broken).expect("the file is still YAML"));
    } else {
        dashboard = Dashboard(serde_json::from_str(&broken).expect("the file is still JSON"));
    }
    found(&all_problems(&dashboard, &rules), problem, to);
}

#[track_caller]
fn found(problems: &[String], problem: &str, made: &str) {
    assert!(problems.iter().any(|found| found.contains(problem)), "{made:?} was not found: {problems:#?}");
}

/// Changes the dashboard and expects this problem.
#[track_caller]
fn change_is_found(pointer: &str, to: Value, problem: &str) {
    let mut dashboard = Dashboard::read();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = dashboard.0.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}"));
    match parent {
        Value::Object(fields) if to.is_null() => drop(fields.remove(name).expect("the field exists")),
        Value::Object(fields) => drop(fields.insert(name.to_owned(), to)),
        Value::Array(items) => items[name.parse::<usize>().expect("an index")] = to,
        _ => panic!("{pointer} is in nothing"),
    }
    found(&all_problems(&dashboard, &Rules::read()), problem, pointer);
}

const DASHBOARD: &str = crate::grafana::dashboard::FILE;

#[test]
fn dashboard_name_mistakes_are_found() {
    let found = |from, to, problem| text_is_found(DASHBOARD, from, to, problem);
    found("sum(gen_registry_workers{", "sum(gen_registry_worker{", "gen_registry_worker is not a metric");
    found(
        "(gen_registry_worker_starts_waiting{",
        "(gen_registry_workers{",
        "unused metric gen_registry_worker_starts_waiting",
    );
    found("sum by (state) (", "sum by (status) (", "no metric read has the label status");
    found("error|panic|timeout", "error|panics|timeout", "outcome is never \"panics\"");
    found("outcome=~", "result=~", "worker_starts_total has no label result");
    found("\"{{outcome}}\"", "\"{{reason}}\"", "the legend shows reason");
    found("histogram_quantile(0.99, sum by (le)", "histogram_quantile(0.99, sum by (le", "does not parse");
    found(
        "_duration_seconds_bucket",
        "_duration_seconds",
        "gen_registry_worker_start_duration_seconds is not a metric",
    );
    found("sum(rate(gen_registry_worker_restarts_total{", "sum((gen_registry_worker_restarts_total{", "does not parse");
    found("sum(gen_registry_workers{", "sum(gen_registry_worker_exits_total{", "rates are read of counters");
    found("rate(gen_registry_lookups_total{", "rate(gen_registry_workers{", "rates are read of counters");
    found("GenRegistry.+", "GenRegistryN.+", "does not match every alert");
    found("alertstate=\\\"firing", "alertstate=\\\"fired", "alertstate is never \"fired\"");
    found(
        "label_values(gen_registry_workers, job)",
        "label_values(gen_registry_jobs, job)",
        "gen_registry_jobs is not a metric",
    );
    found("instance=~\\\"$instance\\\"}, registry)", "instance=~\\\"$instance\\\"}, name)", "no label name");
}

#[test]
fn rule_name_mistakes_are_found() {
    let found = |from, to, problem| text_is_found(rules::FILE, from, to, problem);
    found("(gen_registry_workers)", "(gen_registry_wokers)", "gen_registry_wokers is not a metric");
    found(
        "increase(gen_registry_worker_restarts_total[5m])",
        "gen_registry_worker_restarts_total",
        "rates are read of counters",
    );
    found("outcome=\"rejected\"", "outcome=\"refused\"", "outcome is never \"refused\"");
    found("sum without (state) (gen", "sum by (registry) (gen", "its result has no label instance");
    found("> 0.9\n", "> 0.9)\n", "does not parse");
    found("- record: instance_registry:gen_registry_workers:sum", "- record: x:y:z", "is not a metric");
    found("max_over_time(instance_registry:gen_registry_workers_limit:ratio", "max_over_time(x", "x is not a metric");
}

#[test]
fn alert_mistakes_are_found() {
    let found = |from, to, problem| text_is_found(rules::FILE, from, to, problem);
    found("severity: critical", "severity: terrible", "an unknown severity");
    found("        for: 5m\n", "", "fires without waiting");
    found("#genregistrycrashloop", "#crashloop", "has no link to its chapter");
    found("alert: GenRegistryOwnerBacklog", "alert: GenRegistryOwnerLate", "has no chapter in the runbook");
    found("alert: GenRegistryOwnerBacklog", "alert: GenRegistryOwnerLate", "runbook GenRegistryOwnerBacklog: no alert");
    found("alert: GenRegistryOwnerBacklog", "alert: OwnerBacklog", "is not found by the dashboard");
    found("summary: Starts and stops of {{ $labels.registry }}", "summary: Starts", "names no registry in its summary");
}

#[test]
fn alert_test_gaps_are_found() {
    let whole = paths::text(rules::TESTS);
    let untested = |from: &str, to: &str| {
        assert!(whole.contains(from), "there is no {from:?} to replace");
        rules::untested(
            &Rules::read(),
            &yaml_serde::from_str(&whole.replace(from, to)).expect("the file is still YAML"),
        )
    };
    found(&untested("registry=\"once\"", "registry=\"loop\""), "CrashLoop: no case has a registry", "no silent one");
    found(&untested("alertname: GenRegistryOwnerBacklog", "alertname: X"), "OwnerBacklog: no case", "none at all");
    found(
        &untested("exp_alerts: []", "exp_alerts: [{exp_labels: {registry: x}}]"),
        "no case tests its delay",
        "no waiting",
    );
}

#[test]
fn layout_mistakes_are_found() {
    change_is_found("/panels/2/id", json!(2), "its id is missing or a duplicate");
    change_is_found("/panels/2/gridPos/x", json!(3), "overlaps panel \"Workers\"");
    change_is_found("/panels/2/gridPos/x", json!(22), "does not fit into the grid");
    change_is_found("/panels/2/gridPos", Value::Null, "has no position");
    change_is_found("/panels/2/title", json!(" "), "has no title");
    change_is_found("/panels/2/title", json!("Workers"), "its title is a duplicate");
    change_is_found("/panels/2/description", Value::Null, "has no description");
    change_is_found("/panels/2/fieldConfig/defaults/unit", json!("bananas"), "has no known unit");
    change_is_found("/panels/2/datasource/uid", json!("PBFA97CFB590B2093"), "does not use the variable's data source");
    change_is_found("/panels/2/targets/0/datasource/uid", json!("x"), "a query does not use the variable's");
    change_is_found("/panels/2/targets", json!([]), "has no query");
    change_is_found("/panels/2/targets/0/instant", json!(true), "not either instant or a range");
    change_is_found("/schemaVersion", json!(16), "another schema");
    change_is_found("/__inputs", json!([]), "has __inputs");
    change_is_found("/editable", json!(false), "is not editable");
    change_is_found("/__requires/2/id", json!("gauge"), "__requires is not");
    change_is_found("/__requires/0/name", json!(""), "__requires is not");
    change_is_found("/annotations/list/1/target/interval", Value::Null, "an annotation's query is not");
    change_is_found("/annotations/list/1/builtIn", json!(1), "has no annotation");
    change_is_found("/templating/list/2/allValue", json!(".*"), "its All is not");
    change_is_found("/templating/list/2/multi", json!(false), "is not multi-select with All");
    change_is_found("/templating/list/2/refresh", json!(1), "is not refreshed");
    change_is_found("/templating/list/3/name", json!("name"), "the variables are");
    let found = |from, to, problem| text_is_found(DASHBOARD, from, to, problem);
    found("registry=~\\\"$registry\\\"})\",", "registry=\\\"$registry\\\"})\",", "does not select registry=~");
    found(
        "{job=~\\\"$job\\\", instance=~\\\"$instance\\\", registry",
        "{instance=~\\\"$instance\\\", registry",
        "does not select job=~",
    );
    found("[$__rate_interval]", "[5m]", "uses the range [5m]");
}

#[test]
fn type_mistakes_are_found() {
    change_is_found("/panels/1/gridPos/w", json!("4"), "panel \"Workers\"/gridPos/w");
    change_is_found("/panels/1/colour", json!("red"), "colour");
    change_is_found("/panels/1/options/colorMode", json!("rainbow"), "panel \"Workers\"/colorMode");
    change_is_found("/panels/1/options/textMode", Value::Null, "\"textMode\" is a required property");
    change_is_found("/panels/9/fieldConfig/defaults/custom/drawStyle", json!("curve"), "/drawStyle");
    change_is_found("/panels/9/fieldConfig/defaults/custom/lineWith", json!(1), "lineWith");
    change_is_found("/panels/1/type", json!("singlestat"), "there is no schema for panels of the type");
    change_is_found("/panels/0/collapsed", Value::Null, "\"collapsed\" is a required property");
    change_is_found("/templating/list/1/refresh", json!(9), "dashboard/templating/list/1/refresh");
    change_is_found("/annotations/list/1/enable", json!("yes"), "dashboard/annotations/list/1/enable");
    change_is_found("/time/from", json!(1), "dashboard/time/from");
}
