//! One connection to a member: as much of gRPC as etcd needs, on HTTP/2.
//!
//! The connection sends no pings. etcd closes connections that ping more often than every 5 s, and a ping that is answered
//! proves nothing about the member behind it. That a member lives is seen from its answers.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::engine::etcd::member::Member;
use crate::engine::etcd::tls::EtcdTls;

/// A member that sends more in one message is broken. etcd limits a request to 1.5 MiB, and an answer not at all.
const MOST_BYTES: usize = 256 << 20;
/// What a member may send ahead on one stream, and on a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The member has not seen the request, and will not.
    NotSent(String),
    /// The member may have seen the request.
    Lost(String),
    /// The member answered with an error.
    Status(Code, String),
}

/// The codes of gRPC that have a meaning of their own here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument,
    NotFound,
    PermissionDenied,
    FailedPrecondition,
    OutOfRange,
    Unimplemented,
    Unauthenticated,
    Other,
}

impl Code {
    fn from_number(number: u32) -> Code {
        match number {
            3 => Code::InvalidArgument,
            5 => Code::NotFound,
            7 => Code::PermissionDenied,
            9 => Code::FailedPrecondition,
            11 => Code::OutOfRange,
            12 => Code::Unimplemented,
            16 => Code::Unauthenticated,
            _ => Code::Other,
        }
    }
}

fn lost(error: h2::Error) -> Failure {
    Failure::Lost(error.to_string())
}

/// A connection to a member. It closes when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    /// Moves the bytes. It ends when the connection is lost.
    driver: JoinHandle<()>,
    base: String,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(member: &Member, tls: Option<&EtcdTls>) -> Result<Connection, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Failure::NotSent(format!("{what}: {error}"));
        let tcp =
            TcpStream::connect((member.host(), member.port())).await.map_err(|error| failed("connect", &error))?;
        // Requests are small, and each is waited for.
        tcp.set_nodelay(true).map_err(|error| failed("connect", &error))?;
        if !member.is_tls() {
            return Connection::over(tcp, member).await.map_err(|error| failed("HTTP/2", &error));
        }
        let tls = tls.ok_or_else(|| failed("TLS", &"an https address needs Etcd::tls"))?;
        let name = ServerName::try_from(member.host().to_owned()).map_err(|error| failed("TLS", &error))?;
        let stream = tls.connector.connect(name, tcp).await.map_err(|error| failed("TLS", &error))?;
        Connection::over(stream, member).await.map_err(|error| failed("HTTP/2", &error))
    }

    async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        member: &Member,
    ) -> Result<Connection, h2::Error> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW).enable_push(false);
        let (requests, connection) = builder.handshake(io).await?;
        let driver = tokio::spawn(async move {
            // Each request learns of the error by itself.
            let _ = connection.await;
        });
        Ok(Connection { requests, driver, base: member.to_string() })
    }

    /// Whether the connection is known to be lost.
    pub(super) fn is_lost(&self) -> bool {
        self.driver.is_finished()
    }

    fn request(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        within: Option<Duration>,
    ) -> Result<Request<()>, Failure> {
        let uri = format!("{}{path}", self.base).parse::<Uri>();
        let mut request = Request::post(uri.map_err(|error| Failure::NotSent(error.to_string()))?)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            // A member that knows no leader says so at once, and ends the watches that it cannot serve.
            .header("hasleader", "true");
        if let Some(within) = within {
            request = request.header("grpc-timeout", format!("{}m", within.as_millis().clamp(1, 99_999_999)));
        }
        if let Some(token) = token {
            request = request.header("token", token);
        }
        request.body(()).map_err(|error| Failure::NotSent(error.to_string()))
    }

    /// Sends a request, and waits for its answer. A future that is dropped cancels the request at the member, if it is not done.
    pub(super) async fn unary<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
        token: Option<&HeaderValue>,
        within: Duration,
    ) -> Result<A, Failure> {
        let request = self.request(path, token, Some(within))?;
        let (response, mut sender) = self.begin(request).await?;
        sender.send_data(frame(message), true).map_err(lost)?;
        let mut receiver = Receiver::new(response);
        let answer = receiver.next().await?;
        let Some(answer) = answer else { return Err(Failure::Lost("an empty answer".into())) };
        // The status that follows decides.
        match receiver.next::<A>().await? {
            None => Ok(answer),
            Some(_) => Err(Failure::Lost("two answers to one request".into())),
        }
    }

    async fn begin(&self, request: Request<()>) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let not_sent = |error: h2::Error| Failure::NotSent(error.to_string());
        let mut requests = self.requests.clone().ready().await.map_err(not_sent)?;
        requests.send_request(request, false).map_err(not_sent)
    }

    /// Opens a stream of messages both ways.
    pub(super) async fn stream(
        self: Arc<Connection>,
        path: &str,
        first: &impl Message,
        token: Option<&HeaderValue>,
    ) -> Result<Duplex, Failure> {
        let request = self.request(path, token, None)?;
        let (response, mut sender) = self.begin(request).await?;
        sender.send_data(frame(first), false).map_err(lost)?;
        Ok(Duplex { sender, receiver: Receiver::new(response), _connection: self })
    }
}

/// A stream of messages both ways.
#[derive(Debug)]
pub(super) struct Duplex {
    sender: SendStream<Bytes>,
    receiver: Receiver,
    _connection: Arc<Connection>,
}

impl Duplex {
    pub(super) fn send(&mut self, message: &impl Message) -> Result<(), Failure> {
        self.sender.send_data(frame(message), false).map_err(lost)
    }

    /// The next message. `None`: the member has ended the stream without an error. Nothing is lost if the future is dropped.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        self.receiver.next().await
    }
}

/// The messages of one response.
#[derive(Debug)]
struct Receiver {
    state: State,
    /// Received and not yet decoded.
    buffer: BytesMut,
}

#[derive(Debug)]
enum State {
    Headers(ResponseFuture),
    Body(RecvStream),
}

impl Receiver {
    fn new(response: ResponseFuture) -> Receiver {
        Receiver { state: State::Headers(response), buffer: BytesMut::new() }
    }

    /// All progress is kept in `self` at each await, so that the future may be dropped.
    async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        loop {
            match &mut self.state {
                State::Headers(response) => {
                    let response = response.await.map_err(lost)?;
                    if response.status() != http::StatusCode::OK {
                        return Err(Failure::Lost(format!("HTTP status {}", response.status())));
                    }
                    // An error without a message comes in the headers.
                    if response.headers().contains_key("grpc-status") {
                        status(response.headers())?;
                    }
                    self.state = State::Body(response.into_body());
                }
                State::Body(body) => {
                    if let Some(message) = take_frame(&mut self.buffer)? {
                        let decoded = A::decode(message);
                        return decoded.map(Some).map_err(|error| Failure::Lost(error.to_string()));
                    }
                    match data(body).await.map_err(lost)? {
                        Some(bytes) => self.buffer.extend_from_slice(&bytes),
                        None if self.buffer.is_empty() => {
                            let trailers = body.trailers().await.map_err(lost)?;
                            return trailers.as_ref().map_or(Ok(None), |trailers| status(trailers).map(|()| None));
                        }
                        None => return Err(Failure::Lost("the answer was cut".into())),
                    }
                }
            }
        }
    }
}

/// The next bytes of a body, for which the member gets new room at once.
async fn data(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    std::future::poll_fn(|cx| {
        let Some(bytes) = ready!(body.poll_data(cx)) else { return Poll::Ready(Ok(None)) };
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        Poll::Ready(Ok(Some(bytes)))
    })
    .await
}

fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").and_then(|number| number.parse().ok()) {
        Some(0) => Ok(()),
        Some(number) => Err(Failure::Status(Code::from_number(number), text("grpc-message").unwrap_or_default())),
        None => Err(Failure::Lost("an answer without a status".into())),
    }
}

/// One byte for the compression (none), four for the length, then the message.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a commit is far below 4 GiB"));
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

fn take_frame(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Failure> {
    let Some(mut head) = buffer.get(..5) else { return Ok(None) };
    let compression = head.get_u8();
    let length = head.get_u32() as usize;
    if compression != 0 || length > MOST_BYTES {
        return Err(Failure::Lost(format!("not a message of gRPC: {compression}, {length} bytes")));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::etcd::wire::CompactionRequest;

    #[test]
    fn frame_is_taken_when_it_is_whole() {
        let message = CompactionRequest { revision: 300 };
        let bytes = frame(&message);
        let mut buffer = BytesMut::new();
        for (index, byte) in bytes.iter().enumerate() {
            assert!(take_frame(&mut buffer).expect("a frame").is_none(), "after {index} bytes");
            buffer.put_u8(*byte);
        }
        let taken = take_frame(&mut buffer).expect("a frame").expect("it is whole");
        assert_eq!(CompactionRequest::decode(taken), Ok(message));
        assert!(buffer.is_empty());
    }

    #[test]
    fn bytes_that_are_no_frame_are_an_error() {
        for bytes in [&b"\x01\0\0\0\0"[..], b"\0\xff\0\0\0", b"HTTP/1.1 400"] {
            assert!(take_frame(&mut bytes.into()).is_err(), "{bytes:?}");
        }
    }
}
