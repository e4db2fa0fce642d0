//! The page in a headless Chromium.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use gen_registry::Registry;
use gen_registry::inspect::Inspector;
use serde_json::json;
use test_support::browser::{Browser, ENTER, ESCAPE, TAB};
use test_support::{Ask, Gate, Step, within};
use tokio::net::TcpListener;

use crate::harness::{Owner, Service, TwoNodes};

/// Expressions of the page.
const FIRST_KEY: &str = "document.querySelector('main tbody .key a').textContent";
const ROWS: &str = "document.querySelectorAll('main tbody tr').length";
const FOCUS: &str = "document.activeElement.textContent";
const STATE: &str = "document.querySelector('.title .state').textContent";

async fn in_browser(expected: &[&str], test: impl AsyncFnOnce(&Browser)) {
    test_support::browser::in_browser("the page of the console", expected, test).await;
}

impl Service {
    async fn open(&self, browser: &Browser, hash: &str) {
        browser.go(&format!("{}{hash}", self.url)).await;
        browser.until("document.getElementById('link').textContent === 'live'").await;
    }

    async fn open_list(&self, browser: &Browser) {
        self.open(browser, &format!("#/registry/{}", self.id())).await;
    }
}

#[tokio::test]
async fn list_is_searched_sorted_and_turned_over() {
    in_browser(&[], async |browser| {
        let service = Service::start().await;
        for number in 0..120 {
            service.room(&format!("room {number:03}")).await;
        }
        service.open_list(browser).await;
        browser.until(&format!("{FIRST_KEY} === 'room 000' && {ROWS} === 50")).await;
        assert_eq!(browser.value("document.querySelector('.pager span').textContent").await, "1\u{2013}50 of 120");
        let options = browser.value("document.querySelector('details').textContent").await;
        assert!(options.as_str().expect("a text").contains("mailbox_capacity64"), "{options}");

        browser.click("[data-sort=key]").await;
        browser.until(&format!("{FIRST_KEY} === 'room 119'")).await;
        assert_eq!(
            browser.value("document.querySelector('[aria-sort]').getAttribute('aria-sort')").await,
            "descending"
        );
        browser.press("n").await;
        browser.until(&format!("{FIRST_KEY} === 'room 069'")).await;
        browser.press("n").await;
        browser.until(&format!("{FIRST_KEY} === 'room 019' && {ROWS} === 20")).await;

        browser.back().await;
        browser.until(&format!("{FIRST_KEY} === 'room 069'")).await;
        browser.back().await;
        browser.back().await;
        browser.until(&format!("{FIRST_KEY} === 'room 000'")).await;
        browser.forward().await;
        browser.until(&format!("{FIRST_KEY} === 'room 119'")).await;

        browser.press("/").await;
        browser.press("OOM 11").await;
        browser.until(&format!("{FIRST_KEY} === 'room 119' && {ROWS} === 10")).await;
        assert_eq!(browser.value("document.activeElement.value").await, "OOM 11", "the field has lost the focus");
        browser.press("x").await;
        browser.until("document.querySelector('main .empty').textContent.includes('No key matches')").await;
        // One step back leaves the search as a whole.
        browser.press(ESCAPE).await;
        browser.back().await;
        browser.until(&format!("{FIRST_KEY} === 'room 000' && {ROWS} === 50")).await;
    })
    .await;
}

#[tokio::test]
async fn page_shows_what_moves() {
    in_browser(&[], async |browser| {
        let service = Service::start().await;
        service.open(browser, "").await;
        browser.until("document.querySelector('.legend b').textContent === '0'").await;
        for key in ["a", "b", "c"] {
            service.room(key).await;
        }
        let waited = browser.until("document.querySelector('.legend b').textContent === '3'").await;
        assert!(waited < 2_000, "{waited} ms");

        service.open_list(browser).await;
        browser.until(&format!("{ROWS} === 3")).await;
        let gate = Gate::new();
        let busy = service.rooms.lookup("b").expect("it runs");
        busy.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it is sent");
        gate.reached().await;
        for note in 0..40 {
            busy.cast(Ask::Note(note)).await.expect("it is sent");
        }
        browser.until("document.querySelectorAll('main tbody .queue')[1].textContent === '40 / 64'").await;
        browser.until("document.querySelectorAll('main tbody .meter')[1].classList.contains('half')").await;

        // The page of the worker follows its mailbox four times a second.
        browser.click("main tbody tr:nth-child(2) a").await;
        browser.until("document.querySelector('.mailbox .value').textContent === '40 of 64 waiting'").await;
        gate.open();
        browser.until("document.querySelector('.mailbox .value').textContent === '0 of 64 waiting'").await;
        browser.until("document.querySelector('.mailbox .line, .mailbox path:nth-of-type(2)').getAttribute('d').includes('L')").await;
        service.rooms.stop("b").await.expect("it stops");
        browser.until(&format!("{STATE} === 'no worker'")).await;
        service.room("b").await;
        browser.until(&format!("{STATE} === 'running'")).await;
    })
    .await;
}

#[tokio::test]
async fn crash_appears_within_a_second() {
    in_browser(&[], async |browser| {
        let service = Service::start().await;
        service.room("before").await;
        service.open(browser, "#/events").await;
        let room = service.room("it").await;
        // The page notes when it has shown the crash, and the test how long after the crash that was.
        browser
            .value("new MutationObserver(() => document.querySelector('.level.crash') && (window.shown ??= Date.now())).observe(document.body, { childList: true, subtree: true })")
            .await;
        room.cast(Ask::Do(Step::Panic)).await.expect("it is sent");
        within(room.closed(), "the end of the worker").await;
        let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
        browser.until("window.shown > 0").await;
        let shown = browser.value("window.shown").await.as_u64().expect("a time");
        assert!(u128::from(shown) < ended + 1_000, "{shown} {ended}");
        let text = browser.value("document.querySelector('.feed li').innerText").await;
        for part in ["crashed", &service.name, "it", "a scripted panic"] {
            assert!(text.as_str().expect("a text").contains(part), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn action_is_confirmed_and_done() {
    in_browser(&[], async |browser| {
        let service = Service::with_actions().await;
        service.room("a").await;
        service.open_list(browser).await;
        browser.until(&format!("{FIRST_KEY} === 'a'")).await;
        browser.click("main tbody a").await;
        browser.until(&format!("{STATE} === 'running'")).await;

        browser.click("[data-action=kill]").await;
        browser.until("document.getElementById('dialog').open").await;
        assert_eq!(browser.value("document.getElementById('dialog-title').textContent").await, "Kill the worker of a?");
        assert_eq!(browser.value(FOCUS).await, "Cancel");
        browser.press(ENTER).await;
        browser.until("!document.getElementById('dialog').open").await;
        assert_eq!(service.rooms.count(), 1, "a cancelled action has acted");

        // A crash restarts the worker under its policy.
        browser.click("[data-action=crash]").await;
        browser.press(&format!("{TAB}{ENTER}")).await;
        browser.until("document.getElementById('toasts').textContent.includes('its run has ended: crashed')").await;
        browser.until("[...document.querySelectorAll('dd')].some(value => value.textContent === '2')").await;

        browser.click("[data-action=stop]").await;
        browser.press(&format!("{TAB}{ENTER}")).await;
        browser.until(&format!("{STATE} === 'no worker'")).await;
        assert_eq!(service.rooms.count(), 0);
    })
    .await;
}

#[tokio::test]
async fn action_is_refused_where_the_program_allows_none() {
    in_browser(&["403"], async |browser| {
        let service = Service::start().await;
        service.room("a").await;
        let reference = service.reference("a").await;
        service.open(browser, &format!("#/worker/{}?ref={reference}&key=a", service.id())).await;
        browser.until(&format!("{STATE} === 'running'")).await;
        assert_eq!(browser.value("document.querySelectorAll('[data-action]').length").await, 0);
        // The page's own way to act, without its buttons.
        let act = format!("act({}, 'kill', '{reference}').catch(error => window.refused = error.code)", service.id());
        browser.value(&format!("void {act}")).await;
        browser.until("window.refused === 'not_allowed'").await;
        assert_eq!(service.rooms.count(), 1);
    })
    .await;
}

#[tokio::test]
async fn blank_and_long_keys_have_a_row_and_a_page() {
    in_browser(&[], async |browser| {
        let service = Service::start().await;
        let long = "x".repeat(6_000);
        for key in ["", &long] {
            service.room(key).await;
        }
        for (link, title) in
            [("main tbody tr:first-child a", "\u{201c}\u{201d}"), ("main tbody tr:last-child a", &long)]
        {
            service.open_list(browser).await;
            browser.until(&format!("{ROWS} === 2")).await;
            let height = browser
                .value("Math.max(...[...document.querySelectorAll('main tbody tr')].map(row => row.clientHeight))")
                .await;
            assert!(height.as_f64().is_some_and(|height| height < 200.0), "a row is {height} high");
            browser.click(link).await;
            browser.until(&format!("{STATE} === 'running'")).await;
            let shown = browser.value("document.querySelector('h1').textContent").await;
            assert_eq!(shown.as_str(), Some(title));
        }
    })
    .await;
}

#[tokio::test]
async fn key_cannot_add_markup() {
    const KEYS: [&str; 3] =
        ["<img src=x onerror=hacked=1>", "\"><script>hacked=1</script>", "javascript:hacked=1//'`${hacked=1}"];
    in_browser(&[], async |browser| {
        let service = Service::with_actions().await;
        for key in KEYS {
            service.room(key).await;
        }
        service.open_list(browser).await;
        browser.until(&format!("{ROWS} === 3")).await;
        for left in (1..=3).rev() {
            service.open_list(browser).await;
            browser.until(&format!("{ROWS} === {left}")).await;
            browser.click("main tbody a").await;
            browser.until(&format!("{STATE} === 'running'")).await;
            let title = browser.value("document.querySelector('h1').textContent").await;
            assert!(KEYS.contains(&title.as_str().expect("a text")), "{title}");
            browser.click("[data-action=stop]").await;
            browser.until("document.getElementById('dialog-title').textContent.includes('hacked')").await;
            browser.press(&format!("{TAB}{ENTER}")).await;
            browser.until("document.getElementById('toasts').textContent.includes('hacked')").await;
        }
        let added = "document.querySelectorAll('img, main script, dialog script, .toasts script, [onerror]').length";
        assert_eq!(browser.value(added).await, 0);
        assert_eq!(browser.value("typeof hacked").await, "undefined");
        // A search repeats its text.
        service
            .open(browser, &format!("#/registry/{}?filter=%3Cimg%20src=x%20onerror=hacked=1%3E", service.id()))
            .await;
        browser.until("document.querySelector('main .empty').textContent.includes('<img src=x')").await;
        assert_eq!(browser.value("typeof hacked").await, "undefined");
    })
    .await;
}

/// What a page of another site tries.
const ATTACK: &str = r#"<!doctype html><form method="post" enctype="text/plain" target="frame" action="URL"><input name='{"action":"kill","worker":"REF","' value='":1}'></form>
<iframe name="frame"></iframe><script>
const body = JSON.stringify({ action: "kill", worker: "REF" });
const tried = [
  fetch("URL", { method: "POST", mode: "no-cors", headers: { "content-type": "text/plain" }, body }),
  fetch("URL", { method: "POST", credentials: "include", headers: { "content-type": "application/json", "gen-registry-console": "1" }, body }),
  fetch("URL", { method: "POST", credentials: "include", body }),
];
document.forms[0].submit();
Promise.allSettled(tried).then(results => window.tried = results.map(result => result.status === "fulfilled" ? result.value.type : "failed").join());
</script>"#;

#[tokio::test]
async fn page_of_another_site_cannot_act() {
    in_browser(&["CORS", "ERR_FAILED", "403", "Framing", "ERR_BLOCKED", "favicon"], async |browser| {
        let service = Service::with_actions().await;
        service.room("a").await;
        let url = format!("{}/api/registries/{}/actions", service.url, service.id());
        let attack = ATTACK.replace("URL", &url).replace("REF", &service.reference("a").await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let app = Router::new().route("/", get(async move || Html(attack)));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        // `localhost` is another site than 127.0.0.1.
        browser.go(&format!("http://localhost:{port}/")).await;
        browser.until("window.tried?.length > 0").await;
        // The service refuses what reaches it, and the page cannot even read that.
        assert_eq!(browser.value("window.tried").await, "failed,failed,failed");
        assert_eq!(service.rooms.count(), 1);
        server.abort();
    })
    .await;
}

#[tokio::test]
async fn keyboard_alone_is_enough() {
    in_browser(&[], async |browser| {
        let service = Service::with_actions().await;
        for key in ["alpha", "beta", "gamma"] {
            service.room(key).await;
        }
        service.open(browser, "").await;
        browser.until("document.querySelector('main h2 a').textContent.length > 0").await;
        browser.press("j").await;
        assert_eq!(browser.value(FOCUS).await, json!(service.name));
        browser.press(ENTER).await;
        browser.until(&format!("{ROWS} === 3")).await;
        browser.press("jjk").await;
        assert_eq!(browser.value(FOCUS).await, "alpha");
        browser.press("j").await;
        browser.press(ENTER).await;
        browser.until(&format!("{STATE} === 'running'")).await;
        assert_eq!(browser.value("document.querySelector('h1').textContent").await, "beta");
        // The buttons follow the way up. The first is "Stop".
        for _ in 0..12 {
            if browser.value(FOCUS).await == "Stop" {
                break;
            }
            browser.press(TAB).await;
        }
        browser.press(ENTER).await;
        browser.until("document.getElementById('dialog').open").await;
        browser.press(&format!("{TAB}{ENTER}")).await;
        browser.until(&format!("{STATE} === 'no worker'")).await;
        browser.press("u").await;
        browser.until(&format!("{ROWS} === 2")).await;
        browser.press("u").await;
        browser.until("location.hash === '#/'").await;
        browser.press("?").await;
        browser.until("document.getElementById('dialog').open").await;
        let help =
            "[...document.querySelectorAll('dialog dt, dialog dd')].map(part => part.textContent.trim()).join('|')";
        let help = browser.value(help).await;
        assert!(help.as_str().expect("a text").starts_with("/|search in keys|j k|"), "{help}");
        browser.press(ESCAPE).await;
        browser.press("t").await;
        browser.until("location.hash === '#/tree'").await;
        let scheme = "document.documentElement.dataset.theme ?? 'auto'";
        browser.press("c").await;
        assert_eq!(browser.value(scheme).await, "light");
        browser.press("c").await;
        assert_eq!(browser.value(scheme).await, "dark");
    })
    .await;
}

#[tokio::test]
async fn tree_leads_from_owners_to_what_they_own() {
    in_browser(&[], async |browser| {
        let service = Service::start().await;
        let name = format!("owners of {}", service.name);
        let owners = Registry::<Owner>::builder().name(name).inspect(&service.inspector, u32::to_string);
        let owners = owners.build().expect("the registry is built");
        owners.start(&7, service.inspector.clone()).await.expect("the owner starts");
        service.open(browser, "#/tree").await;
        browser.until("document.querySelectorAll('.tree a').length === 4").await;
        browser.click(".tree ul .key").await;
        browser.until("document.querySelector('.tree a').textContent === 'owned'").await;
        browser.click(".tree a").await;
        browser.until("document.querySelector('main .empty').textContent.includes('No workers')").await;
        browser.until("document.querySelector('.owner a').textContent === '7'").await;
    })
    .await;
}

#[tokio::test]
async fn page_finds_the_service_again() {
    in_browser(&["ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "404"], async |browser| {
        // With its runtime all connections end, as with its process.
        let process = tokio::runtime::Runtime::new().expect("a runtime");
        let first = process.spawn(Service::start()).await.expect("it starts");
        first.room("a").await;
        first.open_list(browser).await;
        browser.until(&format!("{ROWS} === 1")).await;
        let address = first.url.trim_start_matches("http://").split('/').next().expect("a host").to_owned();
        process.shutdown_background();
        browser.until("document.getElementById('link').textContent === 'reconnecting'").await;

        let second = Service::at(&address, Inspector::new(), |rooms| rooms).await;
        second.room("b").await;
        browser.until("document.getElementById('link').textContent === 'live'").await;
        // The registry of this page ended with the process before.
        browser.until("document.querySelector('.failure')?.textContent.includes('no longer')").await;
        browser.press("a").await;
        browser.until(&format!("document.querySelector('main h2 a').textContent === '{}'", second.name)).await;
    })
    .await;
}

#[tokio::test]
async fn cluster_has_a_view_where_there_is_one() {
    in_browser(&["404"], async |browser| {
        let service = Service::start().await;
        service.open(browser, "#/cluster").await;
        browser.until("document.querySelector('main .empty').textContent.includes('No cluster is shown')").await;
        assert_eq!(browser.value("document.getElementById('cluster').hidden").await, true);
        let _ = service.console.clone().cluster(TwoNodes); // Its clones share the cluster.
        browser.until("!document.getElementById('cluster').hidden").await;
        browser.until("document.querySelectorAll('main tbody tr').length === 2").await;
        let text = browser.value("document.querySelector('main').innerText").await;
        for part in ["<b>chat</b>", "40 on this node", "3 moving", "this node", "leaving", "for 7.4 s more", "12"] {
            assert!(text.as_str().expect("a text").contains(part), "{part}: {text}");
        }
    })
    .await;
}

#[tokio::test]
async fn empty_console_says_what_to_do() {
    in_browser(&[], async |browser| {
        let app = Router::new().nest("/console", gen_registry_console::router(&Inspector::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/console", listener.local_addr().expect("its address"));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        browser.go(&url).await;
        browser.until("document.querySelector('main .empty').textContent.includes('No registry is inspected')").await;
        browser.press("e").await;
        browser.until("document.querySelector('main .feed').textContent.includes('No events')").await;
        server.abort();
    })
    .await;
}
