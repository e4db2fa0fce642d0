use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use super::*;
use crate::registry::Registry;
use crate::worker::test_worker::TestWorker;

#[tokio::test]
async fn dropped_wait_leaves_nothing_in_the_worker() {
    let registry = Registry::<TestWorker>::new();
    let worker = registry.start(&1, ()).await.expect("nothing is in its way");
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        {
            let mut run_ended = pin!(worker.run_ended());
            let mut stopping = pin!(worker.cell.stopping().expect("nothing has asked it to end"));
            assert!(run_ended.as_mut().poll(&mut cx).is_pending() && stopping.as_mut().poll(&mut cx).is_pending());
            assert!(lock(&worker.cell.exit_state).watchers().is_some());
        }
        assert!(lock(&worker.cell.exit_state).watchers().is_none());
    }
    worker.stop().await.expect("it ends");
    assert!(worker.cell.stopping().is_none());
}

struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("a waker of another executor");
    }
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn panicking_waker_keeps_no_other_waiter() {
    let registry = Registry::<TestWorker>::new();
    let worker = registry.start(&1, ()).await.expect("nothing is in its way");
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let mut waiters = Vec::new();
    for waker in [Waker::from(Arc::new(Bomb)), Waker::from(Arc::clone(&count))] {
        let mut stopping = Box::pin(worker.cell.stopping().expect("nothing has asked it to end"));
        assert!(stopping.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        waiters.push(stopping);
    }
    assert!(worker.cell.notify_stopping() && !worker.cell.notify_stopping());
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn worker_that_was_left_is_counted_once() {
    let registry = Registry::<TestWorker>::new();
    let worker = registry.start(&1, ()).await.expect("nothing is in its way");
    assert!(!worker.cell.take_left());
    worker.cell.leave();
    assert!(worker.cell.take_left() && !worker.cell.take_left());
    assert!(worker.cell.is_reported_run(), "another flag was changed");
}

#[tokio::test]
async fn wait_for_an_open_gate_is_over_at_once() {
    let registry = Registry::<TestWorker>::new();
    let worker = registry.start(&1, ()).await.expect("nothing is in its way");
    assert!(pin!(worker.cell.started()).poll(&mut Context::from_waker(Waker::noop())).is_ready());
}
