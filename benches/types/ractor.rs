//! The same as `gen_registry.rs` with ractor.

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

macro_rules! counter {
    ($module:ident) => {
        mod $module {
            use super::*;

            struct Counter;

            enum Message {
                Add(u64),
                Get(RpcReplyPort<u64>),
            }

            impl Actor for Counter {
                type Msg = Message;
                type State = u64;
                type Arguments = u64;

                async fn pre_start(&self, _actor: ActorRef<Message>, first: u64) -> Result<u64, ActorProcessingErr> {
                    Ok(first)
                }

                async fn handle(
                    &self,
                    _actor: ActorRef<Message>,
                    message: Message,
                    count: &mut u64,
                ) -> Result<(), ActorProcessingErr> {
                    match message {
                        Message::Add(more) => *count += more,
                        Message::Get(reply) => reply.send(*count)?,
                    }
                    Ok(())
                }
            }

            pub(crate) async fn run() -> u64 {
                let (counter, _task) = Counter::spawn(None, Counter, 1).await.expect("it starts");
                counter.cast(Message::Add(2)).expect("it runs");
                counter.call(Message::Get, None).await.expect("it runs").expect("it replies")
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
