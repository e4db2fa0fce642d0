//! A headless Chromium, as far as tests of pages need it.
//!
//! Needs `chromedriver` in the path. Without it these tests are skipped, except on CI.

use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::within;

/// The keys of the WebDriver standard.
pub const ENTER: &str = "\u{E007}";
pub const TAB: &str = "\u{E004}";
pub const SHIFT: &str = "\u{E008}";
pub const ESCAPE: &str = "\u{E00C}";

/// How long a test in the browser takes at most.
const LONGEST: Duration = Duration::from_secs(300);

/// Starts a program and returns the port that it prints between these two texts.
pub async fn start(program: &str, arguments: &[&str], before: &str, after: &str) -> io::Result<(Child, u16)> {
    let mut command = Command::new(program);
    let mut child = command.args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let port = async {
        while let Some(line) = lines.next_line().await? {
            let port = line.split_once(before).and_then(|(_, rest)| rest.split_once(after));
            if let Some(port) = port.and_then(|(port, _)| port.parse().ok()) {
                return Ok(port);
            }
        }
        Err(io::Error::other(format!("{program} has printed no port")))
    };
    let port = within(port, "the port of a program").await?;
    // The program fails if nothing reads what it prints.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, port))
}

/// Runs a test in a browser of its own. What the page logs as an error fails the test, unless it contains one of
/// `expected`. `page` says what is not tested without a browser.
pub async fn in_browser(page: &str, expected: &[&str], test: impl AsyncFnOnce(&Browser)) {
    // Several browsers at once would time out on a small machine.
    static ONE: Mutex<()> = Mutex::const_new(());
    let _one = ONE.lock().await;
    let (_driver, port) = match start("chromedriver", &["--port=0"], "successfully on port ", ".").await {
        Ok(started) => started,
        Err(error) if error.kind() == io::ErrorKind::NotFound && std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: {page} is not tested, because there is no chromedriver in the path");
            return;
        }
        Err(error) => panic!("chromedriver does not start: {error}"),
    };
    let browser = Browser::open(port).await;
    let ran = tokio::time::timeout(LONGEST, AssertUnwindSafe(test(&browser)).catch_unwind()).await;
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

/// A session of WebDriver. What it does, it does in the window that has the focus.
pub struct Browser(String);

/// A window of a [`Browser`].
pub struct Window(Value);

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

    /// Opens a window, which gets the focus.
    pub async fn new_window(&self) -> Window {
        let mut opened = self.post("/window/new", json!({"type": "window"})).await;
        let window = Window(opened["handle"].take());
        self.focus(&window).await;
        window
    }

    pub async fn focus(&self, window: &Window) {
        self.post("/window", json!({"handle": window.0})).await;
    }

    pub async fn go(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    pub async fn back(&self) {
        self.post("/back", json!({})).await;
    }

    pub async fn forward(&self) {
        self.post("/forward", json!({})).await;
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let strokes = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})));
        let actions = json!([{"type": "key", "id": "keyboard", "actions": strokes.collect::<Vec<_>>()}]);
        self.post("/actions", json!({"actions": actions})).await;
    }

    /// Types into the element that has the focus. [`SHIFT`] stays pressed until the end.
    pub async fn type_in(&self, keys: &str) {
        let active = command("GET", &format!("{}/element/active", self.0), Value::Null).await;
        self.post(&format!("/element/{}/value", id_of(&active)), json!({"text": keys})).await;
    }

    /// Clicks on what a selector finds first, as a pointer does.
    pub async fn click(&self, selector: &str) {
        let found = self.post("/element", json!({"using": "css selector", "value": selector})).await;
        self.post(&format!("/element/{}/click", id_of(&found)), json!({})).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&self, expression: &str) -> Value {
        self.post("/execute/sync", json!({"script": format!("return {expression}"), "args": []})).await
    }

    /// Waits until an expression in the page is true, and returns after how many milliseconds.
    pub async fn until(&self, expression: &str) -> u64 {
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

/// The id of an element that WebDriver has found.
fn id_of(element: &Value) -> &str {
    element.as_object().and_then(|element| element.values().next()?.as_str()).expect("an element")
}

/// Sends a command and returns its value.
async fn command(method: &str, url: &str, body: Value) -> Value {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let request = Request::builder().method(method).uri(url).body(body.into()).expect("a request");
    let response = within(client.request(request), "the answer of chromedriver").await.expect("chromedriver answers");
    let status = response.status();
    let body = within(response.into_body().collect(), "an answer's body").await.expect("a body").to_bytes();
    let mut answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(status.is_success(), "{url}: {answer:#}");
    answer["value"].take()
}
