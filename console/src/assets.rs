//! The page: one document, one style and one script, in the program itself.

use axum::extract::OriginalUri;
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/console.css");
/// In the order in which a file needs the ones before.
const SCRIPT: &str = concat!(
    include_str!("page/dom.js"),
    include_str!("page/store.js"),
    include_str!("page/overview.js"),
    include_str!("page/registry.js"),
    include_str!("page/worker.js"),
    include_str!("page/cluster.js"),
    include_str!("page/main.js"),
);

fn asset(kind: &'static str, text: &'static str) -> ([(HeaderName, &'static str); 2], &'static str) {
    // A newer program has a newer page under the same address.
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text)
}

/// The page. The router may be nested at any path, with or without a slash at its end, so the page's addresses begin with
/// the last part of its own: at `/console`, the style is at `./console/console.css`. The script asks below its own address.
pub(crate) async fn page(OriginalUri(uri): OriginalUri) -> impl IntoResponse {
    let (kind, _) = asset("text/html; charset=utf-8", "");
    (kind, at(uri.path()))
}

fn at(path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    let below = if last.is_empty() { String::new() } else { format!("{}/", escaped(last)) };
    PAGE.replace("%BELOW%", &below)
}

/// A path with a parameter in front of the router has what a client sends.
fn escaped(text: &str) -> String {
    let escape = |c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => String::from(c),
    };
    text.chars().map(escape).collect()
}

pub(crate) async fn style() -> impl IntoResponse {
    asset("text/css; charset=utf-8", STYLE)
}

pub(crate) async fn script() -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_below_the_page() {
        assert!(at("/").contains("href=\"./console.css\""));
        assert!(at("/ops/console").contains("src=\"./console/console.js\""));
        assert!(at("/ops/console/").contains("src=\"./console.js\""));
    }

    #[test]
    fn path_cannot_add_markup() {
        let page = at("/\"><script>'&");
        assert!(page.contains("./&quot;&gt;&lt;script&gt;&#39;&amp;/console.js"));
    }
}
