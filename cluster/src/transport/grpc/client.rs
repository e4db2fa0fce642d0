//! Opening streams.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::transport::frame::{Broken, Envelope, Frame, MAX_FRAME};
use crate::transport::grpc::{CONNECTION_WINDOW, PATH, STREAM_WINDOW, codec, status_text, text};
use crate::transport::peer::Outgoing;
use crate::transport::tls::TlsConfig;
use crate::transport::{Connect, Incoming};

/// Opens streams to `host:port`.
#[derive(Debug, Clone)]
pub(crate) struct GrpcConnect {
    pub(crate) tls: Option<TlsConfig>,
}

impl Connect for GrpcConnect {
    fn connect(&self, address: &str, outgoing: Outgoing) -> BoxFuture<'static, Result<Incoming, Broken>> {
        Box::pin(connect(self.tls.clone(), address.to_owned(), outgoing))
    }
}

async fn connect(tls: Option<TlsConfig>, address: String, outgoing: Outgoing) -> Result<Incoming, Broken> {
    let secured = tls.is_some();
    let channel = channel(tls, address).await?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_FRAME);
    client.ready().await.map_err(|error| Broken(hinted(text(&error), secured)))?;
    let outgoing = outgoing.map(|frame| Envelope { frame: Some(frame) });
    let response = client
        .streaming(tonic::Request::new(outgoing), PathAndQuery::from_static(PATH), codec())
        .await
        .map_err(|status| Broken(hinted(status_text(&status), secured)))?;
    Ok(frames(response.into_inner()))
}

/// Adds what is wrong most of the time when the other end closes a connection that has just opened. Neither a server that
/// expects TLS nor one that rejects a certificate has a way to say so that always arrives.
fn hinted(text: String, secured: bool) -> String {
    match secured {
        true => format!("{text}; it may not accept the certificate of this node"),
        false => format!("{text}; it may require TLS, and this node has none"),
    }
}

/// Opens a connection.
async fn channel(tls: Option<TlsConfig>, address: String) -> Result<Channel, Broken> {
    let secured = tls.is_some();
    // The connector below knows the address. This is the authority of the requests.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Broken(format!("`{address}` is no host and port: {}", text(&error))))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Frees a connection to a host that vanished. The stream has ended long before, by its own pings.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let open = Arc::new(AtomicBool::new(false));
    let connector = Connector { tls, address, open: Arc::clone(&open) };
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let text = text(&error);
        Broken(match open.load(Ordering::Relaxed) {
            true => hinted(text, secured),
            // Plain bytes are no TLS record.
            false if text.contains("corrupt message") => {
                format!("{text}; it may have no TLS, and this node requires it")
            }
            false => text,
        })
    })
}

/// The frames of a stream of either direction.
pub(super) fn frames(stream: tonic::Streaming<Envelope>) -> Incoming {
    Box::pin(stream.map(|envelope| match envelope {
        Ok(Envelope { frame: Some(frame) }) => Ok(frame),
        // A frame of a later build. What it means for a request is not known.
        Ok(Envelope { frame: None }) => Err(Broken::new("a frame of an unknown kind")),
        Err(status) => Err(Broken(status_text(&status))),
    }))
}

/// Opens the socket, and secures it.
struct Connector {
    tls: Option<TlsConfig>,
    address: String,
    /// Whether the socket was opened and secured.
    open: Arc<AtomicBool>,
}

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

type Connected = TokioIo<Pin<Box<dyn Io>>>;

impl tower_service::Service<Uri> for Connector {
    type Response = Connected;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Connected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (tls, address, open) = (self.tls.clone(), self.address.clone(), Arc::clone(&self.open));
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let io: Pin<Box<dyn Io>> = match tls {
                None => Box::pin(socket),
                Some(tls) => Box::pin(TlsConnector::from(tls.client).connect(tls.name, socket).await?),
            };
            open.store(true, Ordering::Relaxed);
            Ok(TokioIo::new(io))
        })
    }
}

/// For the compiler: an outgoing stream that tonic accepts.
const _: () = {
    const fn assert<T: Stream<Item = Frame> + Send + 'static>() {}
    assert::<Outgoing>();
};
