//! What inspection costs: memory for each worker, and the time of a page of a million workers.

use std::time::{Duration, Instant};

use allocation_counter::measure;
use gen_registry::Registry;
use gen_registry::inspect::{Column, Inspector, Query};
use test_support::{Idle, within};

use crate::only;

/// The bytes of one more worker.
fn bytes_of_one(inspector: Option<&Inspector>) -> i64 {
    // A multiple of what is allocated at once for records, so that the measured workers pay for theirs.
    const WORKERS: u64 = 4_096;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let registry = runtime.block_on(async {
        let builder = Registry::<Idle<u64>>::builder();
        let builder = match inspector {
            Some(inspector) => builder.inspect(inspector, u64::to_string),
            None => builder,
        };
        builder.build().expect("valid options")
    });
    let start = |keys: std::ops::Range<u64>| {
        runtime.block_on(async {
            for key in keys {
                let worker = within(registry.start(&key, ()), "a start").await.expect("the start succeeds");
                // The first message makes the worker's mailbox.
                within(worker.cast(()), "a cast").await.expect("it runs");
            }
            until_idle_here().await;
        });
    };
    start(0..WORKERS);
    let grown = measure(|| start(WORKERS..WORKERS + 2_048));
    grown.bytes_current / 2_048
}

/// Lets the workers handle their messages.
async fn until_idle_here() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn inspected_worker_takes_128_bytes_more() {
    let inspector = Inspector::new();
    let (without, with) = (bytes_of_one(None), bytes_of_one(Some(&inspector)));
    println!("{without} bytes a worker, {with} inspected");
    assert!((1..=128).contains(&(with - without)), "{without} bytes a worker, {with} inspected");
}

/// Run it with `--release`, alone: `cargo test --release --test inspect costs:: -- --ignored --nocapture`.
#[test]
#[ignore = "takes a gigabyte and half a minute; prints figures"]
fn page_of_a_million_takes_20_ms() {
    const WORKERS: u64 = 1_000_000;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    let inspector = Inspector::new();
    let registry = runtime.block_on(async {
        let registry =
            Registry::<Idle<u64>>::builder().inspect(&inspector, u64::to_string).build().expect("valid options");
        for key in 0..WORKERS {
            registry.start(&key, ()).await.expect("the start succeeds");
        }
        registry
    });
    let shown = only(&inspector);
    for sort in Column::ALL {
        print_pages(&format!("by {sort}"), || {
            let page = shown.workers(&Query { sort, descending: true, limit: 100, ..Query::default() });
            (page.is_complete, page.workers.len())
        });
    }
    print_pages("filter 99999", || {
        let page = shown.workers(&Query { filter: "99999".to_owned(), limit: 100, ..Query::default() });
        (page.is_complete, page.workers.len())
    });
    print_pages("events", || (!shown.events(0).is_empty(), 1));
    let _report = runtime.block_on(async { within(registry.shutdown(), "the shutdown").await });
}

/// Run it with `--release`, alone, as the one above.
#[test]
#[ignore = "prints figures"]
fn messages_of_an_inspected_worker() {
    let inspector = Inspector::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let start = |inspected: bool| {
        runtime.block_on(async {
            let builder = Registry::<Idle<u64>>::builder().mailbox_capacity(MESSAGES as usize);
            let builder = if inspected { builder.inspect(&inspector, u64::to_string) } else { builder };
            let registry = builder.build().expect("valid options");
            let worker = within(registry.start(&1, ()), "a start").await.expect("the start succeeds");
            (registry, worker)
        })
    };
    let (plain, inspected) = (start(false), start(true));
    // One message after the other, each to a worker at rest; and many at once.
    for (what, at_once) in [("to a worker at rest", 1), ("in a row", MESSAGES)] {
        // In turns, and summed up: the processor time of a thread is known to some milliseconds.
        let (mut all, mut all_inspected) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..ROUNDS {
            all += runtime.block_on(handled(&plain.1, at_once));
            all_inspected += runtime.block_on(handled(&inspected.1, at_once));
        }
        let each = |all: Duration| all / (ROUNDS * MESSAGES);
        println!("a message {what}: {:?}, inspected {:?}", each(all), each(all_inspected));
    }
}

const MESSAGES: u32 = 10_000;
const ROUNDS: u32 = 100;

/// The processor time of [`MESSAGES`] messages.
async fn handled(worker: &gen_registry::WorkerHandle<Idle<u64>>, at_once: u32) -> Duration {
    let used = processor_time();
    for _ in 0..MESSAGES / at_once {
        for _ in 0..at_once {
            worker.try_cast(()).expect("there is room");
        }
        while worker.info().queued > 0 {
            tokio::task::yield_now().await;
        }
    }
    processor_time().saturating_sub(used)
}

/// Reads a page until it is complete, and prints what one read took.
fn print_pages(what: &str, mut read: impl FnMut() -> (bool, usize)) {
    let (mut longest, mut all, mut reads) = (Duration::ZERO, Duration::ZERO, 0_u32);
    for _ in 0..200 {
        let (began, used) = (Instant::now(), processor_time());
        let (is_complete, shown) = read();
        let took = processor_time().saturating_sub(used).min(began.elapsed());
        assert!(shown > 0 || !is_complete);
        (longest, all, reads) = (longest.max(took), all + took, reads + 1);
        if is_complete {
            break;
        }
    }
    println!("{what:16} complete after {reads:3} reads, {:6.1?} each, {longest:6.1?} the longest", all / reads);
    assert!(longest < Duration::from_millis(20), "{what}: {longest:?}");
}

/// The processor time of this thread.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs is mounted");
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}

#[cfg(not(target_os = "linux"))]
fn processor_time() -> Duration {
    Duration::MAX
}
