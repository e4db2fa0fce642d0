//! Takes one of the three walks of ARCHITECTURE.md this many times. See `count`.

use std::convert::Infallible;

use gen_registry::{Context, Registry, Restart, Worker};
use tokio::sync::Notify;

/// The set-up is the same for every number of walks: this number of workers or messages.
const WORKERS: usize = 12;

/// The last message of a worker was handled.
static DONE: Notify = Notify::const_new();

struct Counter(usize);

impl Worker for Counter {
    type Key = String;
    type Args = usize;
    type Message = usize;
    type Error = Infallible;

    async fn init(crashes: usize, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Counter(crashes))
    }

    async fn handle(&mut self, message: usize, _: &mut Context<Self>) -> Result<(), Infallible> {
        // The messages before this number panic.
        assert!(message >= self.0);
        if message + 1 == WORKERS {
            DONE.notify_one();
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    std::panic::set_hook(Box::new(|_| ()));
    let args: Vec<String> = std::env::args().collect();
    let (walk, number) = (args[1].as_str(), args[2].parse().expect("a number of walks"));
    match walk {
        "start" => {
            let registry = Registry::<Counter>::new();
            for n in 0..number {
                registry.lookup_or_start(n.to_string().as_str(), 0).await.expect("it starts");
            }
        }
        "crash" => {
            let builder = Registry::<Counter>::builder().restart(Restart::Permanent);
            let builder = builder.restart_intensity(WORKERS, std::time::Duration::from_secs(5));
            let registry = builder.build().expect("the options are valid");
            let worker = registry.lookup_or_start("0", number).await.expect("it starts");
            for message in 0..WORKERS {
                worker.cast(message).await.expect("it has room");
            }
            DONE.notified().await;
        }
        "stop" => {
            let registry = Registry::<Counter>::new();
            for n in 0..WORKERS {
                registry.lookup_or_start(n.to_string().as_str(), 0).await.expect("it starts");
            }
            for n in 0..number {
                registry.stop(n.to_string().as_str()).await.expect("it runs");
            }
        }
        other => panic!("no such walk: {other}"),
    }
    // What ends the registry is no part of a walk.
    std::process::exit(0);
}
