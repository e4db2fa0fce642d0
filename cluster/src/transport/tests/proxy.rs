//! A proxy between a sender and a receiver, which cuts and slows connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    Full,
    /// From the sender to the receiver one byte a second passes.
    Byte,
}

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    speed: watch::Sender<Speed>,
    /// Counts the cuts.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(super) async fn to(target: SocketAddr) -> Arc<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let proxy = Proxy { address, speed: watch::channel(Speed::Full).0, cuts: watch::channel(0).0 };
        let proxy = Arc::new(proxy);
        let weak = Arc::downgrade(&proxy);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(proxy) = weak.upgrade() else { return };
                let Ok(far) = TcpStream::connect(target).await else { continue };
                near.set_nodelay(true).expect("an open socket");
                far.set_nodelay(true).expect("an open socket");
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let (there, back) = (proxy.speed.subscribe(), watch::channel(Speed::Full).1);
                let mut cuts = proxy.cuts.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = copy(near_in, far_out, there) => {}
                        () = copy(far_in, near_out, back) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    pub(super) fn set(&self, speed: Speed) {
        self.speed.send_replace(speed);
    }

    /// Ends all connections.
    pub(super) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, speed: watch::Receiver<Speed>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let slow = *speed.borrow() == Speed::Byte;
        let most = if slow { 1 } else { buffer.len() };
        let Ok(read @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if slow {
            sleep(Duration::from_secs(1)).await;
        }
    }
}
