//! A bare tonic service: a unary method and a stream both ways, that return what they get.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// As many bytes as a call of the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Echo {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

pub(crate) fn echo() -> Echo {
    Echo { body: vec![1; 64].into() }
}

fn codec() -> ProstCodec<Echo, Echo> {
    ProstCodec::default()
}

#[derive(Clone)]
struct Bare;

type Echoes = Pin<Box<dyn Stream<Item = Result<Echo, Status>> + Send>>;

impl tonic::server::UnaryService<Echo> for Bare {
    type Response = Echo;
    type Future = Ready<Result<Response<Echo>, Status>>;

    fn call(&mut self, request: Request<Echo>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl tonic::server::StreamingService<Echo> for Bare {
    type Response = Echo;
    type ResponseStream = Echoes;
    type Future = Ready<Result<Response<Echoes>, Status>>;

    fn call(&mut self, request: Request<Streaming<Echo>>) -> Self::Future {
        ready(Ok(Response::new(Box::pin(request.into_inner()))))
    }
}

impl tower_service::Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(codec());
            Ok(match request.uri().path() {
                "/bare/unary" => grpc.unary(Bare, request).await,
                _ => grpc.streaming(Bare, request).await,
            })
        })
    }
}

/// Listens until the runtime ends.
pub(crate) async fn listen() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("the listener is bound");
    let accepted = stream::unfold(listener, |listener| async {
        let socket = listener.accept().await.map(|(socket, _)| socket).and_then(|socket| {
            socket.set_nodelay(true)?;
            Ok(socket)
        });
        Some((socket, listener))
    });
    tokio::spawn(Server::builder().serve_with_incoming(Bare, accepted));
    address
}

pub(crate) async fn connect(address: SocketAddr) -> tonic::client::Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true);
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.expect("the server listens"));
    client.ready().await.expect("the connection is open");
    client
}

pub(crate) async fn unary(client: &mut tonic::client::Grpc<Channel>) {
    client.ready().await.expect("the connection is open");
    let path = PathAndQuery::from_static("/bare/unary");
    client.unary::<_, Echo, _>(Request::new(echo()), path, codec()).await.expect("an echo");
}

/// A stream both ways.
pub(crate) struct Pair {
    sent: mpsc::Sender<Echo>,
    echoes: Streaming<Echo>,
}

impl Pair {
    pub(crate) async fn open(client: &mut tonic::client::Grpc<Channel>, room: usize) -> Pair {
        let (sent, mut outgoing) = mpsc::channel::<Echo>(room);
        let outgoing = stream::poll_fn(move |cx| outgoing.poll_recv(cx));
        let path = PathAndQuery::from_static("/bare/stream");
        let echoes = client.streaming(Request::new(outgoing), path, codec()).await.expect("a stream");
        Pair { sent, echoes: echoes.into_inner() }
    }

    pub(crate) async fn send(&self) {
        self.sent.send(echo()).await.expect("the stream is open");
    }

    pub(crate) async fn receive(&mut self) {
        self.echoes.next().await.expect("an echo").expect("an echo");
    }

    /// With this many on the way, one leaves for each that arrives. Returns how many arrived until then.
    pub(crate) async fn pump(&mut self, on_the_way: usize, until: Instant) -> u64 {
        for _ in 0..on_the_way {
            self.send().await;
        }
        let mut echoes = 0;
        while Instant::now() < until {
            self.receive().await;
            self.send().await;
            echoes += 1;
        }
        for _ in 0..on_the_way {
            self.receive().await;
        }
        echoes
    }
}
