//! What other sites cannot do.

use crate::harness::{Service, request};

const ACTS: (&str, &str) = ("gen-registry-console", "1");

#[tokio::test]
async fn every_answer_is_hardened() {
    let service = Service::start().await;
    let id = service.id();
    let list = format!("/api/registries/{id}/workers");
    let paths = [
        "",
        "/console.css",
        "/console.js",
        "/api/registries",
        &list,
        "/api/nothing",
        "/api/events?x=1",
        "/api/tree",
        "/api/cluster",
    ];
    let answers = paths.map(|path| ("GET", path)).into_iter().chain([("POST", "/api/registries"), ("PUT", "")]);
    for (method, path) in answers {
        let answer = request(method, &format!("{}{path}", service.url), &[], String::new()).await;
        let header =
            |name: &str| answer.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{path}: {policy}");
        for part in ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert!(["no-store", "no-cache"].contains(&header("cache-control")), "{path}");
        assert_eq!(header("access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test]
async fn page_is_self_contained() {
    let service = Service::start().await;
    let page = service.get("").await.text;
    for inline in ["<style", "style=", "onclick", "onload", "javascript:", "<base"] {
        assert!(!page.contains(inline), "{inline}");
    }
    assert!(page.matches("<script").all(|_| page.contains("<script src=\"./console/console.js\"></script>")));
    assert_eq!(page.matches("<script").count(), 1);
    for path in ["", "/console.css", "/console.js"] {
        let text = service.get(path).await.text.replace("\"http://www.w3.org/2000/svg\"", "");
        for outside in ["http:", "https:", "url(", "@import", "import("] {
            assert!(!text.contains(outside), "{path}: {outside}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!text.contains(markup), "{path}: {markup}");
        }
    }
}

#[tokio::test]
async fn other_sites_cannot_act() {
    let service = Service::with_actions().await;
    service.room("a").await;
    let worker = service.reference("a").await;
    let host = service.url.trim_start_matches("http://").split('/').next().expect("a host").to_owned();
    let (own, foreign) = (format!("http://{host}"), "http://evil.example");
    let refused: [&[(&str, &str)]; 9] = [
        &[],
        &[("gen-registry-console", "0")],
        &[("sec-fetch-site", "same-origin")],
        &[("origin", &own)],
        &[ACTS, ("sec-fetch-site", "cross-site")],
        &[ACTS, ("sec-fetch-site", "same-site")],
        &[ACTS, ("sec-fetch-site", "none")],
        &[ACTS, ("origin", foreign)],
        &[ACTS, ("origin", "null")],
    ];
    for headers in refused {
        let answer = service.act("kill", &worker, headers).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (403, Some("cross_site")), "{headers:?}");
        assert_eq!(service.rooms.count(), 1, "{headers:?}");
    }
    // A form can send this type and no header.
    let url = format!("{}/api/registries/{}/actions", service.url, service.id());
    let form = request("POST", &url, &[("content-type", "text/plain"), ("origin", foreign)], "{}".to_owned()).await;
    assert_eq!(form.status, 403);

    let answer = service.act("kill", &worker, &[ACTS, ("origin", &own)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(service.rooms.count(), 0);
}

#[tokio::test]
async fn own_origin_acts_behind_a_proxy() {
    let service = Service::with_actions().await;
    service.room("a").await;
    let worker = service.reference("a").await;
    // The proxy has another name than the service. The browser says that the request is of the page's own origin.
    let headers = [ACTS, ("origin", "https://ops.example"), ("sec-fetch-site", "same-origin")];
    assert_eq!(service.act("stop", &worker, &headers).await.status, 200);
    assert_eq!(service.rooms.count(), 0);
}

#[tokio::test]
async fn other_sites_cannot_use_the_api() {
    let service = Service::start().await;
    for path in ["/api/registries", "/api/stream", "/api/events"] {
        for site in ["cross-site", "same-site", "unheard-of"] {
            let url = format!("{}{path}", service.url);
            let answer = request("GET", &url, &[("sec-fetch-site", site)], String::new()).await;
            assert_eq!(answer.status, 403, "{path} {site}");
        }
    }
    // A link on another site may lead to the page.
    assert_eq!(request("GET", &service.url, &[("sec-fetch-site", "cross-site")], String::new()).await.status, 200);
}

#[tokio::test]
async fn action_is_refused_where_none_is_allowed() {
    let service = Service::start().await;
    service.room("a").await;
    let worker = service.reference("a").await;
    for action in ["stop", "kill", "crash", "restart"] {
        let answer = service.act(action, &worker, &[ACTS]).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (403, Some("not_allowed")), "{action}");
    }
    assert_eq!(service.rooms.count(), 1);
    assert_eq!(service.read("/api/registries").await["registries"][0]["actions"], serde_json::json!([]));
}

#[tokio::test]
async fn action_means_exactly_the_worker() {
    let service = Service::with_actions().await;
    service.room("a").await;
    let worker = service.reference("a").await;
    assert_eq!(service.act("stop", &worker, &[ACTS]).await.json()["outcome"], "its run has ended: stopped");
    service.room("a").await;
    let answer = service.act("kill", &worker, &[ACTS]).await;
    assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (404, Some("no_worker")));
    assert_eq!(service.rooms.count(), 1);
}

#[tokio::test]
async fn bad_action_is_refused_with_a_reason() {
    let service = Service::with_actions().await;
    let url = format!("{}/api/registries/{}/actions", service.url, service.id());
    let long = format!("{{\"action\": \"stop\", \"worker\": \"{}\"}}", "9".repeat(20_000));
    let bodies = [
        ("", 400, "the body is no action"),
        ("{}", 400, "missing field `action`"),
        ("{\"action\": \"stop\", \"worker\": \"1-0\", \"more\": 1}", 400, "unknown field `more`"),
        ("{\"action\": \"burn\", \"worker\": \"1-0\"}", 400, "not an action"),
        ("{\"action\": \"stop\", \"worker\": \"a\"}", 400, "worker is not a reference"),
        (&long, 413, "\"code\":\"too_large\""),
    ];
    for (body, status, message) in bodies {
        let answer = request("POST", &url, &[ACTS], body.to_owned()).await;
        assert_eq!(answer.status, status, "{body:.60}: {}", answer.text);
        assert!(answer.text.contains(message), "{body:.60}: {}", answer.text);
    }
}
