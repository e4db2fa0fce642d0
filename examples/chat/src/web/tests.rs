use std::net::SocketAddr;

use serde_json::{Value, json};
use test_support::within;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as ClientFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;
use crate::room::supervisor;

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<ShutdownReport>>,
}

impl Server {
    async fn start(max_rooms: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let rooms = supervisor(max_rooms).unwrap();
        let ended = tokio::spawn(serve(listener, rooms, async { stopped.await.unwrap() }));
        Self { address, stop, ended }
    }

    /// The query is not encoded.
    async fn join(&self, room: &str, name: &str) -> Page {
        let url = format!("ws://{}/socket?room={room}&name={name}", self.address);
        Page(within(connect_async(url), "the upgrade").await.unwrap().0)
    }
}

struct Page(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Page {
    async fn send(&mut self, text: impl ToString) {
        within(self.0.send(ClientFrame::text(text.to_string())), "room in the socket").await.unwrap();
    }

    async fn say(&mut self, text: &str) {
        self.send(json!({"type": "say", "text": text})).await;
    }

    /// Skips events until this one is found.
    async fn until(&mut self, wanted: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let event = async {
            loop {
                match self.0.next().await {
                    Some(Ok(ClientFrame::Text(text))) => {
                        let event: Value = serde_json::from_str(&text).unwrap();
                        if is_wanted(&event) {
                            return event;
                        }
                    }
                    Some(Ok(ClientFrame::Ping(_))) => {}
                    other => panic!("not {wanted}: {other:?}"),
                }
            }
        };
        within(event, wanted).await
    }

    async fn next(&mut self, of_type: &str) -> Value {
        self.until(of_type, |event| event["type"] == of_type).await
    }

    async fn next_joined(&mut self, is_restarted: bool) -> Value {
        self.until("joined", |event| event["type"] == "joined" && event["is_restarted"] == is_restarted).await
    }

    async fn until_pages(&mut self, pages: usize) {
        self.until("the count of pages", |event| event["type"] == "here" && event["pages"] == pages).await;
    }

    /// The code and the reason of the close frame.
    async fn closed(&mut self) -> (u16, String) {
        loop {
            match within(self.0.next(), "the close frame").await {
                Some(Ok(ClientFrame::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    }
}

fn said(from: &str, text: &str) -> Value {
    json!({"type": "said", "from": from, "text": text})
}

#[tokio::test]
async fn all_pages_of_a_room_see_a_message() {
    let server = Server::start(8).await;
    let mut pages = [server.join("tea", "ada").await, server.join("tea", "bob").await];
    pages[0].until_pages(2).await;
    pages[0].say("hello").await;
    for page in &mut pages {
        assert_eq!(page.next("said").await, said("ada", "hello"));
    }
    let late = server.join("tea", "eve").await.next("joined").await;
    assert_eq!(late["lines"], json!([{"from": "ada", "text": "hello"}]));
    assert_eq!(server.join("coffee", "eve").await.next("joined").await["lines"], json!([]));
}

#[tokio::test]
async fn pages_survive_the_crash_of_their_room() {
    let server = Server::start(8).await;
    let (mut ada, mut bob) = (server.join("tea", "ada").await, server.join("tea", "bob").await);
    ada.until_pages(2).await;
    ada.say("lost").await;
    assert_eq!(bob.next("said").await, said("ada", "lost"));

    bob.send(json!({"type": "crash"})).await;
    for page in [&mut ada, &mut bob] {
        let joined = page.next_joined(true).await;
        assert_eq!(joined["lines"], json!([]));
        page.until_pages(2).await;
    }
    ada.say("again").await;
    assert_eq!(bob.next("said").await, said("ada", "again"));
}

#[tokio::test]
async fn page_that_disappears_leaves_the_room() {
    let server = Server::start(8).await;
    let (mut ada, bob) = (server.join("tea", "ada").await, server.join("tea", "bob").await);
    ada.until_pages(2).await;
    drop(bob); // without a close frame
    ada.until_pages(1).await;
}

#[tokio::test]
async fn empty_and_long_names_are_refused() {
    let server = Server::start(8).await;
    let long = "x".repeat(MAX_NAME + 1);
    for (room, name, reason) in [
        ("", "ada", "the room is empty"),
        ("tea", "%20%09", "the name is empty"),
        ("tea", &long, "the name has more than 40 characters"),
        ("a%00b", "ada", "the room has control characters"),
    ] {
        assert_eq!(server.join(room, name).await.closed().await, (close_code::POLICY, reason.to_owned()));
    }
}

#[tokio::test]
async fn long_message_is_refused_and_the_page_stays() {
    let server = Server::start(8).await;
    let mut ada = server.join("tea", "ada").await;
    ada.say(&"ü".repeat(MAX_TEXT + 1)).await;
    assert_eq!(ada.next("refused").await["reason"], "the message has more than 500 characters");
    let longest = "ü".repeat(MAX_TEXT);
    ada.say(&longest).await;
    assert_eq!(ada.next("said").await, said("ada", &longest));
}

#[tokio::test]
async fn huge_and_malformed_frames_disconnect() {
    let server = Server::start(8).await;
    let mut ada = server.join("tea", "ada").await;
    ada.send("x".repeat(MAX_FRAME + 1)).await;
    let (code, reason) = ada.closed().await;
    assert_eq!(code, close_code::POLICY);
    assert!(reason.contains("too long"), "{reason}");

    let mut bob = server.join("tea", "bob").await;
    bob.send(r#"{"type": "shout"}"#).await;
    assert_eq!(bob.closed().await.0, close_code::INVALID);

    let mut eve = server.join("tea", "eve").await;
    eve.0.send(ClientFrame::binary(vec![0xff])).await.unwrap();
    assert_eq!(eve.closed().await.0, close_code::UNSUPPORTED);
}

#[tokio::test]
async fn room_limit_evicts_only_rooms_without_pages() {
    let server = Server::start(1).await;
    let mut ada = server.join("tea", "ada").await;
    ada.next("joined").await;
    let (code, reason) = server.join("coffee", "bob").await.closed().await;
    assert_eq!((code, &*reason), (close_code::AGAIN, "there are too many rooms; join an existing one"));

    // The room of a page that has left makes room, as soon as its run has noticed that.
    drop(ada);
    within(async { while server.join("coffee", "bob").await.0.next().await.is_some_and(is_close) {} }, "the room")
        .await;
}

fn is_close(frame: Result<ClientFrame, impl std::error::Error>) -> bool {
    frame.unwrap().is_close()
}

#[tokio::test]
async fn fourth_crash_in_a_row_closes_the_room() {
    let server = Server::start(8).await;
    let mut ada = server.join("tea", "ada").await;
    ada.next("joined").await;
    for _ in 0..3 {
        ada.send(json!({"type": "crash"})).await;
        assert_eq!(ada.next("joined").await["is_restarted"], true);
    }
    ada.send(json!({"type": "crash"})).await;
    let (code, reason) = ada.closed().await;
    assert_eq!(code, close_code::AGAIN);
    assert!(reason.starts_with("the room has crashed too often"), "{reason}");
}

#[tokio::test]
async fn shutdown_closes_sockets_and_then_rooms() {
    let server = Server::start(8).await;
    let (mut ada, mut bob) = (server.join("tea", "ada").await, server.join("coffee", "bob").await);
    ada.next("joined").await;
    bob.next("joined").await;
    server.stop.send(()).unwrap();
    for page in [&mut ada, &mut bob] {
        assert_eq!(page.closed().await, (close_code::AWAY, "the server is stopping".to_owned()));
        // The client's answer to the close frame, and the end of the connection.
        assert!(within(page.0.next(), "the end of the socket").await.is_none());
    }
    let report = within(server.ended, "the server's end").await.unwrap().unwrap();
    assert_eq!((report.drained, report.stuck), (2, 0));
}

/// A page that takes `ready` frames, and no more until the gate opens.
fn slow_page(ready: usize, gate: oneshot::Receiver<()>) -> impl Sink<Frame, Error = axum::Error> {
    futures_util::sink::unfold((ready, Some(gate)), async |(ready, mut gate), _: Frame| match ready.checked_sub(1) {
        Some(ready) => Ok((ready, gate)),
        None => {
            if let Some(gate) = gate.take() {
                gate.await.map_err(axum::Error::new)?;
            }
            Ok((usize::MAX, None))
        }
    })
}

async fn say_many(rooms: &Registry<Room>, lines: usize) {
    let room = rooms.via_or_start("tea", ());
    for text in 0..lines {
        let line = Line { from: "ada".to_owned(), text: text.to_string() };
        room.cast(Message::Add(Arc::new(line))).await.unwrap();
    }
    room.call(Message::Get).await.unwrap();
}

/// The room handles everything while the page takes nothing. The clock is paused: only the page's stall advances it.
#[tokio::test(start_paused = true)]
async fn page_that_does_not_read_is_disconnected() {
    let rooms = supervisor(8).unwrap();
    let (_gate, never) = oneshot::channel();
    let mut page = std::pin::pin!(slow_page(0, never));
    let (_refuse, refused) = mpsc::channel(1);
    let goodbye = async { tokio::join!(write(&mut page, &rooms, "tea", refused), say_many(&rooms, 10_000)).0 };
    assert_eq!(within(goodbye, "the goodbye").await, Goodbye::too_slow());
}

#[tokio::test(start_paused = true)]
async fn page_far_behind_is_disconnected() {
    let rooms = supervisor(8).unwrap();
    let (open, gate) = oneshot::channel();
    let mut page = std::pin::pin!(slow_page(1, gate));
    let (_refuse, refused) = mpsc::channel(1);
    let goodbye = async {
        let fast_room = async {
            test_support::until_idle().await; // the page has joined
            say_many(&rooms, 2 * crate::room::QUEUED).await;
            open.send(()).unwrap();
        };
        tokio::join!(write(&mut page, &rooms, "tea", refused), fast_room).0
    };
    assert_eq!(within(goodbye, "the goodbye").await, Goodbye::too_slow());
}
