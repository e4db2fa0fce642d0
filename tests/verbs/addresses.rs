//! The sending verbs of handles, keys and names: what each returns, and which worker it reaches.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use gen_registry::{
    Aliases, CallError, Permit, Registry, ReserveError, Restart, SendError, StartError, Via, WorkerHandle,
};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, PollCounter, Probe, Record, Step, job, poll_once, run_in, until_idle,
    within,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

type Names = Aliases<&'static str, Probe>;

/// A registry whose mailboxes hold one message.
fn narrow() -> Registry<Probe> {
    Registry::builder().mailbox_capacity(1).build().unwrap()
}

async fn started(registry: &Registry<Probe>, key: &str) -> WorkerHandle<Probe> {
    within(registry.start(key, Plan::default()), "the start").await.unwrap()
}

/// Fills the mailbox of a worker that handles a message until the gate opens.
async fn fill(worker: &WorkerHandle<Probe>) -> Gate {
    let gate = Gate::new();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    within(gate.reached(), "the worker").await;
    worker.cast(Ask::Note(1)).await.unwrap();
    gate
}

async fn notes(worker: &WorkerHandle<Probe>) -> Vec<u32> {
    within(worker.call(Ask::Notes), "the notes").await.unwrap()
}

fn note_of(error: SendError<Probe>) -> u32 {
    match error.into_message() {
        Ask::Note(note) => note,
        _ => panic!("another message"),
    }
}

/// One worker, reachable by handle, by key and by name.
struct Addresses {
    handle: WorkerHandle<Probe>,
    via: Via<Probe>,
    names: Names,
}

impl Addresses {
    fn new(registry: &Registry<Probe>, handle: &WorkerHandle<Probe>) -> Self {
        let names = Names::new();
        names.register("it", handle).unwrap();
        Self { handle: handle.clone(), via: registry.via_or_start(handle.key(), Plan::default()), names }
    }

    fn casts<'a>(&'a self, time: Duration, note: u32) -> [Sending<'a, (), SendError<Probe>>; 3] {
        [
            Box::pin(self.handle.cast_timeout(time, Ask::Note(note))),
            Box::pin(self.via.cast_timeout(time, Ask::Note(note))),
            Box::pin(self.names.cast_timeout("it", time, Ask::Note(note))),
        ]
    }

    fn calls(&self, time: Duration) -> [Sending<'_, u32, CallError<Probe>>; 3] {
        [
            Box::pin(self.handle.call_timeout(time, Ask::Value)),
            Box::pin(self.via.call_timeout(time, Ask::Value)),
            Box::pin(self.names.call_timeout("it", time, Ask::Value)),
        ]
    }

    fn reservations(&self) -> [Sending<'_, Permit<Probe>, ReserveError<Probe>>; 3] {
        [
            Box::pin(self.handle.reserve()),
            Box::pin(self.via.reserve()),
            Box::pin(async { self.names.reserve("it").await }),
        ]
    }
}

type Sending<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

#[tokio::test(start_paused = true)]
async fn cast_timeout_on_full_returns_message() {
    let registry = narrow();
    let worker = started(&registry, "a").await;
    let gate = fill(&worker).await;
    let addresses = Addresses::new(&registry, &worker);
    for (refused, cast) in (1..).zip(addresses.casts(SECOND, 7)) {
        let began = Instant::now();
        let error = within(cast, "the timeout").await.unwrap_err();
        assert!(matches!(error, SendError::TimedOut(_)), "{error:?}");
        assert_eq!((note_of(error), began.elapsed()), (7, SECOND));
        assert_eq!(registry.stats().undelivered.full, refused);
    }
    // A cast that gets a permit in time is not disturbed by those that timed out.
    let mut waits = addresses.casts(SECOND, 8);
    for cast in &mut waits {
        assert!(poll_once(cast.as_mut()).await.is_pending());
    }
    gate.open();
    for cast in waits {
        within(cast, "room").await.unwrap();
    }
    assert_eq!(notes(&worker).await, [1, 8, 8, 8]);
    for cast in addresses.casts(Duration::ZERO, 9) {
        within(cast, "a cast with room").await.unwrap();
        until_idle().await;
    }
    within(worker.stop(), "the stop").await.unwrap();
    let gone = worker.cast_timeout(SECOND, Ask::Note(3)).await.unwrap_err();
    assert!(matches!(gone, SendError::Closed(_)));
    let gone = addresses.names.cast_timeout("it", SECOND, Ask::Note(3)).await.unwrap_err();
    assert!(matches!(gone, SendError::NotFound(_)));
    assert_eq!(registry.stats().undelivered.full, 3);
}

#[tokio::test(start_paused = true)]
async fn cast_timeout_covers_starts_and_retries() {
    let registry = narrow();
    let via = registry.via_or_start("hangs", Plan::init(Step::Hang));
    let began = Instant::now();
    let error = within(via.cast_timeout(SECOND, Ask::Note(7)), "the timeout").await.unwrap_err();
    assert!(matches!(error, SendError::TimedOut(_)), "{error:?}");
    assert_eq!((note_of(error), began.elapsed()), (7, SECOND));

    // Half of the timeout passes at the first worker, and the rest at the next.
    let (first, names) = (started(&registry, "a").await, Names::new());
    let _gate = fill(&first).await;
    names.register("it", &first).unwrap();
    let began = Instant::now();
    let mut cast = pin!(names.cast_timeout("it", SECOND, Ask::Note(8)));
    assert!(poll_once(cast.as_mut()).await.is_pending());
    tokio::time::sleep(SECOND / 2).await;
    within(first.kill(), "the kill").await.unwrap();
    let second = started(&registry, "b").await;
    let _other = fill(&second).await;
    names.register("it", &second).unwrap();
    let error = within(cast, "the timeout").await.unwrap_err();
    assert_eq!((note_of(error), began.elapsed().as_millis()), (8, SECOND.as_millis()));
}

#[tokio::test(start_paused = true)]
async fn call_timeout_before_send_is_not_sent() {
    let registry = narrow();
    let worker = started(&registry, "a").await;
    let gate = fill(&worker).await;
    let addresses = Addresses::new(&registry, &worker);
    for call in addresses.calls(SECOND) {
        let began = Instant::now();
        let error = within(call, "the timeout").await.unwrap_err();
        assert!(matches!(error, CallError::NotSent) && !error.may_have_run(), "{error:?}");
        assert_eq!(began.elapsed(), SECOND);
    }
    let hangs = registry.via_or_start("hangs", Plan::init(Step::Hang));
    let error = within(hangs.call_timeout(SECOND, Ask::Value), "the timeout").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent) && !error.may_have_run(), "{error:?}");

    gate.open();
    assert_eq!(notes(&worker).await, [1]);
    // An accepted call may have run, even if it is still queued.
    for call in addresses.calls(SECOND) {
        let gate = Gate::new();
        worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
        within(gate.reached(), "the worker").await;
        let error = within(call, "the timeout").await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut) && error.may_have_run(), "{error:?}");
        gate.open();
        until_idle().await;
    }
    for call in addresses.calls(Duration::MAX) {
        assert_eq!(within(call, "the reply").await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn stopped_holders_are_not_attempts() {
    let (registry, names) = (narrow(), Names::new());
    let mut holder = started(&registry, "0").await;
    names.register("it", &holder).unwrap();
    let _gate = fill(&holder).await;
    let mut cast = pin!(names.cast("it", Ask::Note(7)));
    for next in 1..40 {
        assert!(poll_once(cast.as_mut()).await.is_pending());
        let successor = started(&registry, &next.to_string()).await;
        let _gate = fill(&successor).await;
        within(holder.kill(), "the kill").await.unwrap();
        names.register("it", &successor).unwrap();
        holder = successor;
        // The cast yields once, then waits at the next holder.
        assert!(poll_once(cast.as_mut()).await.is_pending());
    }
    within(holder.kill(), "the kill").await.unwrap();
    let last = started(&registry, "last").await;
    names.register("it", &last).unwrap();
    within(cast, "the cast").await.unwrap();
    assert_eq!(notes(&last).await, [7]);
}

#[tokio::test(start_paused = true)]
async fn exhausted_sends_count_by_key_and_name() {
    for by_name in [true, false] {
        let (registry, names) = (narrow(), Names::new());
        let via = registry.via("it");
        // A full worker that stops as soon as its gate opens.
        let next = async || {
            let (worker, gate) = (started(&registry, "it").await, Gate::new());
            names.register("it", &worker).unwrap();
            worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
            within(gate.reached(), "the worker").await;
            worker.cast(Ask::Stop).await.unwrap();
            (worker, gate)
        };
        let (mut worker, mut gate) = next().await;
        let mut cast: Sending<'_, (), SendError<Probe>> =
            if by_name { Box::pin(names.cast("it", Ask::Note(7))) } else { Box::pin(via.cast(Ask::Note(7))) };
        let mut met = 1;
        let error = loop {
            match poll_once(cast.as_mut()).await {
                std::task::Poll::Ready(sent) => break sent.unwrap_err(),
                std::task::Poll::Pending => {
                    gate.open();
                    within(worker.closed(), "the end").await;
                    (worker, gate) = next().await;
                    met += 1;
                }
            }
        };
        assert!(matches!(error, SendError::Closed(_)), "{error:?}");
        assert_eq!((met, registry.stats().undelivered.closed), (17, 1), "by name: {by_name}");
    }
}

#[tokio::test(start_paused = true)]
async fn reserve_is_fair_with_waiting_senders() {
    let registry = narrow();
    let worker = started(&registry, "a").await;
    let addresses = Addresses::new(&registry, &worker);
    for reservation in addresses.reservations() {
        let permit = within(reservation, "a permit").await.unwrap();
        assert_eq!(permit.worker(), &worker);
        assert!(matches!(worker.try_cast(Ask::Note(9)), Err(SendError::Full(_))));
        let mut waits = pin!(worker.cast(Ask::Note(2)));
        assert!(poll_once(waits.as_mut()).await.is_pending());
        permit.send(Ask::Note(1)).unwrap();
        within(waits, "room").await.unwrap();
        until_idle().await;
    }
    assert_eq!(notes(&worker).await, [1, 2, 1, 2, 1, 2]);

    for reservation in addresses.reservations() {
        let gate = fill(&worker).await;
        let mut reservation = reservation;
        let mut before = pin!(worker.cast(Ask::Note(3)));
        assert!(poll_once(before.as_mut()).await.is_pending());
        assert!(poll_once(reservation.as_mut()).await.is_pending());
        let mut after = pin!(worker.cast(Ask::Note(5)));
        assert!(poll_once(after.as_mut()).await.is_pending());
        gate.open();
        within(before, "room for the first").await.unwrap();
        let permit = within(reservation, "a permit").await.unwrap();
        until_idle().await;
        assert!(poll_once(after.as_mut()).await.is_pending(), "the sender overtook the permit");
        drop(permit);
        within(after, "the released permit").await.unwrap();
        until_idle().await;
    }
    assert_eq!(notes(&worker).await, [1, 2, 1, 2, 1, 2, 1, 3, 5, 1, 3, 5, 1, 3, 5]);
}

#[tokio::test(start_paused = true)]
async fn dropped_reserve_leaves_no_gap() {
    let registry = narrow();
    let worker = started(&registry, "a").await;
    for is_granted in [false, true] {
        let gate = fill(&worker).await;
        let mut reservation = Box::pin(worker.reserve());
        assert!(poll_once(reservation.as_mut()).await.is_pending());
        let mut behind = pin!(worker.cast(Ask::Note(2)));
        assert!(poll_once(behind.as_mut()).await.is_pending());
        if is_granted {
            gate.open();
            until_idle().await;
        }
        drop(reservation);
        gate.open();
        within(behind, "the released permit").await.unwrap();
        until_idle().await;
    }
    assert_eq!(notes(&worker).await, [1, 2, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn permit_returns_message_if_worker_exited() {
    for kills in [true, false] {
        let registry = narrow();
        let worker = started(&registry, "a").await;
        let permit = within(worker.reserve(), "a permit").await.unwrap();
        let unused = {
            let other = started(&registry, "b").await;
            within(other.reserve(), "a permit").await.unwrap()
        };
        if kills {
            within(worker.kill(), "the kill").await.unwrap();
        } else {
            within(worker.stop(), "the stop").await.unwrap();
        }
        let error = permit.send(Ask::Note(7)).unwrap_err();
        assert!(matches!(error, SendError::Closed(_)));
        assert_eq!((note_of(error), registry.stats().undelivered.closed), (7, 1));
        assert!(matches!(worker.reserve().await, Err(ReserveError::Closed)));
        assert!(matches!(registry.via("a").reserve().await, Err(ReserveError::NotFound)));
        assert!(matches!(Names::new().reserve("it").await, Err(ReserveError::NotFound)));
        within(unused.worker().clone().stop(), "a stop with a permit held").await.unwrap();
        drop(unused);
    }
}

#[tokio::test(start_paused = true)]
async fn reserve_by_address_starts_or_tries_next() {
    let (registry, record) = (narrow(), Record::default());
    let via = registry.via_or_start("a", Plan::default().recorded(&record));
    within(via.reserve(), "a permit").await.unwrap().send(Ask::Note(1)).unwrap();
    let first = registry.lookup("a").unwrap();
    until_idle().await;
    let _gate = fill(&first).await;
    let mut waits = pin!(via.reserve());
    assert!(poll_once(waits.as_mut()).await.is_pending());
    within(first.kill(), "the kill").await.unwrap();
    let permit = within(waits, "a permit of the next worker").await.unwrap();
    assert_ne!(permit.worker(), &first);
    assert_eq!(record.inits("a"), 2);

    let fails = registry.via_or_start("fails", Plan::init(Step::Fail));
    let error = within(fails.reserve(), "the failure").await.unwrap_err();
    assert!(matches!(error.start_error(), Some(StartError::Init(_))), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn reserve_in_own_full_mailbox_is_refused() {
    let registry = Registry::<ClosureWorker>::builder().mailbox_capacity(1).build().unwrap();
    let worker = within(registry.start("a", ClosureArgs::default()), "the start").await.unwrap();
    let via = registry.via("a");
    let result = run_in(&worker, move |ctx| {
        Box::pin(async move {
            let permit = ctx.handle().reserve().await.unwrap();
            let full = ctx.handle().reserve().await;
            let by_key = via.reserve().await;
            permit.send(job(|_| Box::pin(async {}))).unwrap();
            (matches!(full, Err(ReserveError::WouldDeadlock)), matches!(by_key, Err(ReserveError::WouldDeadlock)))
        })
    });
    assert_eq!(result.await.unwrap(), (true, true));
}

#[tokio::test(start_paused = true)]
async fn g7_held_permit_prevents_passivation() {
    let registry = Registry::<Probe>::builder().idle_timeout(SECOND).build().unwrap();
    let worker = started(&registry, "a").await;
    let permit = within(worker.reserve(), "a permit").await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    permit.send(Ask::Note(1)).unwrap();
    assert_eq!(notes(&worker).await, [1]);
    let unused = within(worker.reserve(), "a permit").await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    drop(unused);
    within(worker.closed(), "the exit of an idle worker").await;
}

#[tokio::test(start_paused = true)]
async fn g8_permit_survives_a_restart() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(2).restart(Restart::Transient).build().unwrap();
    let worker = started(&registry, "a").await;
    let permit = within(worker.reserve(), "a permit").await.unwrap();
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    until_idle().await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(worker.incarnation(), 2);
    permit.send(Ask::Note(1)).unwrap();
    assert_eq!(notes(&worker).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn try_cast_by_address_sends_or_returns_message() {
    let (registry, record) = (narrow(), Record::default());
    let via = registry.via_or_start("a", Plan::default().recorded(&record));
    let error = via.try_cast(Ask::Note(7)).unwrap_err();
    assert!(matches!(error, SendError::NotFound(_)));
    assert_eq!((note_of(error), record.inits("a")), (7, 0), "the send starts no worker");
    let worker = started(&registry, "a").await;
    let addresses = Addresses::new(&registry, &worker);
    let hits = registry.stats().lookups.hit;
    addresses.via.try_cast(Ask::Note(1)).unwrap();
    assert_eq!(registry.stats().lookups.hit, hits + 1);
    until_idle().await;
    addresses.names.try_cast("it", Ask::Note(2)).unwrap();
    assert_eq!(notes(&worker).await, [1, 2]);
    let _gate = fill(&worker).await;
    for (refused, error) in
        [addresses.via.try_cast(Ask::Note(7)), addresses.names.try_cast("it", Ask::Note(7))].into_iter().enumerate()
    {
        let error = error.unwrap_err();
        assert!(matches!(error, SendError::Full(_)), "{refused}");
        assert_eq!(note_of(error), 7);
    }
    assert_eq!(registry.stats().undelivered.full, 2);
    within(worker.kill(), "the kill").await.unwrap();
    assert!(matches!(addresses.via.try_cast(Ask::Note(7)), Err(SendError::NotFound(_))));
    assert!(matches!(addresses.names.try_cast("it", Ask::Note(7)), Err(SendError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn try_call_sends_now_and_awaits_later() {
    let registry = Registry::<Probe>::new();
    let worker = within(registry.start("a", Plan::value(4)), "the start").await.unwrap();
    let addresses = Addresses::new(&registry, &worker);
    let pending = [
        addresses.handle.try_call(Ask::Value).unwrap(),
        addresses.via.try_call(Ask::Value).unwrap(),
        addresses.names.try_call("it", Ask::Value).unwrap(),
    ];
    until_idle().await;
    for reply in pending {
        assert_eq!(reply.worker(), &worker);
        assert_eq!(within(reply, "the reply").await.unwrap(), 4);
    }
    let mut awaited = pin!(worker.try_call(Ask::Value).unwrap());
    assert!(poll_once(awaited.as_mut()).await.is_pending());
    assert_eq!(within(awaited, "the reply").await.unwrap(), 4);

    let in_hand = worker.try_call(|reply| Ask::DoThenReply(Step::Hang, reply)).unwrap();
    until_idle().await;
    let queued = addresses.via.try_call(Ask::Value).unwrap();
    within(worker.kill(), "the kill").await.unwrap();
    assert!(matches!(within(in_hand, "the result").await, Err(CallError::NoReply)));
    assert!(matches!(within(queued, "the result").await, Err(CallError::NotDelivered)));
    match worker.try_call(Ask::Value) {
        Err(SendError::Closed(message)) => {
            assert!(matches!(message.into_inner(), Ask::Value(reply) if reply.is_closed()));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(addresses.via.try_call(Ask::Value), Err(SendError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn try_call_to_oneself_is_refused() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = within(registry.start("a", ClosureArgs::default()), "the start").await.unwrap();
    let via = registry.via("a");
    let result = run_in(&worker, move |ctx| {
        Box::pin(async move {
            let code = |_: gen_registry::Reply<()>| job(|_| Box::pin(async {}));
            let (by_handle, by_key) = (ctx.handle().try_call(code).err(), via.try_call(code).err());
            [by_handle, by_key].map(|error| matches!(error, Some(SendError::WouldDeadlock(_))))
        })
    });
    assert_eq!(result.await.unwrap(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn undelivered_message_can_go_to_successor() {
    let (names, record) = (Names::new(), Record::default());
    let (later, mut left) = mpsc::unbounded_channel();
    let (standby, own) = (Registry::<Probe>::new(), Arc::new(OnceLock::<Registry<Probe>>::new()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (names, standby, own, seen) = (names.clone(), standby.clone(), Arc::clone(&own), Arc::clone(&seen));
        move |key: &String, message: Ask| {
            // Try the present holder of the name, then the key in another registry. What is left is sent to the key's
            // next worker later.
            let own = own.get().expect("the registry is set").via(key);
            let unsent = names.try_cast("it", message);
            let unsent = unsent.or_else(|error| standby.via(key).try_cast(error.into_message()));
            let unsent = unsent.or_else(|error| own.try_cast(error.into_message()));
            seen.lock().unwrap().push(unsent.is_ok());
            if let Err(error) = unsent {
                later.send((key.clone(), error.into_message())).expect("the test holds the receiver");
            }
        }
    };
    let registry = Registry::<Probe>::builder().on_undelivered(hook).build().unwrap();
    assert!(own.set(registry.clone()).is_ok());
    let first = within(registry.start("a", Plan::default().recorded(&record)), "the start").await.unwrap();
    names.register("it", &first).unwrap();
    let second = started(&registry, "b").await;
    for by in ["name", "other registry", "later"] {
        let worker = within(registry.lookup_or_start("a", Plan::default()), "the worker").await.unwrap();
        worker.cast(Ask::Do(Step::Hang)).await.unwrap();
        until_idle().await;
        worker.cast(Ask::Note(1)).await.unwrap();
        worker.cast(Ask::Note(2)).await.unwrap();
        match by {
            "name" => {}
            "other registry" => {
                names.unregister("it");
                drop(started(&standby, "a").await);
            }
            _ => drop(within(standby.stop("a"), "the stop").await.unwrap()),
        }
        let mut kill = pin!(worker.kill());
        // The gate is closed, and the worker has lost its names.
        assert!(poll_once(kill.as_mut()).await.is_pending());
        if by == "name" {
            names.register("it", &second).unwrap();
        }
        within(kill, "the kill").await.unwrap();
        match by {
            "name" => assert_eq!(notes(&second).await, [1, 2]),
            "other registry" => assert_eq!(notes(&standby.lookup("a").unwrap()).await, [1, 2]),
            _ => {
                for _ in 0..2 {
                    let (key, message) = within(left.recv(), "an unsent message").await.unwrap();
                    within(registry.via_or_start(&key, Plan::default()).cast(message), "a cast").await.unwrap();
                }
                assert_eq!(notes(&registry.lookup("a").unwrap()).await, [1, 2]);
            }
        }
    }
    assert_eq!(*seen.lock().unwrap(), [true, true, true, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn via_or_start_with_builds_args_per_start() {
    let (registry, made) = (Registry::<Probe>::new(), Arc::new(Mutex::new(0)));
    let via = registry.via_or_start_with("a", {
        let made = Arc::clone(&made);
        move || {
            let mut made = made.lock().unwrap();
            *made += 1;
            Plan::value(*made)
        }
    });
    for start in 1..4 {
        for _ in 0..3 {
            assert_eq!(within(via.clone().call(Ask::Value), "the reply").await.unwrap(), start);
        }
        within(registry.stop("a"), "the stop").await.unwrap();
    }
    assert_eq!(*made.lock().unwrap(), 3);
    // A panic of the closure reaches the caller, and the next send calls it again.
    let panics = registry.via_or_start_with("b", || panic!("no arguments"));
    assert!(within(tokio::spawn(async move { panics.cast(Ask::Note(1)).await }), "the panic").await.is_err());
    assert_eq!((registry.count(), registry.stats().starting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn ready_replies_still_yield() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(1_000).build().unwrap();
    let worker = started(&registry, "a").await;
    worker.cast(Ask::Do(Step::Hang)).await.unwrap();
    let answered = |reply: gen_registry::Reply<u32>| {
        reply.send(7);
        Ask::Note(1)
    };
    let pending: Vec<_> = (0..900).map(|_| worker.try_call(answered).unwrap()).collect();
    let other = PollCounter::new();
    for reply in pending {
        assert_eq!(reply.await.unwrap(), 7);
    }
    assert!(other.polls() > 4, "{}", other.polls());
}

/// Also within another future, where the compiler has erased the lifetime of the name.
#[test]
fn sends_by_static_name_are_send() {
    fn is_send<F: Future + Send>(_: F) {}
    let (names, retry) = (Names::new(), gen_registry::Retry::new());
    let names = &names;
    is_send(async move { names.cast("it", Ask::Note(1)).await });
    is_send(async move { names.cast_timeout("it", SECOND, Ask::Note(1)).await });
    is_send(async move { names.call("it", Ask::Value).await });
    is_send(async move { names.call_timeout("it", SECOND, Ask::Value).await });
    is_send(async move { names.call_with_retry("it", retry, Ask::Value).await });
    is_send(async move { names.reserve("it").await });
}
