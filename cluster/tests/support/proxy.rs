//! A TCP proxy that breaks connections: it swallows, delays, holds and resets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    #[default]
    Pass,
    /// They are read and lost. The other side sees a connection on which nothing comes.
    Swallow,
    /// They are passed this much later, each piece after the one before it.
    Delay(Duration),
    /// Nothing is read any more: the sender's window fills up. What was read waits for another flow.
    Hold,
    /// One byte a second is read and passed.
    Trickle,
}

/// A proxy before one server. It ends when it is dropped, and resets its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug)]
struct Control {
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    /// A new number resets all connections.
    resets: watch::Sender<usize>,
    refuses: watch::Sender<bool>,
    /// After this many bytes to the client a connection is reset.
    most_bytes: AtomicUsize,
    accepted: AtomicUsize,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.reset();
    }
}

impl Proxy {
    /// A proxy on a free port of the loopback interface.
    pub async fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let control = Arc::new(Control {
            to_server: watch::Sender::default(),
            to_client: watch::Sender::default(),
            resets: watch::Sender::default(),
            refuses: watch::Sender::default(),
            most_bytes: AtomicUsize::new(usize::MAX),
            accepted: AtomicUsize::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, server, control.clone()));
        Proxy { address, control, acceptor }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections that were accepted.
    pub fn accepted(&self) -> usize {
        self.control.accepted.load(Ordering::Relaxed)
    }

    pub fn to_server(&self, flow: Flow) {
        self.control.to_server.send_replace(flow);
    }

    pub fn to_client(&self, flow: Flow) {
        self.control.to_client.send_replace(flow);
    }

    /// Both directions at once.
    pub fn both(&self, flow: Flow) {
        self.to_server(flow);
        self.to_client(flow);
    }

    /// Resets all connections. New ones are accepted.
    pub fn reset(&self) {
        self.control.resets.send_modify(|number| *number += 1);
    }

    /// Whether new connections are reset at once.
    pub fn refuse(&self, refuses: bool) {
        self.control.refuses.send_replace(refuses);
    }

    /// Resets each connection, present and new, when it has passed this many bytes to its client.
    pub fn reset_after(&self, bytes: usize) {
        self.control.most_bytes.store(bytes, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        control.accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connection(client, server, control.clone()));
    }
}

async fn connection(client: TcpStream, server: SocketAddr, control: Arc<Control>) {
    let mut resets = control.resets.subscribe();
    // Dropped with this option, a connection is reset.
    client.set_zero_linger().expect("the option exists");
    if *control.refuses.borrow() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("the option exists");
    }
    server.set_zero_linger().expect("the option exists");
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let passed = AtomicUsize::new(0);
    let there = pump(from_client, to_server, control.to_server.subscribe(), || false);
    let back = pump(from_server, to_client, control.to_client.subscribe(), || {
        passed.fetch_add(1, Ordering::Relaxed) + 1 >= control.most_bytes.load(Ordering::Relaxed)
    });
    tokio::select! {
        _ = there => {}
        _ = back => {}
        _ = resets.changed() => {}
    }
}

/// Ends when one side ends, or after the byte for which `is_last` is true.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
    is_last: impl Fn() -> bool,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let _ = flow.wait_for(|flow| *flow != Flow::Hold).await;
        let most = if *flow.borrow() == Flow::Trickle { 1 } else { buffer.len() };
        let length = match from.read(&mut buffer[..most]).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let _ = flow.wait_for(|flow| *flow != Flow::Hold).await;
        let present = *flow.borrow();
        match present {
            Flow::Swallow => continue,
            Flow::Delay(by) => tokio::time::sleep(by).await,
            Flow::Trickle => {
                // Until the second is over, or the flow is another.
                let _ =
                    tokio::time::timeout(Duration::from_secs(1), flow.wait_for(|flow| *flow != Flow::Trickle)).await;
            }
            Flow::Pass | Flow::Hold => {}
        }
        let last = (0..length).find(|_| is_last());
        if to.write_all(&buffer[..last.map_or(length, |last| last + 1)]).await.is_err() || last.is_some() {
            return;
        }
    }
}
