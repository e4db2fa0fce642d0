//! One worker type, or six of them with the feature `six-types`: one cast and one call each. See `measure`.

use std::convert::Infallible;

use gen_registry::{Context, Registry, Reply, Worker};

macro_rules! counter {
    ($module:ident) => {
        mod $module {
            use super::*;

            struct Counter(u64);

            enum Message {
                Add(u64),
                Get(Reply<u64>),
            }

            impl Worker for Counter {
                type Key = String;
                type Args = u64;
                type Message = Message;
                type Error = Infallible;

                async fn init(first: u64, _ctx: &mut Context<Self>) -> Result<Self, Infallible> {
                    Ok(Self(first))
                }

                async fn handle(&mut self, message: Message, _ctx: &mut Context<Self>) -> Result<(), Infallible> {
                    match message {
                        Message::Add(more) => self.0 += more,
                        Message::Get(reply) => reply.send(self.0),
                    }
                    Ok(())
                }
            }

            pub(crate) async fn run() -> u64 {
                let counters = Registry::<Counter>::builder().build().expect("it runs in a runtime");
                let counter = counters.lookup_or_start("key", 1).await.expect("it starts");
                counter.cast(Message::Add(2)).await.expect("it runs");
                counter.call(Message::Get).await.expect("it replies")
            }
        }
    };
}

counter!(first);
#[cfg(feature = "six-types")]
mod further {
    use super::*;

    counter!(second);
    counter!(third);
    counter!(fourth);
    counter!(fifth);
    counter!(sixth);

    pub(crate) async fn run() -> u64 {
        second::run().await + third::run().await + fourth::run().await + fifth::run().await + sixth::run().await
    }
}

#[tokio::main]
async fn main() {
    assert_eq!(first::run().await, 3);
    #[cfg(feature = "six-types")]
    assert_eq!(further::run().await, 15);
}
