//! Compiled twice by `check`: with messages of 8 bytes and, with `--cfg large`, of 128 KiB.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use gen_registry::{Aliases, Context, Registry, Reply, Worker};

const SIZE: usize = if cfg!(large) { 128 * 1024 } else { 8 };

struct Sink(u8);

type Message = ([u8; SIZE], Option<Reply<u8>>);

impl Worker for Sink {
    type Key = u32;
    type Args = ();
    type Message = Message;
    type Error = Infallible;

    async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(0))
    }

    async fn handle(&mut self, (bytes, reply): Message, _: &mut Context<Self>) -> Result<(), Infallible> {
        self.0 ^= bytes[0];
        if let Some(reply) = reply {
            reply.send(self.0);
        }
        Ok(())
    }
}

fn ask(reply: Reply<u8>) -> Message {
    ([1; SIZE], Some(reply))
}

fn tell() -> Message {
    ([2; SIZE], None)
}

async fn send(sent: &mut Vec<bool>) {
    let registry = Registry::<Sink>::builder().on_undelivered(|_, message| drop(message)).build().expect("a runtime");
    let within = Duration::from_secs(1);
    let Ok(sink) = registry.lookup_or_start(&1, ()).await else { return };
    sent.push(sink.cast(tell()).await.is_ok());
    sent.push(sink.cast_timeout(within, tell()).await.is_ok());
    sent.push(sink.try_cast(tell()).is_ok());
    sent.push(sink.call(ask).await.is_ok());
    sent.push(sink.call_timeout(within, ask).await.is_ok());
    let via = registry.via_or_start(&1, ());
    sent.push(via.cast(tell()).await.is_ok());
    sent.push(via.cast_timeout(within, tell()).await.is_ok());
    sent.push(via.try_cast(tell()).is_ok());
    sent.push(via.call(ask).await.is_ok());
    sent.push(via.call_timeout(within, ask).await.is_ok());
    let aliases = Aliases::<u32, Sink>::new();
    sent.push(aliases.cast(&1, tell()).await.is_ok());
    sent.push(aliases.call(&1, ask).await.is_ok());
}

/// Returns a `dyn Future`, so that all of it is compiled in this crate.
pub fn run(sent: &mut Vec<bool>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
    Box::pin(send(sent))
}
