//! The streams of open pages.

use std::cell::Cell;

use gen_registry::inspect::Inspector;
use serde_json::{Value, json};
use test_support::{Ask, Gate, Step, until, within};

use crate::harness::{Events, Service};

#[tokio::test]
async fn stream_has_the_registries_and_their_rates() {
    let service = Service::start().await;
    let mut stream = Events::open(&service, "").await.expect("it opens");
    let first = stream.next("registries").await;
    assert_eq!((first["version"].clone(), first["registries"][0]["name"].clone()), (json!(1), json!(service.name)));
    for number in 0..30 {
        service.room(&number.to_string()).await;
    }
    // A sample may fall between two starts.
    let has_moved = Cell::new(false);
    let all = |sample: &Value| {
        let registry = &sample["registries"][0];
        has_moved.set(has_moved.get() || registry["rates"]["starts"].as_f64().expect("a rate") > 0.0);
        has_moved.get() && registry["starts"]["ok"] == 30 && registry["workers"]["running"] == 30
    };
    stream.until("registries", "30 starts and their rate", all).await;
}

#[tokio::test]
async fn crash_is_in_the_stream_before_the_second_sample() {
    let service = Service::start().await;
    let mut stream = Events::open(&service, "").await.expect("it opens");
    stream.next("registries").await;
    let room = service.room("a").await;
    room.cast(Ask::Do(Step::Panic)).await.expect("it is sent");
    within(room.closed(), "the end of the worker").await;
    // A sample is taken each second. These have seen the exit.
    let mut samples = 0;
    let has_exited = |registry: &Value| registry["starts"]["ok"] == 1 && registry["workers"]["running"] == 0;
    let crash = async {
        loop {
            match stream.any().await.expect("the stream goes on") {
                (name, feed) if name == "events" => return feed,
                (_, sample) => samples += u32::from(has_exited(&sample["registries"][0])),
            }
        }
    };
    let feed = within(crash, "the crash in the stream").await;
    assert!(samples < 2, "{samples} samples came first");
    let event = &feed["events"][0];
    assert_eq!(
        (event["kind"].clone(), event["level"].clone(), event["key"].clone()),
        (json!("crashed"), json!("crash"), json!("a"))
    );
    assert!(event["detail"].as_str().expect("a text").contains("a scripted panic"), "{event}");

    // What a client knows is not sent again.
    let latest = feed["latest"].clone();
    assert_eq!(service.read("/api/events").await["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(service.read(&format!("/api/events?after={latest}")).await["events"], json!([]));
}

#[tokio::test]
async fn stream_follows_a_worker_and_its_successor() {
    let service = Service::start().await;
    let room = service.room("a").await;
    let reference = service.reference("a").await;
    let parameters = format!("?registry={}&ref={reference}", service.id());
    let mut stream = Events::open(&service, &parameters).await.expect("it opens");
    assert_eq!(stream.next("worker").await["queued"], 0);
    let gate = Gate::new();
    room.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it is sent");
    gate.reached().await;
    for note in 0..5 {
        room.cast(Ask::Note(note)).await.expect("it is sent");
    }
    stream.until("worker", "five messages in the mailbox", |worker| worker["queued"] == 5).await;
    gate.open();
    service.rooms.stop("a").await.expect("it stops");
    stream.until("worker", "the end of the worker", Value::is_null).await;
    service.room("a").await;
    stream.until("worker", "the next worker of the key", Value::is_object).await;
}

#[tokio::test]
async fn stream_follows_a_list() {
    let service = Service::start().await;
    for key in ["a", "b", "c"] {
        service.room(key).await;
    }
    let parameters = format!("?registry={}&sort=key&limit=2", service.id());
    let mut stream = Events::open(&service, &parameters).await.expect("it opens");
    let page = stream.next("workers").await;
    assert_eq!((page["matched"].clone(), page["rows"][0]["key"].clone()), (json!(3), json!("a")));
    service.rooms.stop("a").await.expect("it stops");
    stream.until("workers", "the list without the worker", |page| page["rows"][0]["key"] == "b").await;
}

#[tokio::test]
async fn streams_are_bounded_and_given_back() {
    let service = Service::start().await;
    let mut open = Vec::new();
    for number in 0..64 {
        open.push(Events::open(&service, "").await.unwrap_or_else(|status| panic!("stream {number}: {status}")));
    }
    assert_eq!(Events::open(&service, "").await.err().map(|status| status.as_u16()), Some(503));
    open.truncate(63);
    let again = async {
        while Events::open(&service, "").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(again, "the place of a stream whose client has left").await;
}

#[tokio::test]
async fn clients_that_do_not_read_delay_nothing() {
    let service = Service::start().await;
    for number in 0..300 {
        service.room(&format!("a room with a long key, so that its row is long too: {number}")).await;
    }
    let list = format!("?registry={}&limit=200", service.id());
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(Events::open(&service, &list).await.expect("it opens"));
    }
    let mut stream = Events::open(&service, &list).await.expect("it opens");
    for _ in 0..3 {
        stream.next("registries").await;
        stream.next("workers").await;
    }
    service.room("one more").await;
}

#[tokio::test]
async fn closed_console_lets_the_server_stop() {
    let service = Service::of(Inspector::new(), |rooms| rooms).await;
    let mut stream = Events::open(&service, "").await.expect("it opens");
    stream.next("registries").await;
    service.stop.send(()).expect("the server runs");
    service.console.close();
    stream.end().await;
    within(service.server, "the end of the server").await.expect("it does not panic");
}

#[tokio::test]
async fn sampling_ends_with_the_console() {
    let inspector = Inspector::new();
    let alive = tokio::runtime::Handle::current().metrics();
    let before = alive.num_alive_tasks();
    let router = gen_registry_console::router(&inspector);
    assert_eq!(alive.num_alive_tasks(), before + 1);
    drop(router);
    until("the end of the sampling", || alive.num_alive_tasks() <= before).await;
}
