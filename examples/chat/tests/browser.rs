//! Three pages in a headless Chromium, used by keyboard, while their room crashes and the server stops.
//!
//! Needs `chromedriver` in the path. Without it the test is skipped, except on CI.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use test_support::within;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The keys of the WebDriver standard.
const ENTER: &str = "\u{E007}";
const TAB: &str = "\u{E004}";
const SHIFT: &str = "\u{E008}";

/// Starts a program and returns the port that it prints between these two texts.
async fn start(program: &str, arguments: &[&str], before: &str, after: &str) -> io::Result<(Child, u16)> {
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

/// A session of WebDriver, as far as this test needs it.
struct Browser(String);

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
        ];
        let options = json!({"goog:chromeOptions": {"args": arguments}, "timeouts": {"script": 100_000}});
        let sessions = format!("http://127.0.0.1:{driver}/session");
        let opened = command("POST", &sessions, json!({"capabilities": {"alwaysMatch": options}})).await;
        Self(format!("{sessions}/{}", opened["sessionId"].as_str().expect("an id")))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        command("POST", &format!("{}{path}", self.0), body).await
    }

    async fn open_page(&self, url: &str) -> Page<'_> {
        let opened = self.post("/window/new", json!({"type": "window"})).await;
        let page = Page { browser: self, window: opened["handle"].clone() };
        page.focus().await;
        self.post("/url", json!({"url": url})).await;
        page
    }
}

/// Sends a command and returns its value.
async fn command(method: &str, url: &str, body: Value) -> Value {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<axum::body::Bytes>>();
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let request = axum::http::Request::builder().method(method).uri(url).body(body.into()).expect("a request");
    let response = within(client.request(request), "the answer of chromedriver").await.expect("chromedriver answers");
    let status = response.status();
    let body = within(response.into_body().collect(), "an answer's body").await.expect("a body").to_bytes();
    let mut answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(status.is_success(), "{url}: {answer:#}");
    answer["value"].take()
}

struct Page<'a> {
    browser: &'a Browser,
    window: Value,
}

impl Page<'_> {
    async fn focus(&self) {
        self.browser.post("/window", json!({"handle": self.window})).await;
    }

    /// Presses keys in the element that has the focus.
    async fn press(&self, keys: &str) {
        self.focus().await;
        let active = command("GET", &format!("{}/element/active", self.browser.0), Value::Null).await;
        let id = active.as_object().and_then(|active| active.values().next()?.as_str()).expect("an element");
        self.browser.post(&format!("/element/{id}/value"), json!({"text": keys})).await;
    }

    /// Waits until the element contains a text, and returns what it contains.
    async fn until(&self, element: &str, text: &str) -> String {
        const SCRIPT: &str = "
            const [id, text, done] = arguments, element = document.getElementById(id);
            const observer = new MutationObserver(check);
            function check() {
                if (element.innerText.includes(text)) done(element.innerText);
            }
            observer.observe(element, { childList: true, subtree: true, characterData: true });
            setTimeout(() => done(document.body.innerText), 60_000);
            check();";
        self.focus().await;
        let found = self.browser.post("/execute/async", json!({"script": SCRIPT, "args": [element, text]})).await;
        let found = found.as_str().expect("a text").to_owned();
        assert!(found.contains(text), "lost: {text:?} in {element}. The page contains: {found}");
        found
    }
}

async fn chat_in_three_pages(browser: &Browser, server: &mut Child, url: &str) {
    let mut pages = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let page = browser.open_page(url).await;
        page.press(name).await;
        page.press(TAB).await;
        page.press(&format!("green tea{ENTER}")).await;
        page.until("title", "green tea").await;
        pages.push(page);
    }
    for page in &pages {
        page.until("state", "3 are here").await;
    }
    for (page, said) in pages.iter().zip(["hello from ada", "hello from bob", "<b>hello</b> from eve"]) {
        page.press(&format!("{said}{ENTER}")).await;
        for other in &pages {
            other.until("log", said).await;
        }
    }

    // From the message field back over the log and "Leave" to "Crash the room".
    pages[1].press(&format!("{SHIFT}{TAB}{TAB}{TAB}")).await;
    pages[1].press(ENTER).await;
    for page in &pages {
        let log = page.until("log", "The room crashed.").await;
        assert!(!log.contains("hello"), "the room has kept its messages: {log}");
        page.until("state", "3 are here").await;
    }
    for (page, said) in pages.iter().zip(["ada again", "bob again", "eve again"]) {
        page.press(&format!("{said}{ENTER}")).await;
        for other in &pages {
            other.until("log", said).await;
        }
    }

    let server_id = server.id().expect("the server runs").to_string();
    let interrupted = Command::new("kill").args(["-INT", &server_id]).status().await.expect("kill runs");
    assert!(interrupted.success());
    for page in &pages {
        page.until("log", "Disconnected: the server is stopping. Trying again.").await;
    }
    let exit = within(server.wait(), "the end of the server").await.expect("the server is a child");
    assert!(exit.success(), "{exit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_pages_survive_the_crash_of_their_room() {
    let (_driver, driver_port) = match start("chromedriver", &["--port=0"], "successfully on port ", ".").await {
        Ok(started) => started,
        Err(error) if error.kind() == io::ErrorKind::NotFound && std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: the page of the chat is not tested, because there is no chromedriver in the path");
            return;
        }
        Err(error) => panic!("chromedriver does not start: {error}"),
    };
    let listen = ["--listen", "127.0.0.1:0"];
    let started = start(env!("CARGO_BIN_EXE_chat"), &listen, "http://127.0.0.1:", " ").await;
    let (mut server, port) = started.expect("the server starts");
    let browser = Browser::open(driver_port).await;
    let session = browser.0.clone();
    let url = format!("http://127.0.0.1:{port}/");
    let chat = tokio::spawn(async move { chat_in_three_pages(&browser, &mut server, &url).await });
    let chat = tokio::time::timeout(Duration::from_secs(300), chat).await;
    // After a failure too: otherwise Chromium would outlive the test.
    command("DELETE", &session, Value::Null).await;
    chat.expect("timed out, lost: the chat in the browser").unwrap_or_else(|error| {
        std::panic::resume_unwind(error.into_panic());
    });
}
