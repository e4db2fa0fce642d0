//! [`Server`]: accepts connections, and limits how many there are and how slow they may be.
//!
//! `axum::serve` has neither limit: a client that opens connections and sends nothing would use all files that the
//! process may open, and no other client could connect.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use crate::timed::Timed;

/// The largest head of a request. What a connection has read and not yet handled is in memory.
const MAX_HEAD: usize = 32 << 10;
/// How long to wait if no file can be opened for a connection.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// A flood must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How many clients may be connected, and how slow they may be.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// How many connections are served at once. More wait until one closes. Each is an open file (ulimit -n)
    #[arg(long, env = "DENYLIST_MAX_CONNECTIONS", value_name = "N", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Seconds after which a connection is closed: if a request's head is not complete, if no request follows, or if a
    /// response is not read
    #[arg(long, env = "DENYLIST_CONNECTION_TIMEOUT", value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    connection_timeout: u64,
}

/// Serves HTTP/1.1 on a listener.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    router: Router,
    http: http1::Builder,
    timeout: Duration,
    /// One permit for each connection.
    places: Arc<Semaphore>,
    limit: u32,
    warned: Option<Instant>,
}

impl Server {
    pub(crate) fn new(listener: TcpListener, router: Router, args: ConnectionArgs) -> Self {
        let ConnectionArgs { max_connections: limit, connection_timeout } = args;
        let timeout = Duration::from_secs(connection_timeout);
        let mut http = http1::Builder::new();
        // The time of a head also bounds how long a connection waits for one.
        http.timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(MAX_HEAD);
        let places = Arc::new(Semaphore::new(limit as usize));
        Self { listener, router, http, timeout, places, limit, warned: None }
    }

    /// Serves until `stop` changes or its sender is dropped. Then it accepts no further connection, closes those
    /// without a request, and returns when the last request is answered.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes all connections.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<()>) {
        let shutdown = GracefulShutdown::new();
        // Dropped with this future, and so are its tasks.
        let mut connections = JoinSet::new();
        loop {
            // The place first: what is accepted is served at once, and what waits costs no file.
            let accepted = async {
                let place = self.place().await;
                (self.accept().await, place)
            };
            let (stream, place) = tokio::select! {
                biased;
                _ = stop.changed() => break,
                accepted = accepted => accepted,
            };
            let service = TowerToHyperService::new(self.router.clone());
            let io = TokioIo::new(Timed::new(stream, self.timeout));
            let connection = shutdown.watch(self.http.serve_connection(io, service));
            connections.spawn(async move {
                // An error is the client's: it sent no HTTP, closed the connection or was too slow.
                let _ = connection.await;
                drop(place);
            });
            // Those that have ended.
            while connections.try_join_next().is_some() {}
        }
        // The system refuses clients from here on, instead of letting them wait for a process that is about to exit.
        drop(self.listener);
        shutdown.shutdown().await;
    }

    async fn place(&mut self) -> OwnedSemaphorePermit {
        let places = Arc::clone(&self.places);
        if places.available_permits() == 0 && self.warned.is_none_or(|then| then.elapsed() > WARN_EVERY) {
            self.warned = Some(Instant::now());
            warn!(limit = self.limit, "the limit of connections is reached; more wait until one closes");
        }
        places.acquire_owned().await.expect("the semaphore is never closed")
    }

    async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                // The client has closed it already.
                Err(error) if is_of_client(&error) => {}
                Err(error) => {
                    error!(%error, "no connection can be accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
