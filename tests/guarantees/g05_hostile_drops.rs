//! G5: an error whose `Drop` panics harms nobody, wherever the last of it is let go of: by the owner when it is told of a
//! run, by the memory of failed starts, by a worker that comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gen_registry::{Context, Registry, Restart, StartError, Worker};

use crate::rig::within;

/// An error that panics when it is dropped.
#[derive(Debug)]
struct Grenade(Arc<AtomicU32>);

impl std::fmt::Display for Grenade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a grenade")
    }
}

impl std::error::Error for Grenade {}

impl Drop for Grenade {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        if !std::thread::panicking() {
            // Like `panic!`, without a line for each of thousands.
            std::panic::resume_unwind(Box::new("in an error's drop, as told"));
        }
    }
}

#[derive(Clone)]
struct Orders {
    starts: bool,
    dropped: Arc<AtomicU32>,
}

struct Soldier(Orders);

impl Worker for Soldier {
    type Key = u32;
    type Args = Orders;
    type Message = ();
    type Error = Grenade;

    async fn init(orders: Orders, _: &mut Context<Self>) -> Result<Self, Grenade> {
        if orders.starts { Ok(Self(orders)) } else { Err(Grenade(orders.dropped)) }
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Grenade> {
        Err(Grenade(Arc::clone(&self.0.dropped)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restart_survives_panicking_error_drop() {
    const FAILURES: u64 = 2_000;
    let orders = Orders { starts: true, dropped: Arc::default() };
    let registry = Registry::<Soldier>::builder()
        .restart(Restart::Transient)
        .restart_intensity(1_000_000, Duration::from_secs(3_600))
        .restart_backoff(Duration::ZERO, Duration::ZERO)
        .build()
        .unwrap();
    let storm = async {
        while registry.stats().restarts.total() < FAILURES {
            for key in 0..16 {
                match registry.lookup_or_start(&key, orders.clone()).await {
                    // Its mailbox may be full of failures to come.
                    Ok(worker) => drop(worker.try_cast(())),
                    Err(error) => panic!("the registry is lost: {error}"),
                }
            }
            tokio::task::yield_now().await;
        }
    };
    within(storm, "restarts of workers whose errors panic when they are dropped").await;
    let report = within(registry.shutdown(), "a shutdown after that").await;
    assert_eq!((report.stuck, registry.count()), (0, 0));
    assert_eq!(registry.stats().gave_up, 0);
    assert!(u64::from(orders.dropped.load(Ordering::Relaxed)) >= FAILURES, "the errors were kept");
}

#[tokio::test(start_paused = true)]
async fn panicking_remembered_error_is_contained() {
    let dropped = Arc::<AtomicU32>::default();
    let fails = Orders { starts: false, dropped: Arc::clone(&dropped) };
    // More keys than the memory has room for, and time for it to forget.
    let registry = Registry::<Soldier>::builder().remember_failed_starts(Duration::from_millis(50)).build().unwrap();
    let bystander = registry.start(&0, Orders { starts: true, ..fails.clone() }).await.unwrap();
    for key in 1..20_000 {
        let Err(error) = within(registry.start(&key, fails.clone()), "a start that fails").await else {
            panic!("it was told to fail")
        };
        assert!(matches!(error, StartError::Init(_)), "{error:?}");
        // The caller's own copy: contained here, by the caller.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(error))).unwrap_or_default();
        if key % 1_000 == 0 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    assert!(dropped.load(Ordering::Relaxed) > 2_000, "nothing was forgotten");
    assert_eq!(registry.lookup(&0), Some(bystander));
    within(registry.start(&99_999, Orders { starts: true, ..fails }), "a start after that").await.unwrap();
}
