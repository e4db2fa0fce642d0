//! A headless Chromium, as far as these tests need it.
//!
//! Needs `chromedriver` in the path. Without it the tests are skipped, except on CI.

use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};
use test_support::within;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::harness::request;

/// The keys of the WebDriver standard.
pub(crate) const ENTER: &str = "\u{E007}";
pub(crate) const TAB: &str = "\u{E004}";
pub(crate) const ESCAPE: &str = "\u{E00C}";

/// Starts chromedriver and returns its port.
async fn start() -> io::Result<(Child, u16)> {
    let mut command = Command::new("chromedriver");
    let mut child = command.arg("--port=0").stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let port = async {
        while let Some(line) = lines.next_line().await? {
            let port = line.split_once("successfully on port ").and_then(|(_, rest)| rest.strip_suffix('.'));
            if let Some(port) = port.and_then(|port| port.parse().ok()) {
                return Ok(port);
            }
        }
        Err(io::Error::other("chromedriver has printed no port"))
    };
    let port = within(port, "the port of chromedriver").await?;
    // It fails if nothing reads what it prints.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, port))
}

/// Runs a test in a browser of its own. What the page logs as an error fails the test, unless it contains one of `expected`.
pub(crate) async fn in_browser(expected: &[&str], test: impl AsyncFnOnce(&Browser)) {
    // Several browsers at once would time out on a small machine.
    static ONE: Mutex<()> = Mutex::const_new(());
    let _one = ONE.lock().await;
    let (_driver, port) = match start().await {
        Ok(started) => started,
        Err(error) if error.kind() == io::ErrorKind::NotFound && std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: the page of the console is not tested, because there is no chromedriver in the path");
            return;
        }
        Err(error) => panic!("chromedriver does not start: {error}"),
    };
    let browser = Browser::open(port).await;
    let ran = tokio::time::timeout(Duration::from_secs(200), AssertUnwindSafe(test(&browser)).catch_unwind()).await;
    let log = browser.post("/se/log", json!({"type": "browser"})).await;
    // After a failure too: otherwise Chromium would outlive the test.
    command("DELETE", &browser.0, Value::Null).await;
    if let Err(panic) = ran.expect("timed out, lost: the test in the browser") {
        eprintln!("the browser has logged: {log:#}");
        resume_unwind(panic);
    }
    let errors = log.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
    for error in errors.map(|entry| entry["message"].to_string()) {
        assert!(expected.iter().any(|expected| error.contains(expected)), "the page has logged: {error}");
    }
}

/// A session of WebDriver with one window.
pub(crate) struct Browser(String);

impl Browser {
    async fn open(driver: u16) -> Self {
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
        ];
        let options = json!({
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 100_000},
        });
        let sessions = format!("http://127.0.0.1:{driver}/session");
        let opened = command("POST", &sessions, json!({"capabilities": {"alwaysMatch": options}})).await;
        Self(format!("{sessions}/{}", opened["sessionId"].as_str().expect("an id")))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        command("POST", &format!("{}{path}", self.0), body).await
    }

    pub(crate) async fn go(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    pub(crate) async fn back(&self) {
        self.post("/back", json!({})).await;
    }

    pub(crate) async fn forward(&self) {
        self.post("/forward", json!({})).await;
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub(crate) async fn press(&self, keys: &str) {
        let strokes = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})));
        let actions = json!([{"type": "key", "id": "keyboard", "actions": strokes.collect::<Vec<_>>()}]);
        self.post("/actions", json!({"actions": actions})).await;
    }

    /// Clicks on what a selector finds first, as a pointer does.
    pub(crate) async fn click(&self, selector: &str) {
        let found = self.post("/element", json!({"using": "css selector", "value": selector})).await;
        let id = found.as_object().and_then(|found| found.values().next()?.as_str()).expect("an element");
        self.post(&format!("/element/{id}/click"), json!({})).await;
    }

    /// The value of an expression in the page.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        self.post("/execute/sync", json!({"script": format!("return {expression}"), "args": []})).await
    }

    /// Waits until an expression in the page is true, and returns after how many milliseconds.
    pub(crate) async fn until(&self, expression: &str) -> u64 {
        let script = format!(
            "const done = arguments[0], began = performance.now();
            (function check() {{
                let is_true = false;
                try {{ is_true = {expression}; }} catch {{ }}
                const passed = performance.now() - began;
                if (is_true) done(Math.round(passed));
                else if (passed > 60_000) done(document.body.innerText);
                else setTimeout(check, 20);
            }})();"
        );
        let waited = self.post("/execute/async", json!({"script": script, "args": []})).await;
        waited.as_u64().unwrap_or_else(|| panic!("timed out, lost: {expression}. The page contains: {waited}"))
    }
}

/// Sends a command and returns its value.
async fn command(method: &str, url: &str, body: Value) -> Value {
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let answer = request(method, url, &[], body).await;
    let mut value = answer.json();
    assert!(answer.status.is_success(), "{url}: {value:#}");
    value["value"].take()
}
