//! Prometheus' own checker accepts the rules, their tests, the scrape configuration and the catalogue.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::grafana::{exporter, paths, promql, rules};

#[track_caller]
pub(crate) fn promtool(arguments: &[&str], stdin: &str) -> Option<Output> {
    checker("promtool", arguments, stdin)
}

/// Runs a program if it is installed.
#[track_caller]
fn checker(program: &str, arguments: &[&str], stdin: &str) -> Option<Output> {
    let mut command = Command::new(paths::program(program)?);
    command.args(arguments).current_dir(paths::root());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut pipe = child.stdin.take().expect("piped");
    let text = stdin.to_owned();
    // It may print before it has read everything.
    let writer = thread::spawn(move || pipe.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("the program ends");
    let written = writer.join().expect("writing does not panic");
    assert!(written.is_ok() || !output.status.success(), "{written:?}");
    Some(output)
}

#[track_caller]
pub(crate) fn is_content(output: &Output) {
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    println!("{stdout}{stderr}");
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
}

#[test]
fn rules_pass_lint() {
    if let Some(output) = promtool(&["check", "rules", "--lint=all", "--lint-fatal", rules::FILE], "") {
        is_content(&output);
    }
}

#[test]
fn alert_tests_pass() {
    if let Some(output) = promtool(&["test", "rules", rules::TESTS], "") {
        is_content(&output);
    }
}

#[test]
fn promtool_refuses_what_our_parser_refuses() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("a temporary path is text");
    let accepts = |text: &str| {
        // JSON is YAML.
        let rules = serde_json::json!({"groups": [{"name": "group", "rules": [{"record": "record", "expr": text}]}]});
        std::fs::write(path, rules.to_string()).expect("the file is written");
        Some(promtool(&["check", "rules", path], "")?.status.success())
    };
    for text in promql::INVALID {
        assert_ne!(accepts(text), Some(true), "{text:?}");
    }
    assert_ne!(accepts("rate(a[5m])"), Some(false), "the rule around it is invalid");
}

/// Each change makes an alert fire in one of the cases in which it must not.
const LOOSENED: [(&str, &str, &str); 16] = [
    ("GenRegistryRestartStorm", "increase5m > 50", "increase5m > 20"),
    ("GenRegistryRestartStorm", "> 0.1 * instance_registry:gen_registry_workers:sum", "> 0"),
    ("GenRegistryCrashLoop", "limit_reached_total[10m]", "limit_reached_total[30m]"),
    ("GenRegistryStartFailures", "failures:increase5m > 5", "failures:increase5m > 0"),
    (
        "GenRegistryStartFailures",
        "> 0.1 * instance_registry:gen_registry_worker_starts",
        "> 0.001 * instance_registry:gen_registry_worker_starts",
    ),
    ("GenRegistryStartFailures", "error|panic|timeout", "error|panic|timeout|rejected"),
    ("GenRegistryStartFailures", "error|panic|timeout", "error|panic|timeout|cancelled"),
    ("GenRegistryNearCapacity", "ratio > 0.9", "ratio >= 0.9"),
    ("GenRegistryNearCapacity", "reason=\"evicted\"", "reason=\"idle\""),
    ("GenRegistryAtCapacity", "ratio[5m]) >= 1", "ratio[5m]) >= 0.5"),
    ("GenRegistryAtCapacity", "outcome=\"rejected\"}[5m])) > 0", "outcome=\"rejected\"}[5m])) >= 0"),
    ("GenRegistryMailboxSaturated", "0.9 * gen_registry_mailbox_capacity", "0.3 * gen_registry_mailbox_capacity"),
    ("GenRegistryMailboxSaturated", "> 0.01 * rate", "> 0.001 * rate"),
    ("GenRegistryMailboxSaturated", "reason=\"full\"", "reason=\"closed\""),
    ("GenRegistryOwnerBacklog", "min_over_time", "max_over_time"),
    ("GenRegistryOwnerBacklog", "> 100", ">= 100"),
];

#[test]
fn loosened_alert_fails_its_tests() {
    let (rules, tests) = (paths::text(rules::FILE), paths::text(rules::TESTS));
    for (alert, from, to) in LOOSENED {
        assert!(rules.contains(from), "there is no {from:?} to replace");
        // The tests refer to the rules by a relative path.
        let directory = tempfile::tempdir().expect("a temporary directory");
        let put = |name: &str, text: &str| {
            let file = directory.path().join(name);
            std::fs::write(&file, text).expect("the file is written");
            file.to_str().expect("a temporary path is text").to_owned()
        };
        put("rules.yml", &rules.replace(from, to));
        let tests = put("rules_test.yml", &tests);
        let Some(output) = promtool(&["test", "rules", &tests], "") else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{alert}: no case fails with {to:?}");
        assert!(said.contains(&format!("alertname: {alert}, ")), "{alert}: another alert fails with {to:?}: {said}");
    }
}

#[test]
fn scrape_configs_are_valid() {
    let files = ["grafana/prometheus/prometheus.yml", "grafana/prometheus/local.yml"];
    if let Some(output) = promtool(&["check", "config", files[0], files[1]], "") {
        is_content(&output);
    }
}

/// Uses the program of Debian's package `prometheus-alertmanager` if it is installed.
#[test]
fn amtool_accepts_the_alertmanager_config() {
    let file = "grafana/alertmanager/alertmanager.yml";
    if let Some(output) = checker("amtool", &["check-config", file], "") {
        is_content(&output);
    }
    let routed = |severity| checker("amtool", &["config", "routes", "test", "--config.file", file, severity], "");
    for (severity, receiver) in [("severity=critical", "page"), ("severity=warning", "morning")] {
        if let Some(output) = routed(severity) {
            is_content(&output);
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), receiver);
        }
    }
}

#[test]
fn exposition_passes_lint() {
    if let Some(output) = promtool(&["check", "metrics"], &exporter::text(Duration::from_secs(60), &[])) {
        is_content(&output);
    }
}

#[test]
fn missing_help_text_fails_lint() {
    let text = exporter::text(Duration::from_secs(60), &[]);
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP gen_registry_lookups_total")).collect();
    assert_eq!(kept.len() + 1, text.lines().count());
    if let Some(output) = promtool(&["check", "metrics"], &(kept.join("\n") + "\n")) {
        assert!(!output.status.success(), "{output:?}");
    }
}
