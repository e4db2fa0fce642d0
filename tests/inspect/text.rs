//! The user's functions for keys and labels: they may panic, block and use the registry, and nothing else shows a key.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use gen_registry::inspect::{Column, Inspector, Query};
use gen_registry::{Registry, WeakRegistry};
use test_support::{Ask, Probe, Step, until_idle, within};

use crate::{builder, by, keys, only, started};

#[tokio::test(start_paused = true)]
async fn panicking_text_costs_one_key() {
    let inspector = Inspector::new();
    let registry = Registry::<Probe>::builder()
        .inspect(&inspector, |key| if key == "b" { panic!("a scripted panic") } else { key.clone() })
        .inspect_labels(|_| panic!("a scripted panic"))
        .build()
        .expect("valid options");
    for key in ["a", "b", "c"] {
        started(&registry, key).await;
    }
    let shown = only(&inspector);
    let page = shown.workers(&by(Column::Key));
    assert_eq!(keys(&page), ["(the text of this key panicked)", "a", "c"]);
    assert!(shown.worker(&page.workers[1].worker).expect("it runs").labels.is_empty());
    registry.lookup("b").expect("it runs").cast(Ask::Do(Step::Fail)).await.expect("it runs");
    until_idle().await;
    assert_eq!(shown.events(0)[0].key.as_deref(), Some("(the text of this key panicked)"));
    started(&registry, "d").await;
}

#[tokio::test(start_paused = true)]
async fn text_may_use_the_registry() {
    let inspector = Inspector::new();
    let weak: Arc<OnceLock<WeakRegistry<Probe>>> = Arc::default();
    let (own, depth) = (inspector.clone(), AtomicU32::new(0));
    let registry = Registry::<Probe>::builder()
        .inspect(&inspector, {
            let weak = Arc::clone(&weak);
            move |key| {
                let registry = weak.get().and_then(WeakRegistry::upgrade).expect("the test holds it");
                let is_found = registry.lookup(key).is_some();
                if depth.fetch_add(1, Ordering::Relaxed) == 0 {
                    // The same order, from within.
                    let page = own.registries()[0].workers(&by(Column::Key));
                    assert_eq!(page.matched, 2);
                }
                format!("{key} {is_found} {}", registry.count())
            }
        })
        .build()
        .expect("valid options");
    assert!(weak.set(registry.downgrade()).is_ok());
    started(&registry, "a").await;
    started(&registry, "b").await;
    assert_eq!(keys(&only(&inspector).workers(&by(Column::Key))), ["a true 2", "b true 2"]);
}

#[tokio::test]
async fn blocking_text_blocks_its_reader() {
    let inspector = Inspector::new();
    let (entered, is_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let registry = Registry::<Probe>::builder()
        .inspect(&inspector, move |key| {
            if key == "blocks" {
                let _ = entered.send(());
                // Until the test drops the sender.
                let _ = released.lock().expect("it does not panic").recv();
            }
            key.clone()
        })
        .build()
        .expect("valid options");
    started(&registry, "blocks").await;
    let shown = only(&inspector);
    let reader = std::thread::spawn({
        let shown = shown.clone();
        move || keys(&shown.workers(&by(Column::Key))).len()
    });
    is_entered.recv_timeout(Duration::from_secs(60)).expect("the reader asks for the text");
    // Meanwhile workers start, work and stop, and other readers read what needs no text of this key.
    let other = started(&registry, "other").await;
    within(other.call(Ask::Value), "the value").await.expect("it runs");
    within(registry.stop("other"), "the stop").await.expect("it stops");
    within(registry.stop("blocks"), "the stop").await.expect("it stops");
    assert_eq!(shown.stats().exits.stopped, 2);
    drop(release);
    assert_eq!(reader.join().expect("no panic"), 0, "the worker has ended");
}

#[tokio::test(start_paused = true)]
async fn debug_output_has_no_key() {
    const SECRET: &str = "+12025550123";
    let inspector = Inspector::new();
    let registry = builder(&inspector).name("debug_output_has_no_key").build().expect("valid options");
    let worker = started(&registry, SECRET).await;
    worker.cast(Ask::Do(Step::Fail)).await.expect("it runs");
    within(worker.closed(), "its exit").await;
    let worker = started(&registry, SECRET).await;
    let shown = only(&inspector);
    let page = shown.workers(&Query::default());
    assert_eq!(keys(&page), [SECRET]);
    let one = shown.worker(&page.workers[0].worker);
    let (events, info) = (shown.events(0), worker.info());
    let printed = format!("{inspector:?} {shown:?} {page:?} {one:?} {events:?} {info:?} {:?}", shown.options());
    assert!(printed.contains("Failed(Scripted)"), "it prints the rest: {printed}");
    assert!(!printed.contains("2025550123"), "{printed}");
}
