//! What Prometheus' own checker says of the rules, their tests, the scrape configuration and the catalogue.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::{exporter, place, rules};

/// Runs `promtool`, if it is there. It only reads files, and ends by itself.
#[track_caller]
fn promtool(arguments: &[&str], stdin: &str) -> Option<Output> {
    let mut command = Command::new(place::program("promtool")?);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    let mut pipe = child.stdin.take().expect("piped");
    let text = stdin.to_owned();
    // It may print before it has read everything.
    let writer = thread::spawn(move || pipe.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("promtool ends");
    let written = writer.join().expect("writing does not panic");
    assert!(written.is_ok() || !output.status.success(), "{written:?}");
    Some(output)
}

#[track_caller]
fn is_content(output: &Output) {
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    println!("{stdout}{stderr}");
    assert!(status.success(), "promtool: {status}\n{stdout}\n{stderr}");
}

#[test]
fn the_rules_are_clean() {
    if let Some(output) = promtool(&["check", "rules", "--lint=all", "--lint-fatal", rules::FILE], "") {
        is_content(&output);
    }
}

#[test]
fn the_alerts_fire_when_they_should() {
    if let Some(output) = promtool(&["test", "rules", rules::TESTS], "") {
        is_content(&output);
    }
}

#[test]
fn an_alert_that_should_not_fire_and_does_is_found() {
    // Beside the rules: the tests name them by a relative path.
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let put = |name: &str, text: String| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("there is room for a file");
        file.to_str().expect("a temporary path is text").to_owned()
    };
    let whole = place::text(rules::FILE);
    // From 30 restarts on instead of 50: then a few are a storm too.
    let tight = whole.replace("increase5m > 50", "increase5m > 20");
    assert_ne!(whole, tight);
    put("rules.yml", tight);
    let tests = put("rules_test.yml", place::text(rules::TESTS));
    if let Some(output) = promtool(&["test", "rules", &tests], "") {
        assert!(!output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("GenRegistryRestartStorm"), "{said}");
    }
}

#[test]
fn the_scrape_configuration_is_valid() {
    if let Some(output) = promtool(&["check", "config", "grafana/prometheus/prometheus.yml"], "") {
        is_content(&output);
    }
}

#[test]
fn names_types_and_help_texts_are_clean() {
    if let Some(output) = promtool(&["check", "metrics"], &exporter::text(Duration::from_secs(60), &[])) {
        is_content(&output);
    }
}

#[test]
fn a_metric_without_a_help_text_is_found() {
    let text = exporter::text(Duration::from_secs(60), &[]);
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP gen_registry_lookups_total")).collect();
    assert_eq!(kept.len() + 1, text.lines().count());
    if let Some(output) = promtool(&["check", "metrics"], &(kept.join("\n") + "\n")) {
        assert!(!output.status.success(), "{output:?}");
    }
}
