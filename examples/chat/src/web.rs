//! [`serve`]: the page, and a WebSocket for each page.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use gen_registry::{CallError, Registry, Retry, ShutdownReport, StartError, StopError};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::room::{Joined, Line, Message, Room};

/// In characters.
const MAX_NAME: usize = 40;
const MAX_TEXT: usize = 500;
/// In bytes. A page that sends more is disconnected.
const MAX_FRAME: usize = 8 << 10;
/// Between two frames of one page. TCP holds back what arrives faster.
const PACE: Duration = Duration::from_millis(50);
const PING: Duration = Duration::from_secs(30);
/// A page that sends nothing for this time, not even a pong, is disconnected.
const SILENCE: Duration = Duration::from_secs(75);
/// A page that does not take a frame within this time is disconnected. Until then only its own queue waits.
pub(crate) const STALL: Duration = Duration::from_secs(10);
/// What a room may take to answer, and what the sockets may take to close.
const GRACE: Duration = Duration::from_secs(5);

/// A crash may interrupt a join. To join twice does no harm.
const JOIN: Retry = Retry::new().attempts(5).attempt_timeout(GRACE).even_if_it_may_have_run();

#[derive(Debug, Clone)]
struct Chat {
    rooms: Registry<Room>,
    /// Each connection has a copy, so that [`serve`] can wait until all have closed.
    stopping: watch::Receiver<bool>,
}

/// Serves until `stop` completes. Then closes the sockets, and after them the rooms.
pub(crate) async fn serve(
    listener: TcpListener,
    rooms: Registry<Room>,
    stop: impl Future<Output = ()>,
) -> io::Result<ShutdownReport> {
    let (stopping, is_stopping) = watch::channel(false);
    let chat = Chat { rooms: rooms.clone(), stopping: is_stopping.clone() };
    let app = Router::new().route("/", get(page)).route("/socket", get(socket)).with_state(chat);
    let server = axum::serve(listener, app).with_graceful_shutdown(async move { stopped(is_stopping).await });
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        served = &mut server => served?,
        () = stop => {
            stopping.send_replace(true);
            // A client that does not finish its request, or does not close its socket, is cut off.
            let _ = timeout(GRACE, async { tokio::join!(server, stopping.closed()) }).await;
        }
    }
    Ok(rooms.shutdown().await)
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the server has ended.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("page.html")))
}

/// From a page.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Request {
    Say {
        text: String,
    },
    /// Kills the room, to see the supervisor restart it.
    Crash,
}

/// To a page.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    /// Replaces what the page has. `is_restarted`: the room has crashed.
    Joined {
        is_restarted: bool,
        lines: &'a [Arc<Line>],
    },
    Said(&'a Line),
    Here {
        pages: usize,
    },
    Refused {
        reason: &'a str,
    },
}

impl Event<'_> {
    fn frame(&self) -> Frame {
        Frame::text(serde_json::to_string(self).expect("an event has only string keys"))
    }
}

/// Why the server closes a socket: a close code and a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Goodbye(u16, String);

impl Goodbye {
    fn new(code: u16, reason: impl ToString) -> Self {
        let mut reason = reason.to_string();
        // A close frame has at most 125 bytes, 2 of them for the code.
        reason.truncate(reason.floor_char_boundary(123));
        Self(code, reason)
    }

    fn too_slow() -> Self {
        Self::new(close_code::AGAIN, "the page is too slow")
    }

    fn not_joined(error: &CallError<Room>) -> Self {
        let reason = match error.start_error() {
            Some(StartError::AtCapacity) => "there are too many rooms; join an existing one".to_owned(),
            Some(StartError::RestartLimit { retry_after }) => {
                format!("the room has crashed too often; it can be started again in {} s", retry_after.as_secs() + 1)
            }
            Some(error) => error.to_string(),
            None => error.to_string(),
        };
        Self::new(close_code::AGAIN, reason)
    }
}

#[derive(Debug, Deserialize)]
struct Who {
    #[serde(default)]
    room: String,
    #[serde(default)]
    name: String,
}

async fn socket(State(chat): State<Chat>, Query(who): Query<Who>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME).on_upgrade(async move |socket| {
        let (mut sink, mut stream) = socket.split();
        // A browser shows a page the reason of a close frame, but not the body of a refused upgrade.
        let goodbye = match (checked("room", &who.room, MAX_NAME), checked("name", &who.name, MAX_NAME)) {
            (Err(reason), _) | (_, Err(reason)) => Goodbye::new(close_code::POLICY, reason),
            (Ok(room), Ok(name)) => {
                let (refuse, refused) = mpsc::channel(1);
                tokio::select! {
                    goodbye = write(&mut sink, &chat.rooms, room, refused) => goodbye,
                    goodbye = read(&mut stream, &chat.rooms, room, name, refuse) => goodbye,
                    () = stopped(chat.stopping.clone()) => Goodbye::new(close_code::AWAY, "the server is stopping"),
                }
            }
        };
        close(sink, stream, goodbye).await;
        drop(chat); // and with it `stopping`: the socket is closed
    })
}

fn checked<'a>(what: &str, text: &'a str, most: usize) -> Result<&'a str, String> {
    let text = text.trim();
    if text.is_empty() {
        Err(format!("the {what} is empty"))
    } else if text.chars().count() > most {
        Err(format!("the {what} has more than {most} characters"))
    } else if text.chars().any(char::is_control) {
        Err(format!("the {what} has control characters"))
    } else {
        Ok(text)
    }
}

/// Sends what happens in the room to the page. The room is addressed by name, so that this outlives its crashes.
async fn write(
    sink: &mut (impl Sink<Frame, Error = axum::Error> + Unpin),
    rooms: &Registry<Room>,
    room: &str,
    mut refused: mpsc::Receiver<String>,
) -> Goodbye {
    let _left = Left { rooms, room };
    let mut is_restarted = false;
    loop {
        let joined = match rooms.via_or_start(room, ()).call_with_retry(JOIN, Message::Join).await {
            Ok(joined) => joined,
            Err(error) => return Goodbye::not_joined(&error),
        };
        if let Err(goodbye) = follow(sink, joined, &mut refused, is_restarted).await {
            return goodbye;
        }
        is_restarted = true;
    }
}

/// Returns `Ok` when the room's run has ended.
async fn follow(
    sink: &mut (impl Sink<Frame, Error = axum::Error> + Unpin),
    mut joined: Joined,
    refused: &mut mpsc::Receiver<String>,
    is_restarted: bool,
) -> Result<(), Goodbye> {
    let mut pings = interval(PING);
    let mut frame = Event::Joined { is_restarted, lines: &joined.lines }.frame();
    loop {
        match timeout(STALL, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Goodbye::new(close_code::ERROR, error)),
            Err(_) => return Err(Goodbye::too_slow()),
        }
        frame = tokio::select! {
            said = joined.said.recv() => match said {
                Ok(line) => Event::Said(&line).frame(),
                Err(RecvError::Lagged(_)) => return Err(Goodbye::too_slow()),
                Err(RecvError::Closed) => return Ok(()),
            },
            Ok(()) = joined.here.changed() => Event::Here { pages: *joined.here.borrow_and_update() }.frame(),
            Some(reason) = refused.recv() => Event::Refused { reason: &reason }.frame(),
            _ = pings.tick() => Frame::Ping(Default::default()),
        };
    }
}

/// Lets the room count its pages when this one has left it.
struct Left<'a> {
    rooms: &'a Registry<Room>,
    room: &'a str,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let room = self.rooms.via(self.room);
        tokio::spawn(async move {
            // Without a room there is nothing to count.
            let _ = room.cast(Message::Left).await;
        });
    }
}

/// Sends what the page says to the room.
async fn read(
    stream: &mut (impl Stream<Item = Result<Frame, axum::Error>> + Unpin),
    rooms: &Registry<Room>,
    room: &str,
    name: &str,
    refuse: mpsc::Sender<String>,
) -> Goodbye {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let to_room = rooms.via_or_start(room, ());
    loop {
        pace.tick().await;
        let request = match timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(Frame::Text(text)))) => serde_json::from_str(&text),
            Ok(Some(Ok(Frame::Ping(_) | Frame::Pong(_)))) => continue,
            Ok(Some(Ok(Frame::Binary(_)))) => return Goodbye::new(close_code::UNSUPPORTED, "a message is text"),
            Ok(Some(Ok(Frame::Close(_))) | None) => return Goodbye::new(close_code::NORMAL, ""),
            // Such as a message that is too long.
            Ok(Some(Err(error))) => return Goodbye::new(close_code::POLICY, error),
            Err(_) => return Goodbye::new(close_code::AWAY, "the page does not answer"),
        };
        let done = match request {
            Ok(Request::Say { text }) => match checked("message", &text, MAX_TEXT) {
                Ok(text) => {
                    let line = Arc::new(Line { from: name.to_owned(), text: text.to_owned() });
                    to_room.cast_timeout(GRACE, Message::Add(line)).await.map_err(|error| error.to_string())
                }
                Err(reason) => Err(reason),
            },
            Ok(Request::Crash) => match rooms.crash(room).await {
                // Not found: another page was faster, and the room is about to restart.
                Ok(_) | Err(StopError::NotFound) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => return Goodbye::new(close_code::INVALID, error),
        };
        if let Err(reason) = done {
            // The channel is full only if the page does not take the earlier reason.
            let _ = refuse.try_send(reason);
        }
    }
}

/// Sends a close frame, and waits until the page has answered it.
async fn close(
    mut sink: impl Sink<Frame> + Unpin,
    mut stream: impl Stream<Item = Result<Frame, axum::Error>> + Unpin,
    Goodbye(code, reason): Goodbye,
) {
    let frame = Frame::Close(Some(CloseFrame { code, reason: reason.into() }));
    let closed = async {
        if sink.send(frame).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    // A page that does not answer is cut off.
    let _ = timeout(GRACE / 2, closed).await;
}

#[cfg(test)]
mod tests;
