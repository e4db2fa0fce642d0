//! G5: an error whose `Drop` panics is contained wherever its last reference is dropped: by the owner when a run ends,
//! by the record of failed starts, and by a worker that restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gen_registry::{Context, Registry, Restart, StartError, Worker};

use crate::rig::within;

/// An error that panics when dropped.
#[derive(Debug)]
struct PanickingError(Arc<AtomicU32>);

impl std::fmt::Display for PanickingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a grenade")
    }
}

impl std::error::Error for PanickingError {}

impl Drop for PanickingError {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        if !std::thread::panicking() {
            // Like `panic!`, but prints nothing.
            std::panic::resume_unwind(Box::new("scripted panic in an error's drop"));
        }
    }
}

#[derive(Clone)]
struct Args {
    starts: bool,
    dropped: Arc<AtomicU32>,
}

struct Subject(Args);

impl Worker for Subject {
    type Key = u32;
    type Args = Args;
    type Message = ();
    type Error = PanickingError;

    async fn init(orders: Args, _: &mut Context<Self>) -> Result<Self, PanickingError> {
        if orders.starts { Ok(Self(orders)) } else { Err(PanickingError(orders.dropped)) }
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), PanickingError> {
        Err(PanickingError(Arc::clone(&self.0.dropped)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restart_survives_panicking_error_drop() {
    const FAILURES: u64 = 2_000;
    let orders = Args { starts: true, dropped: Arc::default() };
    let registry = Registry::<Subject>::builder()
        .restart(Restart::Transient)
        .restart_intensity(1_000_000, Duration::from_secs(3_600))
        .restart_backoff(Duration::ZERO, Duration::ZERO)
        .build()
        .unwrap();
    let storm = async {
        while registry.stats().restarts.total() < FAILURES {
            for key in 0..16 {
                match registry.lookup_or_start(&key, orders.clone()).await {
                    // The mailbox may be full of failing messages.
                    Ok(worker) => drop(worker.try_cast(())),
                    Err(error) => panic!("the registry no longer starts workers: {error}"),
                }
            }
            tokio::task::yield_now().await;
        }
    };
    within(storm, "restarts of workers whose errors panic in `Drop`").await;
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.stuck, registry.count()), (0, 0));
    assert_eq!(registry.stats().gave_up, 0);
    assert!(u64::from(orders.dropped.load(Ordering::Relaxed)) >= FAILURES, "the errors were kept");
}

#[tokio::test(start_paused = true)]
async fn panicking_remembered_error_is_contained() {
    let dropped = Arc::<AtomicU32>::default();
    let fails = Args { starts: false, dropped: Arc::clone(&dropped) };
    // More keys than are remembered, and a memory that expires.
    let registry = Registry::<Subject>::builder().remember_failed_starts(Duration::from_millis(50)).build().unwrap();
    let bystander = registry.start(&0, Args { starts: true, ..fails.clone() }).await.unwrap();
    for key in 1..20_000 {
        let Err(error) = within(registry.start(&key, fails.clone()), "a failing start").await else {
            panic!("the start succeeded")
        };
        assert!(matches!(error, StartError::Init(_)), "{error:?}");
        // The caller's own copy panics here.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(error))).unwrap_or_default();
        if key % 1_000 == 0 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    assert!(dropped.load(Ordering::Relaxed) > 2_000, "nothing was forgotten");
    assert_eq!(registry.lookup(&0), Some(bystander));
    within(registry.start(&99_999, Args { starts: true, ..fails }), "the next start").await.unwrap();
}
