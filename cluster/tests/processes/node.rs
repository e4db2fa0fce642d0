//! A node process. It prints what happens to it, and leaves when it is asked to.

use std::io::BufRead;

use gen_registry_cluster::engine::Etcd;
use gen_registry_cluster::{Cluster, ClusterEvent, Fence};
use tokio::sync::mpsc;

use crate::bed::{SHARDS, settle, timing};
use crate::messages::{Add, Block, Counter, KIND};
use crate::storage::Storage;

/// `engine,engine;listen;advertise;storage`.
pub(crate) fn run(options: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("a runtime").block_on(node(options));
    // Without the report of the test harness, which nothing reads.
    std::process::exit(0);
}

async fn node(options: &str) {
    let mut options = options.split(';');
    let mut option = || options.next().expect("an option of the node");
    let (engine, listen, advertise, storage) = (option(), option(), option(), option());
    let storage = Storage::connect(storage);
    let cluster = Cluster::builder("chat")
        .engine(Etcd::new(engine.split(',')))
        .listen(listen.parse().expect("an address"))
        .advertise(advertise)
        .shards(SHARDS)
        .settle(settle())
        .timing(timing())
        .join()
        .await
        .expect("the node joins");
    let counters = cluster
        .host::<Counter>(KIND, move |_, fence: Fence| (storage.clone(), fence))
        .call::<Add>()
        .call::<Block>()
        .start()
        .expect("the kind is hosted once");
    println!("@ up {}", cluster.id());
    let mut events = cluster.subscribe();
    let mut commands = commands();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(ClusterEvent::Fenced { late }) => println!("@ fenced {}", late.as_micros()),
                Some(ClusterEvent::Rejoined(id)) => println!("@ rejoined {id}"),
                Some(_) => {}
                None => return println!("@ ended"),
            },
            command = commands.recv() => match command.as_deref() {
                Some("leave") => {
                    let report = cluster.leave().await;
                    return println!("@ left {} {} {}", report.moved, report.stuck, report.unanswered);
                }
                Some("health") => {
                    let health = cluster.health();
                    println!("@ health {} {} {}", health.is_ok(), health.shards.here, counters.here().count());
                }
                // The test has ended.
                _ => return,
            },
        }
    }
}

/// The lines of the standard input. A thread reads them: it ends with the process.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
