//! Three pages in a headless Chromium, used by keyboard, while their room crashes and the server stops.

use serde_json::json;
use test_support::browser::{Browser, ENTER, SHIFT, TAB, Window, in_browser, start};
use test_support::within;
use tokio::process::Command;

struct Page<'a> {
    browser: &'a Browser,
    window: Window,
}

impl<'a> Page<'a> {
    async fn open(browser: &'a Browser, url: &str) -> Self {
        let window = browser.new_window().await;
        browser.go(url).await;
        Page { browser, window }
    }

    /// Presses keys in the element that has the focus.
    async fn press(&self, keys: &str) {
        self.browser.focus(&self.window).await;
        self.browser.type_in(keys).await;
    }

    /// Waits until the element contains a text, and returns what it contains.
    async fn until(&self, element: &str, text: &str) -> String {
        self.browser.focus(&self.window).await;
        let contents = format!("document.getElementById({}).innerText", json!(element));
        self.browser.until(&format!("{contents}.includes({})", json!(text))).await;
        self.browser.value(&contents).await.as_str().expect("a text").to_owned()
    }
}

async fn chat_in_three_pages(browser: &Browser) {
    let listen = ["--listen", "127.0.0.1:0"];
    let started = start(env!("CARGO_BIN_EXE_chat"), &listen, "http://127.0.0.1:", " ").await;
    let (mut server, port) = started.expect("the server starts");
    let url = format!("http://127.0.0.1:{port}/");
    let mut pages = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let page = Page::open(browser, &url).await;
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
    // The server has stopped at the end, and each page tries again.
    in_browser("the page of the chat", &["WebSocket connection to"], chat_in_three_pages).await;
}
