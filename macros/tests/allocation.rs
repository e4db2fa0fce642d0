//! A call and a cast through the client allocate as often as those through the enum. The allocator of this binary counts
//! per thread.

use std::convert::Infallible;

use allocation_counter::measure;
use gen_registry::{Context, Registry, Reply, Worker, WorkerHandle, worker};
use tokio::runtime::{Builder, Runtime};

/// From methods.
struct Made(u64);

#[worker(key = u32)]
impl Made {
    fn init() -> Self {
        Made(0)
    }

    #[cast]
    fn add(&mut self, n: u64) {
        self.0 += n;
    }

    #[call]
    async fn scaled(&mut self, factor: u64) -> u64 {
        self.0 * factor
    }
}

/// The same by hand.
struct Written(u64);

enum Message {
    Add { n: u64 },
    Scaled { factor: u64, reply: Reply<u64> },
}

impl Worker for Written {
    type Key = u32;
    type Args = ();
    type Message = Message;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Written(0))
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Add { n } => self.0 += n,
            Message::Scaled { factor, reply } => reply.send(self.0 * factor),
        }
        Ok(())
    }
}

fn start<W: Worker<Key = u32, Args = ()>>(runtime: &Runtime) -> (WorkerHandle<W>, Registry<W>) {
    runtime.block_on(async {
        let registry = Registry::<W>::new();
        (registry.start(&1, ()).await.expect("init cannot fail"), registry)
    })
}

/// The allocations of a thousand rounds of this, after one round that is not counted.
fn allocations(runtime: &Runtime, round: impl AsyncFn()) -> u64 {
    runtime.block_on(round());
    let measured = measure(|| {
        runtime.block_on(async {
            for _ in 0..1_000 {
                round().await;
            }
        });
    });
    measured.count_total
}

#[test]
fn client_allocates_as_often_as_code_by_hand() {
    // Caller and worker run on this thread, whose allocations are counted.
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (made, _made) = start::<Made>(&runtime);
    let (written, _written) = start::<Written>(&runtime);

    let by_client = allocations(&runtime, async || {
        made.add(1).await.expect("it runs");
        made.scaled(2).await.expect("it replies");
    });
    let by_hand = allocations(&runtime, async || {
        written.cast(Message::Add { n: 1 }).await.expect("it runs");
        written.call(|reply| Message::Scaled { factor: 2, reply }).await.expect("it replies");
    });
    // One for the reply of each call, at least: otherwise nothing was counted.
    assert!(by_hand >= 1_000, "{by_hand}");
    assert_eq!(by_client, by_hand);
}

#[test]
fn message_is_as_large_as_by_hand() {
    assert_eq!(size_of::<MadeMessage>(), size_of::<Message>());
}
