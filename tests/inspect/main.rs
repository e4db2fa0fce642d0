//! What a program sees of its workers: `WorkerHandle::info`, and registries that are open to inspection.

mod actions;
mod costs;
mod events;
mod info;
mod pages;
mod storm;
mod text;

use std::sync::Arc;

use gen_registry::inspect::{Column, Inspect, Inspector, Page, Query};
use gen_registry::{Builder, Registry, WorkerHandle};
use test_support::{Plan, Probe, within};

/// A builder of an inspected registry, whose keys are shown as they are.
fn builder(inspector: &Inspector) -> Builder<Probe> {
    Registry::<Probe>::builder().inspect(inspector, String::clone)
}

/// The only registry of this inspector.
fn only(inspector: &Inspector) -> Arc<dyn Inspect> {
    let mut registries = inspector.registries();
    assert_eq!(registries.len(), 1, "one registry is inspected");
    registries.remove(0)
}

async fn started(registry: &Registry<Probe>, key: &str) -> WorkerHandle<Probe> {
    within(registry.start(key, Plan::default()), "a start").await.expect("the start succeeds")
}

fn by(sort: Column) -> Query {
    Query { sort, ..Query::default() }
}

fn keys(page: &Page) -> Vec<&str> {
    page.workers.iter().map(|worker| &*worker.key).collect()
}
