//! What an operator sees of the program: its version, its settings, its log, and the reasons of failures.

use serde_json::Value;

use crate::harness::{Ran, Service, TestDir, eventually};

const NUMBER: &str = "+12025550100";

#[test]
fn version_is_printed() {
    let printed = TestDir::new().run(&["--version"]).succeeded();
    assert_eq!(printed.trim_end(), concat!("denylist ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn serve_command_is_the_default() {
    let dir = TestDir::new();
    let service = Service::start(dir.command().args(["serve", "--listen", "127.0.0.1:0", "--no-sample"]));
    assert!(service.log().contains(&String::from("it has 0 rules and 0 complaints about 0 callers")));
    service.terminate();
}

#[test]
fn settings_come_from_the_environment() {
    let dir = TestDir::new();
    let service = Service::start(dir.command().envs([
        ("DENYLIST_LISTEN", "127.0.0.1:0"),
        ("DENYLIST_DB", "from-the-environment.redb"),
        ("DENYLIST_NO_SAMPLE", "1"),
        ("DENYLIST_MAX_WORKERS", "7"),
        ("DENYLIST_DRILLS", "false"),
        // What a compose file passes on for a variable that is not set.
        ("RUST_LOG", ""),
    ]));
    assert!(dir.path("from-the-environment.redb").exists());
    assert_eq!(service.get("/v1/workers").json(200)["registries"]["denylist"]["limit"], 7);
    service.send("POST", &format!("/v1/workers/{NUMBER}/crash"), "").problem(404);
    service.terminate();

    // A flag takes precedence, and a command that does not know a setting ignores it.
    let mut command = dir.command();
    command.env("DENYLIST_MAX_WORKERS", "7").env("DENYLIST_LISTEN", "127.0.0.1:0");
    let service = Service::start(command.args(["--max-workers", "8"]));
    assert_eq!(service.get("/v1/workers").json(200)["registries"]["denylist"]["limit"], 8);
    service.terminate();
    let mut import = dir.command();
    import.env("DENYLIST_MAX_WORKERS", "7").env("DENYLIST_DRILLS", "1").args(["import", "nowhere.csv"]);
    Ran::new(&mut import).failed(66, "cannot read nowhere.csv");
}

#[test]
fn ready_command_reports_readiness() {
    let dir = TestDir::new();
    let service = dir.serve_with(&["--drain-delay", "3600"]);
    let url = format!("http://{}", service.address);
    assert_eq!(dir.run(&["ready", "--url", &url]).succeeded(), "ready\n");
    service.signal("TERM");
    eventually("it is not ready", || service.get("/readyz").status == 503);
    dir.run(&["ready", "--url", &url]).failed(69, "is not ready: status 503: the service is shutting down");
    service.kill();
    dir.run(&["ready", "--url", &url]).failed(69, "cannot reach http://127.0.0.1:");
}

#[test]
fn invalid_setting_is_a_usage_error() {
    let dir = TestDir::new();
    for (name, value) in [("DENYLIST_LISTEN", "nowhere"), ("RUST_LOG", "denylist=loud"), ("DENYLIST_LOG_FORMAT", "xml")]
    {
        let mut command = dir.command();
        let ran = Ran::new(command.env(name, value));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.starts_with("error: "), "{ran:?}");
    }
}

/// Crashes a worker until it has spent its restarts. Returns the log.
fn log_of_crashes(args: &[&str]) -> String {
    let dir = TestDir::new();
    let log = std::fs::File::create(dir.path("log")).expect("a file");
    let mut command = dir.command();
    command.args(["--listen", "127.0.0.1:0", "--no-sample", "--drills"]).args(args).stderr(log);
    let service = Service::start(&mut command);
    eventually("the number is given up", || {
        service.send("POST", &format!("/v1/workers/{NUMBER}/crash"), "");
        service.get("/v1/workers").json(200)["registries"]["denylist"]["gave_up"] != 0
    });
    service.terminate();
    std::fs::read_to_string(dir.path("log")).expect("the log is text")
}

#[test]
fn crashes_restarts_and_given_up_keys_are_logged() {
    let log = log_of_crashes(&[]);
    for text in [
        "ERROR denylist::log: a task panicked panic=\"this is a drill\" location=\"examples/denylist/src/denylist.rs:",
        "ERROR gen_registry: the worker crashed registry=\"denylist\" id=",
        "WARN gen_registry: the worker is restarted registry=\"denylist\"",
        "WARN gen_registry: the worker has spent its restarts registry=\"denylist\"",
    ] {
        assert!(log.contains(text), "no {text:?} in\n{log}");
    }
    assert!(!log.contains("2025550"), "a number is in the log:\n{log}");
    assert!(!log.contains('\u{1b}'), "a file has no colours:\n{log}");
    let quiet = log_of_crashes(&["--log", "off"]);
    assert_eq!(quiet, "");
}

#[test]
fn json_log_has_one_object_per_line() {
    let log = log_of_crashes(&["--log-format", "json", "--log-numbers", "--log", "info"]);
    let events: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let find = |message: &str| {
        events.iter().find(|event| event["message"] == message).unwrap_or_else(|| panic!("no {message:?} in\n{log}"))
    };
    let spent = find("the worker has spent its restarts");
    assert_eq!((&spent["level"], &spent["registry"]), (&"WARN".into(), &"denylist".into()), "{spent}");
    assert_eq!(spent["span"]["key"], NUMBER, "the number was asked for");
    assert!(spent["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{spent}");
    assert_eq!(find("a task panicked")["span"]["key"], NUMBER);
    assert!(find("listening")["address"].is_string());
    assert_eq!(find("draining")["signal"], "SIGTERM");
    assert_eq!(find("shut down")["stuck"], 0);
}
