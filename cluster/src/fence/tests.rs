//! With a clock that the tests drive.

use std::future::Future;
use std::pin::pin;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::clock::{Clock, ClockDriver};
use crate::fence::thread::{Alarm, FenceThread, Guard};
use crate::fence::{Fence, FencePolicy, Validity};
use crate::id::{Epoch, Revision, Shard};

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

fn epoch(revision: u64) -> Epoch {
    Epoch::new(0, Revision(revision))
}

/// A validity of one second, with shards 0 and 1 open.
fn valid() -> (Clock, ClockDriver, Arc<Validity>, [Fence; 2]) {
    let (clock, driver) = Clock::driven();
    let validity = Validity::new(clock.clone(), 4);
    assert!(validity.extend(clock.now() + SECOND));
    let fences = [validity.open(Shard(0), epoch(7)), validity.open(Shard(1), epoch(8))];
    (clock, driver, validity, fences.map(|fence| fence.expect("the validity holds")))
}

type Guarded = Guard<Box<dyn FnMut(Alarm)>>;

fn guard(clock: &Clock, validity: &Arc<Validity>) -> (Guarded, Receiver<Alarm>, impl Drop) {
    let (alarms, alarmed) = channel();
    let watched = Arc::new(Mutex::new(Some(validity.clone())));
    let alarm = Box::new(move |alarm| alarms.send(alarm).expect("the test listens"));
    let guard = Guard::new(Arc::downgrade(&watched), clock.clone(), SECOND, FencePolicy::Report, alarm as _);
    struct Keep<T>(#[allow(dead_code, reason = "kept alive")] T);
    impl<T> Drop for Keep<T> {
        fn drop(&mut self) {}
    }
    (guard, alarmed, Keep(watched))
}

fn is_ready(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn fence_holds_until_the_deadline() {
    let (clock, driver, validity, [fence, _]) = valid();
    driver.advance(SECOND - NANOSECOND);
    assert!(fence.holds());
    assert_eq!((fence.valid_for(), validity.route(Shard(0))), (NANOSECOND, Some(epoch(7))));
    assert!(validity.extend(clock.now() + SECOND));
    driver.advance(SECOND - NANOSECOND);
    assert!(fence.holds());
    driver.advance(NANOSECOND);
    assert!(!fence.holds());
    assert_eq!((fence.valid_for(), validity.route(Shard(0))), (Duration::ZERO, None));
}

#[test]
fn passed_deadline_is_never_moved() {
    let (clock, driver, validity, [fence, _]) = valid();
    driver.advance(SECOND);
    assert!(!validity.extend(clock.now() + SECOND));
    assert!(!fence.holds());
}

#[test]
fn deadline_never_moves_back() {
    let (clock, _driver, validity, [fence, _]) = valid();
    assert!(validity.extend(clock.now()));
    assert_eq!(fence.valid_for(), SECOND);
}

#[test]
fn nothing_is_valid_before_the_first_deadline() {
    let (clock, _driver) = Clock::driven();
    let validity = Validity::new(clock.clone(), 1);
    let fence = validity.open(Shard(0), epoch(7)).expect("it is not revoked");
    assert!(!fence.holds());
    assert_eq!(validity.route(Shard(0)), None);
    assert!(validity.extend(clock.now() + SECOND));
    assert!(fence.holds());
    assert_eq!(validity.route(Shard(0)), Some(epoch(7)));
    assert_eq!(validity.route(Shard(9)), None, "the cluster has no such shard");
}

#[test]
fn draining_shard_is_held_and_not_routed_to() {
    let (_clock, _driver, validity, [fence, other]) = valid();
    validity.drain(Shard(0), epoch(6));
    assert_eq!(validity.route(Shard(0)), Some(epoch(7)), "the drain was of another epoch");
    validity.drain(Shard(0), epoch(7));
    assert_eq!((validity.route(Shard(0)), fence.holds()), (None, true));
    let again = validity.open(Shard(0), epoch(7)).expect("the validity holds");
    assert_eq!((validity.route(Shard(0)), again.holds(), fence.holds()), (Some(epoch(7)), true, true));
    validity.release(Shard(0), epoch(6));
    assert!(fence.holds(), "the release was of another epoch");
    validity.release(Shard(0), epoch(7));
    assert_eq!((validity.route(Shard(0)), fence.holds(), again.holds(), other.holds()), (None, false, false, true));
}

#[test]
fn later_epoch_ends_the_fence_of_an_earlier_one() {
    let (_clock, _driver, validity, [fence, _]) = valid();
    let later = validity.open(Shard(0), epoch(9)).expect("the validity holds");
    assert!(!fence.holds() && later.holds());
    assert!(fence.token() < later.token());
    let (first, second) = (fence.for_next_start(), fence.for_next_start());
    // The later worker was requested first.
    assert!(second.token() < first.token() && first.clone().token() == first.token());
}

#[test]
fn lost_is_ready_after_a_release_only() {
    let (_clock, _driver, validity, [fence, other]) = valid();
    let mut lost = Box::pin(fence.lost());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(lost.as_mut().poll(&mut cx).is_pending());
    validity.drain(Shard(0), epoch(7));
    assert!(lost.as_mut().poll(&mut cx).is_pending());
    validity.release(Shard(0), epoch(7));
    assert!(lost.as_mut().poll(&mut cx).is_ready());
    assert!(is_ready(fence.lost()) && !is_ready(other.lost()));
    validity.revoke();
    assert!(is_ready(other.lost()));
}

#[test]
fn revoked_validity_opens_nothing() {
    let (clock, _driver, validity, [fence, other]) = valid();
    assert!(validity.revoke());
    assert!(!validity.revoke(), "once");
    assert!(!fence.holds() && !other.holds() && !validity.extend(clock.now() + SECOND));
    assert!(validity.open(Shard(2), epoch(9)).is_none());
    assert_eq!(validity.route(Shard(2)), None);
    // A new membership is another one.
    let next = Validity::new(clock.clone(), 4);
    assert!(next.extend(clock.now() + SECOND));
    assert!(next.open(Shard(0), epoch(10)).expect("the validity holds").holds() && !fence.holds());
}

#[test]
fn guard_revokes_at_the_deadline_and_not_before() {
    let (clock, driver, validity, [fence, _]) = valid();
    let (mut guard, alarms, _watched) = guard(&clock, &validity);
    driver.advance(SECOND - NANOSECOND);
    assert!(guard.look());
    assert!(alarms.try_recv().is_err() && !is_ready(fence.lost()));
    driver.advance(Duration::from_millis(5));
    assert!(guard.look());
    assert_eq!(alarms.try_recv(), Ok(Alarm::Passed { late: Duration::from_millis(5) - NANOSECOND }));
    assert!(is_ready(fence.lost()) && !validity.revoke());
    assert!(guard.look());
    assert!(alarms.try_recv().is_err(), "once");
}

#[test]
fn overdue_counts_from_the_deadline_and_is_reported_once() {
    let (clock, driver, validity, _fences) = valid();
    let (mut guard, alarms, _watched) = guard(&clock, &validity);
    driver.advance(SECOND + SECOND / 2);
    assert!(guard.look());
    assert_eq!(alarms.try_recv(), Ok(Alarm::Passed { late: SECOND / 2 }));
    driver.advance(SECOND / 2 - NANOSECOND);
    assert!(guard.look() && alarms.try_recv().is_err());
    driver.advance(NANOSECOND);
    assert!(guard.look());
    assert_eq!(alarms.try_recv(), Ok(Alarm::Overdue { after: SECOND }));
    driver.advance(SECOND);
    assert!(guard.look() && alarms.try_recv().is_err());
}

#[test]
fn client_is_never_overdue() {
    let (clock, driver) = Clock::driven();
    let validity = Validity::new(clock.clone(), 4);
    assert!(validity.extend(clock.now() + SECOND));
    let (mut guard, alarmed, _watched) = guard(&clock, &validity);
    driver.advance(SECOND);
    assert!(guard.look());
    assert_eq!(alarmed.try_recv(), Ok(Alarm::Passed { late: Duration::ZERO }));
    // Its runtime has not run since.
    driver.advance(SECOND * 2);
    assert!(guard.look());
    assert!(alarmed.try_recv().is_err(), "it never held a shard, so nothing runs");
}

#[test]
fn node_at_rest_is_never_overdue() {
    let (clock, driver, validity, _fences) = valid();
    let (mut guard, alarms, _watched) = guard(&clock, &validity);
    // The node was declared dead before its deadline, and has revoked by itself.
    driver.advance(SECOND / 4);
    assert!(validity.revoke());
    driver.advance(SECOND - NANOSECOND);
    assert!(guard.look() && alarms.try_recv().is_err());
    validity.set_at_rest();
    driver.advance(SECOND * 60);
    assert!(guard.look() && alarms.try_recv().is_err());
}

#[test]
fn guard_ends_with_what_it_watches() {
    let (clock, _driver, validity, _fences) = valid();
    let (mut guard, _alarms, watched) = guard(&clock, &validity);
    assert!(guard.look());
    drop(watched);
    assert!(!guard.look());
}

#[test]
fn thread_fences_without_a_runtime() {
    let (clock, driver, validity, [fence, _]) = valid();
    let (alarms, alarmed) = channel();
    let alarm = move |alarm| {
        alarms.send(alarm).expect("the test listens");
        panic!("the thread outlives this");
    };
    let thread = FenceThread::spawn(clock.clone(), SECOND, FencePolicy::Report, alarm).expect("a thread");
    thread.watch(validity.clone());
    assert!(fence.holds());
    driver.advance(SECOND + NANOSECOND);
    let passed = alarmed.recv_timeout(SECOND * 60).expect("the thread reports the end of the deadline");
    // Before the deadline it would not be late.
    assert_eq!(passed, Alarm::Passed { late: NANOSECOND });
    assert!(is_ready(fence.lost()));
    driver.advance(SECOND - NANOSECOND);
    let overdue = alarmed.recv_timeout(SECOND * 60).expect("the thread reports what is overdue");
    assert_eq!(overdue, Alarm::Overdue { after: SECOND });
    // The next membership is watched as the first was.
    let next = Validity::new(clock.clone(), 1);
    assert!(next.extend(clock.now() + SECOND));
    thread.watch(next.clone());
    driver.advance(SECOND);
    alarmed.recv_timeout(SECOND * 60).expect("the thread reports the end of the next deadline");
    drop(thread);
    assert!(alarmed.recv_timeout(SECOND * 60).is_err(), "the thread did not end");
}

#[test]
fn real_clock_is_late_by_a_few_looks_at_most() {
    let clock = Clock::system();
    let validity = Validity::new(clock.clone(), 1);
    let (alarms, alarmed) = channel();
    let alarm = move |alarm| alarms.send(alarm).expect("the test listens");
    let thread = FenceThread::spawn(clock.clone(), SECOND * 60, FencePolicy::Report, alarm).expect("a thread");
    assert!(validity.extend(clock.now() + SECOND / 10));
    thread.watch(validity.clone());
    let passed = alarmed.recv_timeout(SECOND * 60).expect("the thread reports the end of the deadline");
    // A machine under load may let the thread wait.
    assert!(matches!(passed, Alarm::Passed { late } if late < SECOND), "{passed:?}");
    println!("{passed:?}");
}

#[test]
fn racing_extension_and_revocation_never_disagree() {
    for round in 0..2_000 {
        let (clock, driver, validity, [fence, _]) = valid();
        driver.advance(SECOND - NANOSECOND);
        let (extended, opened) = std::thread::scope(|scope| {
            let extended = scope.spawn(|| validity.extend(clock.now() + SECOND));
            let opened = scope.spawn(|| validity.open(Shard(2), epoch(9)));
            driver.advance(NANOSECOND);
            let (mut guard, _alarms, _watched) = guard(&clock, &validity);
            assert!(guard.look());
            (extended.join().expect("no panic"), opened.join().expect("no panic"))
        });
        assert_eq!(fence.holds(), extended, "round {round}");
        assert_eq!(opened.is_some_and(|opened| opened.holds()), extended && validity.route(Shard(2)).is_some());
        assert_eq!(validity.route(Shard(0)).is_some(), extended);
    }
}

/// Runs in a process of its own, which the fence aborts.
#[test]
fn overdue_process_is_aborted() {
    const MARK: &str = "GEN_REGISTRY_TEST_OVERDUE";
    if std::env::var_os(MARK).is_some() {
        let (clock, driver, validity, _fences) = valid();
        // A registry that is stuck: what is notified never returns.
        let (noticed, has_noticed) = channel();
        let stuck = move |_| {
            noticed.send(()).expect("the test waits");
            std::thread::sleep(SECOND * 3600);
        };
        let thread = FenceThread::spawn(clock, SECOND, FencePolicy::AbortProcess, stuck).expect("a thread");
        thread.watch(validity);
        driver.advance(SECOND);
        has_noticed.recv_timeout(SECOND * 60).expect("the thread reports the end of the deadline");
        driver.advance(SECOND);
        std::thread::sleep(SECOND * 60);
        return;
    }
    let binary = std::env::current_exe().expect("the path of the test binary is known");
    let arguments = ["--exact", "fence::tests::overdue_process_is_aborted", "--nocapture"];
    let ran = Command::new(binary).args(arguments).env(MARK, "1").output().expect("the test binary runs");
    let printed = String::from_utf8_lossy(&ran.stderr);
    assert!(printed.contains("FencePolicy::AbortProcess"), "{printed}");
    #[cfg(unix)]
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ran.status), Some(6), "{:?}", ran.status);
}

#[test]
fn workers_of_a_stopped_process_have_their_time_when_it_wakes() {
    let (clock, driver, validity, _fences) = valid();
    let (mut guard, alarms, _watched) = guard(&clock, &validity);
    assert!(guard.look());
    // The process was stopped: the first look is long after the deadline.
    driver.advance(20 * SECOND);
    assert!(guard.look());
    assert!(matches!(alarms.try_recv(), Ok(Alarm::Passed { .. })));
    driver.advance(SECOND - NANOSECOND);
    assert!(guard.look() && alarms.try_recv().is_err(), "the workers have had no time");
    driver.advance(NANOSECOND);
    assert!(guard.look());
    assert!(matches!(alarms.try_recv(), Ok(Alarm::Overdue { .. })));
}
