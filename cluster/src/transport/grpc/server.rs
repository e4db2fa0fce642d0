//! Accepting streams.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::server::StreamingService;
use tonic::transport::server::Connected;

use crate::transport::frame::{Envelope, Frame, MAX_FRAME};
use crate::transport::grpc::client::frames;
use crate::transport::grpc::{CONNECTION_WINDOW, PATH, STREAM_WINDOW, codec};
use crate::transport::receiver::{Accept, Answers, Certified};
use crate::transport::tls::TlsConfig;

/// Connections whose handshake takes longer are dropped.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// At most this many handshakes run at a time. One more ends the oldest: a handshake takes milliseconds, and one that takes long
/// must not keep a node out.
const HANDSHAKES: usize = 256;

/// Why a node does not listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Other hosts reach the address, and would send to the workers without a certificate.
    #[error("{0} is not a loopback address and there is no TLS: pass `tls`, or `insecure` if the network is trusted")]
    Insecure(SocketAddr),
    /// The address cannot be listened at.
    #[error("{address} cannot be listened at: {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Listens for streams of other nodes, until it is dropped. Streams end with their [`Receiver`](crate::transport::Receiver).
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    /// Dropped, it ends the server.
    _stop: oneshot::Sender<()>,
}

impl Server {
    pub(crate) async fn listen(
        address: SocketAddr,
        tls: Option<TlsConfig>,
        insecure: bool,
        accept: Arc<dyn Accept>,
    ) -> Result<Server, ListenError> {
        if tls.is_none() && !insecure && !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::Insecure(address));
        }
        Server::listen_with(address, tls, Nodes { accept }).await
    }

    /// Listens for a service.
    pub(in crate::transport) async fn listen_with<S>(
        address: SocketAddr,
        tls: Option<TlsConfig>,
        service: S,
    ) -> Result<Server, ListenError>
    where
        S: tower_service::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let failed = |source| ListenError::Io { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (connections, mut accepted) = mpsc::channel(64);
        let accepting = tokio::spawn(accept_all(listener, tls, connections));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .max_concurrent_streams(16)
            .serve_with_incoming_shutdown(
                service,
                stream::poll_fn(move |cx| accepted.poll_recv(cx).map(|io| io.map(Ok::<_, io::Error>))),
                // Either way it is dropped.
                async { drop(stopped.await) },
            );
        // The server has no errors of its own: the connections are accepted above.
        tokio::spawn(async { drop(server.await) });
        Ok(Server { address, accepting, _stop: stop })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts connections for as long as the task runs. tonic's own loop ends at the first lack of file descriptors.
async fn accept_all(listener: TcpListener, tls: Option<TlsConfig>, connections: mpsc::Sender<NodeIo>) {
    let mut handshakes: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // A connection that was reset, or no file descriptors: those that are open may be closed meanwhile.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        handshakes.retain(|handshake| !handshake.is_finished());
        if handshakes.len() == HANDSHAKES
            && let Some(oldest) = handshakes.pop_front()
        {
            oldest.abort();
        }
        let (tls, connections) = (tls.clone(), connections.clone());
        handshakes.push_back(tokio::spawn(async move {
            // Without a handshake there is no connection, and nothing to report it to: the other end has the error.
            if let Ok(Ok(io)) = timeout(HANDSHAKE, handshake(socket, tls)).await {
                drop(connections.send(io).await);
            }
        }));
    }
}

async fn handshake(socket: TcpStream, tls: Option<TlsConfig>) -> io::Result<NodeIo> {
    socket.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(NodeIo { io: Box::pin(socket), certified: Ok(()) }) };
    let stream = TlsAcceptor::from(Arc::clone(&tls.server)).accept(socket).await?;
    // The authority is checked. The name is checked here and not in the handshake, so that the other end has the reason.
    let certified = tls.check_name(stream.get_ref().1.peer_certificates());
    Ok(NodeIo { io: Box::pin(stream), certified })
}

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A connection of another node.
struct NodeIo {
    io: Pin<Box<dyn Io>>,
    certified: Certified,
}

impl Connected for NodeIo {
    type ConnectInfo = Certificate;

    fn connect_info(&self) -> Certificate {
        Certificate(self.certified.clone())
    }
}

/// What the connection says to each of its requests.
#[derive(Debug, Clone)]
struct Certificate(Certified);

impl AsyncRead for NodeIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, to)
    }
}

impl AsyncWrite for NodeIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The gRPC service.
#[derive(Clone)]
struct Nodes {
    accept: Arc<dyn Accept>,
}

impl tower_service::Service<http::Request<Body>> for Nodes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let accept = Arc::clone(&self.accept);
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(tonic::Status::unimplemented("there is no such method").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(codec()).max_decoding_message_size(MAX_FRAME);
            Ok(grpc.streaming(Method { accept }, request).await)
        })
    }
}

struct Method {
    accept: Arc<dyn Accept>,
}

impl StreamingService<Envelope> for Method {
    type Response = Envelope;
    type ResponseStream = stream::Map<Answers, fn(Frame) -> Result<Envelope, tonic::Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, tonic::Status>>;

    fn call(&mut self, mut request: tonic::Request<tonic::Streaming<Envelope>>) -> Self::Future {
        let certified = match request.extensions_mut().remove::<Certificate>() {
            Some(Certificate(certified)) => certified,
            // Each connection has one.
            None => Err("the connection has no certificate".into()),
        };
        let answers = Arc::clone(&self.accept).accept(frames(request.into_inner()), certified);
        let answers = answers.map((|frame| Ok(Envelope { frame: Some(frame) })) as fn(_) -> _);
        std::future::ready(Ok(tonic::Response::new(answers)))
    }
}

const _: () = {
    const fn assert<T: Stream<Item = Frame> + Send + 'static>() {}
    assert::<Answers>();
};
