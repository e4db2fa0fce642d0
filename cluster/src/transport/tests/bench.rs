//! What a call between nodes costs, beside a bare tonic service in the same run.
//!
//! ```sh
//! cargo test --release -p gen-registry-cluster --lib transport::tests::bench -- --ignored --nocapture
//! ```
//!
//! Loopback, bodies of 64 bytes. Each side has a runtime with one thread.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Request as Rpc, Response as Answer, Status, Streaming};

use super::sockets::loopback;
use super::support::{Arc, identity, message, node};
use super::tls::Authority;
use crate::id::NodeId;
use crate::transport::frame::{Envelope, Frame, Piece};
use crate::transport::grpc::{GrpcConnect, Server, channel, codec};
use crate::transport::outcome::Outcome;
use crate::transport::peer::{Options, Peer};
use crate::transport::receiver::Receiver;
use crate::transport::request::{Request, Response, Serve};
use crate::transport::tls::TlsConfig;

const ROUNDS: usize = 5;
const AT_ONCE: u64 = 64;

struct Echo;

impl Serve for Echo {
    async fn serve(&self, _: NodeId, request: Request, _: tokio::time::Instant) -> Response {
        Response::Replied(request.body)
    }
}

/// The bare service: a unary method and a stream that return what they get.
#[derive(Clone)]
struct Bare;

type Envelopes = Pin<Box<dyn futures_util::Stream<Item = Result<Envelope, Status>> + Send>>;

impl tonic::server::UnaryService<Envelope> for Bare {
    type Response = Envelope;
    type Future = std::future::Ready<Result<Answer<Envelope>, Status>>;

    fn call(&mut self, request: Rpc<Envelope>) -> Self::Future {
        std::future::ready(Ok(Answer::new(request.into_inner())))
    }
}

impl tonic::server::StreamingService<Envelope> for Bare {
    type Response = Envelope;
    type ResponseStream = Envelopes;
    type Future = std::future::Ready<Result<Answer<Envelopes>, Status>>;

    fn call(&mut self, request: Rpc<Streaming<Envelope>>) -> Self::Future {
        std::future::ready(Ok(Answer::new(Box::pin(request.into_inner()))))
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

fn envelope(id: u64) -> Envelope {
    Envelope { frame: Some(Frame::Piece(Piece { id, body: vec![1; 64].into() })) }
}

async fn bare(address: SocketAddr, tls: Option<TlsConfig>) -> tonic::client::Grpc<tonic::transport::Channel> {
    let channel = channel(tls, address.to_string()).await.expect("the server listens");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("the connection is open");
    client
}

/// One thing that is measured: the median of one call at a time, and calls per second of 64 at once.
#[derive(Default)]
struct Row {
    medians: Vec<Duration>,
    rates: Vec<f64>,
}

impl Row {
    fn median(&mut self) -> f64 {
        self.medians.sort();
        self.medians[self.medians.len() / 2].as_secs_f64() * 1e6
    }

    fn rate(&mut self) -> f64 {
        self.rates.sort_by(f64::total_cmp);
        self.rates[self.rates.len() / 2]
    }
}

const ONE: usize = 4_000;
const SPAN: Duration = Duration::from_millis(700);

async fn one_at_a_time<F: Future>(mut call: impl FnMut() -> F) -> Duration {
    let mut times = Vec::with_capacity(ONE);
    for _ in 0..ONE {
        let begin = Instant::now();
        call().await;
        times.push(begin.elapsed());
    }
    times.sort();
    times[ONE / 2]
}

/// Calls in 64 tasks for a while.
async fn at_once<F: Future<Output = ()> + Send + 'static>(call: impl Fn() -> F + Clone + Send + 'static) -> f64 {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let call = call.clone();
            let future = async move {
                let mut calls = 0_u64;
                while begin.elapsed() < SPAN {
                    call().await;
                    calls += 1;
                }
                calls
            };
            tokio::spawn(future)
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await.expect("no panic");
    }
    calls as f64 / begin.elapsed().as_secs_f64()
}

async fn unary(row: &mut Row, address: SocketAddr, tls: Option<TlsConfig>) {
    let client = bare(address, tls).await;
    let call = move || {
        let mut client = client.clone();
        async move {
            client.ready().await.expect("the connection is open");
            let path = PathAndQuery::from_static("/bare/unary");
            client.unary::<_, Envelope, _>(Rpc::new(envelope(1)), path, codec()).await.expect("an echo");
        }
    };
    row.medians.push(one_at_a_time(call.clone()).await);
    row.rates.push(at_once(call).await);
}

async fn streamed(row: &mut Row, address: SocketAddr, tls: Option<TlsConfig>) {
    let mut client = bare(address, tls).await;
    let (send, mut sent) = mpsc::channel::<Envelope>(AT_ONCE as usize);
    let outgoing = stream::poll_fn(move |cx| sent.poll_recv(cx));
    let path = PathAndQuery::from_static("/bare/stream");
    let answers = client.streaming(Rpc::new(outgoing), path, codec()).await.expect("a stream");
    let mut answers: Streaming<Envelope> = answers.into_inner();
    let mut times = Vec::with_capacity(ONE);
    for id in 0..ONE as u64 {
        let begin = Instant::now();
        send.send(envelope(id)).await.expect("the stream is open");
        answers.next().await.expect("an echo").expect("an echo");
        times.push(begin.elapsed());
    }
    times.sort();
    row.medians.push(times[ONE / 2]);
    // 64 on the way: one leaves for each that arrives.
    for id in 0..AT_ONCE {
        send.send(envelope(id)).await.expect("the stream is open");
    }
    let (begin, mut calls) = (Instant::now(), 0_u64);
    while begin.elapsed() < SPAN {
        answers.next().await.expect("an echo").expect("an echo");
        send.send(envelope(calls)).await.expect("the stream is open");
        calls += 1;
    }
    row.rates.push(calls as f64 / begin.elapsed().as_secs_f64());
}

async fn transport(row: &mut Row, address: SocketAddr, tls: Option<TlsConfig>) {
    let connect = Arc::new(GrpcConnect { tls });
    let peer = Arc::new(Peer::new(identity(1), node(2), address.to_string(), connect, Options::default()));
    let call = move || {
        let peer = Arc::clone(&peer);
        async move {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            let outcome = peer.exchange(message("echo", 1, 64), deadline, pending()).await;
            assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
        }
    };
    row.medians.push(one_at_a_time(call.clone()).await);
    row.rates.push(at_once(call).await);
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
#[ignore = "a measurement: run it alone, optimised"]
fn calls_beside_bare_tonic() {
    let (near, far) = (runtime(), runtime());
    let authority = Authority::new();
    let secured = || Some(authority.config("chat"));
    let mut rows: [[Row; 3]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (rows, tls) in rows.iter_mut().zip([None, secured()]) {
            let server = |service| far.block_on(Server::listen_with(loopback(), tls.clone(), service));
            let bare_server = server(Bare).expect("a free port");
            let receiver = Receiver::new(Echo, identity(2), Options::default());
            let our_server =
                far.block_on(Server::listen(loopback(), tls.clone(), false, receiver)).expect("a free port");
            let [first, second, third] = rows;
            let (bare, ours) = (bare_server.address(), our_server.address());
            near.block_on(unary(first, bare, tls.clone()));
            near.block_on(streamed(second, bare, tls.clone()));
            near.block_on(transport(third, ours, tls.clone()));
        }
    }
    println!("\n{:<28} {:>12} {:>14}", "", "one, p50", "64 at once");
    let names = ["tonic, unary", "tonic, stream both ways", "this transport"];
    let mut figures = [[(0.0, 0.0); 3]; 2];
    for (at, rows) in rows.iter_mut().enumerate() {
        for (which, row) in rows.iter_mut().enumerate() {
            let figure = (row.median(), row.rate());
            figures[at][which] = figure;
            let name = format!("{}{}", names[which], if at == 0 { "" } else { ", mTLS" });
            println!("{name:<28} {:>9.1} µs {:>12.0}/s", figure.0, figure.1);
        }
    }
    let [[unary, streamed, ours], [.., secured]] = figures;
    println!(
        "one at a time: {:.2} x unary (at most 1.5), {:.2} x stream (at most 3)",
        ours.0 / unary.0,
        ours.0 / streamed.0
    );
    println!("64 at once: {:.0}/s (at least 100,000)", ours.1);
    println!(
        "mTLS over plain: {:.2} x one at a time, {:.2} x 64 at once (at most 1.3)",
        secured.0 / ours.0,
        ours.1 / secured.1
    );
}
