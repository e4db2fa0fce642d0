//! The same as `gen_registry.rs` with kameo.

use std::convert::Infallible;

use kameo::Actor;
use kameo::actor::{ActorRef, Spawn as _};
use kameo::message::{Context, Message};

macro_rules! counter {
    ($module:ident) => {
        mod $module {
            use super::*;

            struct Counter(u64);
            struct Add(u64);
            struct Get;

            impl Actor for Counter {
                type Args = u64;
                type Error = Infallible;

                async fn on_start(first: u64, _actor: ActorRef<Self>) -> Result<Self, Infallible> {
                    Ok(Self(first))
                }
            }

            impl Message<Add> for Counter {
                type Reply = ();

                async fn handle(&mut self, Add(more): Add, _ctx: &mut Context<Self, ()>) {
                    self.0 += more;
                }
            }

            impl Message<Get> for Counter {
                type Reply = u64;

                async fn handle(&mut self, Get: Get, _ctx: &mut Context<Self, u64>) -> u64 {
                    self.0
                }
            }

            pub(crate) async fn run() -> u64 {
                let counter = Counter::spawn(1);
                counter.tell(Add(2)).await.expect("it runs");
                counter.ask(Get).await.expect("it replies")
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
