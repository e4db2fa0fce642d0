//! A transport inside one process, for tests under paused time: frames pass from stream to stream without a socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;

use crate::transport::frame::{Broken, Frame};
use crate::transport::peer::Outgoing;
use crate::transport::receiver::Accept;
use crate::transport::{Connect, Incoming};

/// The state of the way from one address to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Way {
    #[default]
    Open,
    /// Frames stay where they are, and the ends do not notice.
    Held,
    /// Streams end, and none opens.
    Cut,
}

type Ways = HashMap<(String, String), watch::Sender<Way>>;

/// The addresses of one process, and the ways between them.
#[derive(Default)]
pub(crate) struct LocalNetwork {
    nodes: Mutex<HashMap<String, Arc<dyn Accept>>>,
    ways: Mutex<Ways>,
}

impl LocalNetwork {
    pub(crate) fn new() -> Arc<LocalNetwork> {
        Arc::default()
    }

    /// Streams to `address` arrive at `accept`.
    pub(crate) fn listen(&self, address: &str, accept: Arc<dyn Accept>) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(address.to_owned(), accept);
    }

    /// No stream to `address` opens any more.
    pub(crate) fn unlisten(&self, address: &str) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }

    /// Sets the way of the streams that `from` opens to `to`.
    pub(crate) fn set(&self, from: &str, to: &str, way: Way) {
        self.way(from, to, |sender| {
            sender.send_replace(way);
        });
    }

    fn way<T>(&self, from: &str, to: &str, with: impl FnOnce(&watch::Sender<Way>) -> T) -> T {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        with(ways.entry((from.to_owned(), to.to_owned())).or_insert_with(|| watch::channel(Way::Open).0))
    }

    /// What opens streams from the address `from`.
    pub(crate) fn connector(self: &Arc<Self>, from: &str) -> Arc<dyn Connect> {
        Arc::new(LocalConnect { network: Arc::clone(self), from: from.to_owned() })
    }
}

struct LocalConnect {
    network: Arc<LocalNetwork>,
    from: String,
}

impl Connect for LocalConnect {
    fn connect(&self, address: &str, outgoing: Outgoing) -> BoxFuture<'static, Result<Incoming, Broken>> {
        let mut way = self.network.way(&self.from, address, watch::Sender::subscribe);
        let accept = self.network.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        Box::pin(async move {
            // The sender is in the network, and the network in the connector.
            let _ = way.wait_for(|way| *way != Way::Held).await;
            if *way.borrow() == Way::Cut {
                return Err(Broken::new("the way is cut"));
            }
            let accept = accept.ok_or_else(|| Broken::new("nothing listens there"))?;
            let answers = accept.accept(on_way(outgoing, way.clone()), Ok(()));
            Ok(on_way(answers, way))
        })
    }
}

/// The frames of `inner`, as long as the way is open.
fn on_way(inner: impl Stream<Item = Frame> + Send + Unpin + 'static, way: watch::Receiver<Way>) -> Incoming {
    Box::pin(stream::unfold(Some((inner, way)), async |state| {
        let (mut inner, mut way) = state?;
        loop {
            let now = *way.borrow_and_update();
            tokio::select! {
                biased;
                changed = way.changed() => if changed.is_err() {
                    return Some((Err(cut()), None));
                },
                () = std::future::ready(()), if now == Way::Cut => return Some((Err(cut()), None)),
                frame = inner.next(), if now == Way::Open => {
                    let frame = frame?;
                    return Some((Ok(frame), Some((inner, way))));
                }
            }
        }
    }))
}

fn cut() -> Broken {
    Broken::new("the way was cut")
}
