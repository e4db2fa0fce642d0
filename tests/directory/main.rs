//! `Aliases` and `Groups`: workers by name and by group.

mod aliases;
mod await_registration;
mod directory_storm;
mod groups;

use gen_registry::{Registry, WorkerHandle};
use test_support::{Ask, Probe, Step, within};

/// The ways in which a worker ends, for [`end`].
const ENDINGS: [&str; 7] = ["stop", "kill", "fail", "panic", "stop itself", "shutdown", "drop of the registry"];

/// Ends the only worker of a registry, and waits for its exit.
async fn end(ending: &str, registry: Registry<Probe>, worker: &WorkerHandle<Probe>) {
    match ending {
        "stop" => drop(within(worker.stop(), ending).await.unwrap()),
        "kill" => drop(within(worker.kill(), ending).await.unwrap()),
        "fail" => worker.cast(Ask::Do(Step::Fail)).await.unwrap(),
        "panic" => worker.cast(Ask::Do(Step::Panic)).await.unwrap(),
        "stop itself" => worker.cast(Ask::Stop).await.unwrap(),
        "shutdown" => assert_eq!(within(registry.shutdown(), ending).await.drained, 1),
        _ => drop(registry),
    }
    within(worker.closed(), ending).await;
}
