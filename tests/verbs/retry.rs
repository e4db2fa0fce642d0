//! Calls with a retry policy.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gen_registry::{Aliases, CallError, Registry, Reply, Restart, Retry, StartError};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Plan, Probe, Record, Step, job, poll_once, run_in, until_idle, within,
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Counts the messages built, one per attempt.
#[derive(Default)]
struct Attempts(AtomicU32);

impl Attempts {
    fn made(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// Builds messages that perform one step per attempt, repeating the last step.
    fn steps(&self, steps: &[Step]) -> impl Fn(Reply<()>) -> Ask {
        move |reply| {
            let attempt = self.0.fetch_add(1, Ordering::Relaxed) as usize;
            Ask::DoThenReply(steps[attempt.min(steps.len() - 1)].clone(), reply)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unsent_call_is_retried_at_next_worker() {
    let (registry, attempts) = (Registry::<Probe>::new(), Attempts::default());
    let via = registry.via_or_start("a", Plan::default());
    for kills in 1..3 {
        let mut call = pin!(via.call_with_retry(Retry::new(), attempts.steps(&[Step::Succeed])));
        for _ in 0..kills {
            let worker = within(registry.lookup_or_start("a", Plan::default()), "the worker").await.unwrap();
            worker.cast(Ask::Do(Step::Hang)).await.unwrap();
            until_idle().await;
            // Queue the call behind the hanging message, at the first poll or after the pause.
            while worker.try_cast(Ask::Note(0)).is_ok() && attempts.0.load(Ordering::Relaxed) == 0 {
                assert!(poll_once(call.as_mut()).await.is_pending());
            }
            tokio::time::sleep(SECOND).await;
            assert!(poll_once(call.as_mut()).await.is_pending());
            within(worker.kill(), "the kill").await.unwrap();
            // The call observes the failure and starts its pause.
            assert!(poll_once(call.as_mut()).await.is_pending());
        }
        within(call, "the next worker's reply").await.unwrap();
        assert_eq!(attempts.made(), kills + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn maybe_handled_call_is_retried_if_idempotent() {
    let (registry, attempts) = (Registry::<Probe>::new(), Attempts::default());
    let via = registry.via_or_start("a", Plan::default());
    let safe = Retry::new().even_if_it_may_have_run();
    let steps = [Step::Panic, Step::Fail, Step::Succeed];
    let called = within(via.call_with_retry(Retry::new(), attempts.steps(&steps)), "the result").await;
    assert!(matches!(called, Err(CallError::NoReply)), "{called:?}");
    assert_eq!(attempts.made(), 1);
    within(via.call_with_retry(safe, attempts.steps(&steps)), "the reply").await.unwrap();
    assert_eq!(attempts.made(), 3);

    let timed = Retry::new().attempt_timeout(SECOND);
    let steps = [Step::Hang, Step::Succeed];
    let called = within(via.call_with_retry(timed, attempts.steps(&steps)), "the result").await;
    assert!(matches!(called, Err(CallError::TimedOut)), "{called:?}");
    within(registry.kill("a"), "the kill").await.unwrap();
    assert_eq!(attempts.made(), 1);
    // The worker hangs: the next attempt is queued behind it and times out as well.
    let began = Instant::now();
    let called =
        within(via.call_with_retry(timed.even_if_it_may_have_run(), attempts.steps(&steps)), "the result").await;
    assert!(matches!(called, Err(CallError::TimedOut)), "{called:?}");
    assert_eq!((attempts.made(), began.elapsed().as_secs()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn call_timed_out_before_send_is_retried() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
    let (via, attempts) = (registry.via_or_start("a", Plan::default()), Attempts::default());
    let gate = test_support::Gate::new();
    via.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    within(gate.reached(), "the worker").await;
    via.cast(Ask::Note(1)).await.unwrap();
    let patient = Retry::new().attempts(100).attempt_timeout(SECOND);
    let mut call = pin!(via.call_with_retry(patient, attempts.steps(&[Step::Succeed])));
    let impatient = tokio::time::timeout(5 * SECOND, call.as_mut());
    assert!(impatient.await.is_err());
    gate.open();
    within(call, "the reply").await.unwrap();
    assert!((3..=6).contains(&attempts.made()));
}

#[tokio::test(start_paused = true)]
async fn exhausted_retries_return_the_last_error() {
    let (registry, record) = (Registry::<Probe>::builder().max_workers(1).build().unwrap(), Record::default());
    within(registry.start("other", Plan::default()), "the start").await.unwrap();
    let via = registry.via_or_start("a", Plan::default().recorded(&record));
    for (policy, expected) in [(0, 1), (1, 1), (4, 4)] {
        let attempts = Attempts::default();
        let retry = Retry::new().attempts(policy);
        let called = within(via.call_with_retry(retry, attempts.steps(&[Step::Succeed])), "the result").await;
        assert!(matches!(called.unwrap_err().start_error(), Some(StartError::AtCapacity)));
        assert_eq!(attempts.made(), expected);
    }
    // Capacity becomes available during the pause.
    let mut call = pin!(via.call_with_retry(Retry::new(), Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    within(registry.stop("other"), "the stop").await.unwrap();
    within(call, "the reply").await.unwrap();
    assert_eq!(record.inits("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_init_is_retried_on_request_only() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let plan = Plan::script([Step::Fail, Step::Panic, Step::Fail]).recorded(&record);
    let via = registry.via_or_start("a", plan);
    let called = within(via.call_with_retry(Retry::new(), Ask::Value), "the result").await;
    assert!(matches!(called.unwrap_err().start_error(), Some(StartError::Init(_))));
    assert_eq!(record.inits("a"), 1);
    within(via.call_with_retry(Retry::new().even_if_init_failed(), Ask::Value), "the reply").await.unwrap();
    assert_eq!(record.inits("a"), 4);
}

#[tokio::test(start_paused = true)]
async fn retry_waits_until_the_key_may_start() {
    let (registry, record) = (
        Registry::<Probe>::builder()
            .restart(Restart::Transient)
            .restart_intensity(0, Duration::from_secs(10))
            .build()
            .unwrap(),
        Record::default(),
    );
    let via = registry.via_or_start("a", Plan::default().recorded(&record));
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    within(worker.closed(), "the crash").await;
    let began = Instant::now();
    let called = within(via.call_with_retry(Retry::new(), Ask::Value), "the result").await;
    assert!(matches!(called.unwrap_err().start_error(), Some(StartError::RestartLimit { .. })));
    assert_eq!(began.elapsed(), Duration::ZERO, "the remaining time exceeds the longest pause");
    let patient = Retry::new().backoff(MILLI, Duration::from_secs(20));
    within(via.call_with_retry(patient, Ask::Value), "the reply").await.unwrap();
    assert_eq!((began.elapsed().as_secs(), record.inits("a")), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn permanent_errors_return_at_once() {
    let (registry, names) = (Registry::<Probe>::new(), Aliases::<u32, Probe>::new());
    let (began, attempts) = (Instant::now(), Attempts::default());
    let retry = Retry::new().even_if_it_may_have_run().even_if_init_failed();
    let result = within(registry.via("a").call_with_retry(retry, attempts.steps(&[Step::Succeed])), "the result").await;
    assert!(matches!(result, Err(CallError::NotFound)));
    let result = within(names.call_with_retry(&1, retry, attempts.steps(&[Step::Succeed])), "the result").await;
    assert!(matches!(result, Err(CallError::NotFound)));
    let via = registry.via_or_start("a", Plan::default());
    let _ = within(registry.shutdown(), "the shutdown").await;
    let result = within(via.call_with_retry(retry, attempts.steps(&[Step::Succeed])), "the result").await;
    assert!(matches!(result.unwrap_err().start_error(), Some(StartError::Shutdown)));
    assert_eq!((attempts.made(), began.elapsed()), (3, Duration::ZERO));

    let actors = Registry::<ClosureWorker>::new();
    let worker = within(actors.start("a", ClosureArgs::default()), "the start").await.unwrap();
    let via = actors.via("a");
    let result = run_in(&worker, move |_| {
        Box::pin(async move {
            let made = AtomicU32::new(0);
            let nothing = |_: Reply<()>| {
                made.fetch_add(1, Ordering::Relaxed);
                job(|_| Box::pin(async {}))
            };
            let result = poll_once(pin!(via.call_with_retry(retry, nothing))).await;
            matches!(result, std::task::Poll::Ready(Err(CallError::WouldDeadlock))) && made.load(Ordering::Relaxed) == 1
        })
    });
    assert!(result.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn call_by_name_retries_at_next_holder() {
    let (registry, names) = (Registry::<Probe>::new(), Aliases::<u32, Probe>::new());
    let first = within(registry.start("a", Plan::value(1)), "the start").await.unwrap();
    let second = within(registry.start("b", Plan::value(2)), "the start").await.unwrap();
    names.register(7, &first).unwrap();
    first.cast(Ask::Do(Step::Hang)).await.unwrap();
    until_idle().await;
    let mut call = pin!(names.call_with_retry(&7, Retry::new(), Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    within(first.kill(), "the kill").await.unwrap();
    assert!(poll_once(call.as_mut()).await.is_pending(), "the call pauses");
    names.register(7, &second).unwrap();
    assert_eq!(within(call, "the reply").await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn missing_worker_is_waited_for_on_request_only() {
    let (registry, names) = (Registry::<Probe>::new(), Aliases::<u32, Probe>::new());
    let retry = Retry::new().attempts(2).even_if_not_found();
    let result = within(names.call_with_retry(&7, retry, Ask::Value), "the last error").await;
    assert!(matches!(result, Err(CallError::NotFound)), "no worker took the name: {result:?}");

    let mut by_name = pin!(names.call_with_retry(&7, retry, Ask::Value));
    let via = registry.via("a");
    let mut by_key = pin!(via.call_with_retry(retry, Ask::Value));
    assert!(poll_once(by_name.as_mut()).await.is_pending(), "the call pauses");
    assert!(poll_once(by_key.as_mut()).await.is_pending(), "the call pauses");
    let worker = within(registry.start("a", Plan::value(2)), "the start").await.unwrap();
    names.register(7, &worker).unwrap();
    assert_eq!(within(by_name, "the reply by name").await.unwrap(), 2);
    assert_eq!(within(by_key, "the reply by key").await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn pauses_double_to_a_limit_with_jitter() {
    let registry = Registry::<Probe>::builder().max_workers(1).build().unwrap();
    within(registry.start("other", Plan::default()), "the start").await.unwrap();
    let via = registry.via_or_start("a", Plan::default());
    // The pauses without jitter: 100 + 200 + 400 + 500 + 500.
    let retry = Retry::new().attempts(6).backoff(100 * MILLI, 500 * MILLI);
    let mut took = Vec::new();
    for _ in 0..16 {
        let began = Instant::now();
        assert!(within(via.call_with_retry(retry, Ask::Value), "the result").await.is_err());
        took.push(began.elapsed());
    }
    assert!(took.iter().all(|took| (850 * MILLI..1_706 * MILLI).contains(took)), "{took:?}");
    assert!(took.iter().any(|other| other != &took[0]), "there is no jitter: {took:?}");
    // Pauses of zero, and pauses that exceed what the clock can represent.
    let retry = Retry::new().attempts(100).backoff(Duration::ZERO, Duration::ZERO);
    assert!(within(via.call_with_retry(retry, Ask::Value), "the result").await.is_err());
    let endless = Retry::new().attempts(2).backoff(Duration::MAX, Duration::MAX);
    let mut call = pin!(via.call_with_retry(endless, Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
}
