//! Scenarios that the pairs do not reach: several of one kind, callers that leave, rooms, permits, names and deadlines.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gen_registry::{Aliases, CallError, Eviction, ExitReason, StartError, StopError};

use crate::exec::{check, pass, spawn, yield_now};
use crate::subject::{Ask, Init};
use crate::world::{KEY, LONG, OTHER, World};

#[test]
fn g2_one_of_three_starts_succeeds() {
    check(|| async {
        let (world, events) = World::plain();
        let starts = [Init::Ready, Init::Slow, Init::Ready].map(|init| {
            let world = world.clone();
            spawn(async move {
                let started = world.registry.start(&KEY, world.plan(init)).await;
                match started {
                    Ok(worker) => (true, worker.id()),
                    Err(StartError::AlreadyStarted { handle, .. }) => (false, handle.id()),
                    Err(error) => panic!("{error:?}"),
                }
            })
        });
        let mut ended = Vec::new();
        for start in starts {
            ended.push(start.await);
        }
        assert_eq!(ended.iter().filter(|(is_first, _)| *is_first).count(), 1, "{ended:?}");
        assert!(ended.iter().all(|(_, id)| *id == ended[0].1), "{ended:?}");
        assert_eq!(world.book.records().inits, 1);
        world.check(events).await;
    });
}

#[test]
fn g2_dropped_starter_cancels_nothing() {
    check(|| async {
        let (world, events) = World::plain();
        let leaver = world.clone();
        let leaves = spawn(async move {
            let start = pin!(leaver.registry.lookup_or_start(&KEY, leaver.plan(Init::Slow)));
            assert!(!matches!(start.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_))));
        });
        let joiner = world.clone();
        let joins = spawn(async move {
            let worker =
                joiner.registry.lookup_or_start(&KEY, joiner.plan(Init::Slow)).await.expect("nothing stops it");
            assert_eq!(worker.call(Ask::Echo).await.ok(), Some(KEY));
        });
        leaves.await;
        joins.await;
        world.check(events).await;
    });
}

#[test]
fn g5_failed_starts_leave_the_key_vacant() {
    check(|| async {
        let (world, events) = World::plain();
        let fails = [Init::Fail, Init::Panic].map(|init| {
            let world = world.clone();
            spawn(async move {
                let failed = world.registry.lookup_or_start(&KEY, world.plan(init)).await;
                assert!(matches!(failed, Err(StartError::Init(_) | StartError::Panicked(_))), "{failed:?}");
            })
        });
        for fail in fails {
            fail.await;
        }
        assert!(world.registry.lookup(&KEY).is_none());
        world.start(KEY).await;
        world.check(events).await;
    });
}

#[test]
fn g1_two_stops_and_a_start_take_turns() {
    check(|| async {
        let (world, events) = World::plain();
        let former = world.start(KEY).await;
        let stops = [(); 2].map(|()| {
            let former = former.clone();
            spawn(async move {
                let ended = former.stop().await;
                assert!(matches!(ended, Ok(ExitReason::Stopped) | Err(StopError::NotFound)), "{ended:?}");
                assert!(matches!(former.closed().await, ExitReason::Stopped));
            })
        });
        let starter = world.clone();
        let start = spawn(async move {
            let worker = starter.registry.lookup_or_start(&KEY, starter.plan(Init::Ready)).await.expect("it starts");
            // It was found before the stops, or started after them.
            drop(worker.call(Ask::Echo).await);
            worker.id()
        });
        for stop in stops {
            stop.await;
        }
        let id = start.await;
        let now = world.registry.lookup(&KEY).map(|worker| worker.id());
        assert!(now != Some(former.id()) && (id == former.id() || now == Some(id)), "{id:?} {now:?}");
        world.check(events).await;
    });
}

#[test]
fn g6_calls_of_a_killed_worker_say_whether_they_ran() {
    check(|| async {
        let (world, events) = World::plain();
        let worker = world.start(KEY).await;
        let caller = worker.clone();
        let calls = spawn(async move {
            for _ in 0..2 {
                let called = caller.call(Ask::Echo).await;
                assert!(matches!(called, Ok(KEY) | Err(CallError::NotDelivered | CallError::NoReply)), "{called:?}");
            }
        });
        let sender = world.clone();
        let casts = spawn(async move { sender.cast_notes(1, 2).await });
        let killed = worker.kill().await;
        assert!(matches!(killed, Ok(ExitReason::Killed)), "{killed:?}");
        calls.await;
        casts.await;
        world.check(events).await;
    });
}

#[test]
fn g8_senders_of_a_full_mailbox_keep_their_order() {
    check(|| async {
        let (world, events) = World::new(|builder| builder.mailbox_capacity(1));
        world.start(KEY).await;
        let senders = [1, 2].map(|sender| {
            let world = world.clone();
            spawn(async move { world.cast_notes(sender, 2).await })
        });
        // A sender that gives up passes its place on.
        let leaver = world.clone();
        let leaves = spawn(async move {
            let via = leaver.registry.via(&KEY);
            let mut cast = Box::pin(via.cast(Ask::Note(301)));
            if let Poll::Ready(Ok(())) = cast.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                leaver.book.accept(301);
            }
            yield_now().await;
        });
        for sender in senders {
            sender.await;
        }
        leaves.await;
        world.check(events).await;
    });
}

#[test]
fn g6_stop_answers_the_senders_that_wait_for_room() {
    check(|| async {
        let (world, events) = World::new(|builder| builder.mailbox_capacity(1));
        let worker = world.start(KEY).await;
        let senders = [1, 2].map(|sender| {
            let (world, worker) = (world.clone(), worker.clone());
            spawn(async move {
                if worker.cast(Ask::Note(sender * 100)).await.is_ok() {
                    world.book.accept(sender * 100);
                }
                drop(worker.reserve().await.map(|permit| permit.send(Ask::Note(sender * 100 + 1)).is_ok()));
            })
        });
        let stop = spawn(async move { drop(worker.stop().await) });
        for sender in senders {
            sender.await;
        }
        stop.await;
        world.check(events).await;
    });
}

#[test]
fn g11_paced_starts_pass_their_permit_on() {
    check(|| async {
        let (world, events) = World::new(|builder| builder.max_concurrent_starts(1));
        let starts = [KEY, OTHER].map(|key| {
            let world = world.clone();
            spawn(async move { world.registry.lookup_or_start(&key, world.plan(Init::Slow)).await.map(drop) })
        });
        let killer = world.clone();
        let kill = spawn(async move { killer.kill().await });
        let [first, second] = starts;
        let (first, second) = (first.await, second.await);
        assert!(matches!(first, Ok(()) | Err(StartError::Cancelled)) && second.is_ok(), "{first:?} {second:?}");
        kill.await;
        assert!(world.registry.lookup_or_start(&KEY, world.plan(Init::Ready)).await.is_ok(), "no permit is left");
        world.check(events).await;
    });
}

#[test]
fn g3_names_leave_before_an_exit_is_seen() {
    check(|| async {
        let (world, events) = World::plain();
        let (worker, names) = (world.start(KEY).await, Aliases::<u32, _>::new());
        let (registrar, held) = (names.clone(), worker.clone());
        let register = spawn(async move { drop(registrar.register(7, &held)) });
        let (reader, watched) = (names.clone(), worker.clone());
        let read = spawn(async move {
            watched.closed().await;
            assert!(reader.whereis(&7).is_none(), "a worker that has exited is found by its name");
            assert!(reader.names_of(&watched).is_empty());
        });
        drop(worker.stop().await);
        register.await;
        read.await;
        assert!(names.is_empty());
        let successor = world.start(KEY).await;
        names.register(7, &successor).expect("the name is free");
        world.check(events).await;
    });
}

#[test]
fn g10_hung_handler_ends_at_the_deadline() {
    check(|| async {
        let (world, events) = World::new(|builder| builder.stop_timeout(Duration::from_millis(1)));
        let worker = world.start(KEY).await;
        drop(worker.cast(Ask::Hang).await);
        let stopper = world.clone();
        let stop = spawn(async move { stopper.stop().await });
        let starter = world.clone();
        let start = spawn(async move {
            // The deadline needs time, which passes until the stop has returned.
            drop(starter.registry.lookup_or_start(&KEY, starter.plan(Init::Ready)).await);
        });
        let clock = spawn(async move {
            while !matches!(worker.state(), gen_registry::WorkerState::Exited) {
                pass(LONG).await;
            }
        });
        stop.await;
        start.await;
        clock.await;
        world.check(events).await;
    });
}

#[test]
fn g10_drop_of_the_last_registry_ends_its_workers() {
    check(|| async {
        let (world, mut events) = World::plain();
        let worker = world.start(KEY).await;
        let via = world.registry.via_or_start(&OTHER, world.plan(Init::Ready));
        let start = spawn(async move { drop(via.call(Ask::Echo).await) });
        let book = world.book.clone();
        let last = spawn(async move { drop(world) });
        assert!(matches!(worker.closed().await, ExitReason::Shutdown));
        start.await;
        last.await;
        while events.recv().await.is_some() {}
        assert_eq!(book.alive(), 0, "a state is left");
        book.check();
    });
}

#[test]
fn g6_messages_wait_for_the_next_run() {
    check(|| async {
        let (world, events) = World::new(|builder| {
            builder.restart(gen_registry::Restart::Permanent).restart_backoff(Duration::ZERO, Duration::ZERO)
        });
        let worker = world.start(KEY).await;
        let sender = world.clone();
        let casts = spawn(async move { sender.cast_notes(1, 3).await });
        let crashes = worker.clone();
        let crash = spawn(async move { drop(crashes.try_cast(Ask::Crash)) });
        casts.await;
        crash.await;
        assert_eq!(worker.call(Ask::Echo).await.ok(), Some(KEY), "no message is lost in a restart");
        world.check(events).await;
    });
}

#[test]
fn g7_idle_or_evicted_worker_loses_no_message() {
    check(|| async {
        let (world, events) = World::new(|builder| {
            let builder = builder.max_workers(1).eviction(Eviction::LeastRecentlyActive);
            builder.idle_timeout(Duration::from_millis(1))
        });
        world.start(KEY).await;
        let sender = world.clone();
        let sends = spawn(async move {
            for note in 101..=103 {
                if sender.registry.via_or_start(&KEY, sender.plan(Init::Ready)).cast(Ask::Note(note)).await.is_ok() {
                    sender.book.accept(note);
                }
            }
        });
        let evicts = world.clone();
        let evict = spawn(async move {
            drop(evicts.registry.lookup_or_start(&OTHER, evicts.plan(Init::Ready)).await);
        });
        pass(LONG).await;
        sends.await;
        evict.await;
        // Nothing stops a worker: what was accepted was handled.
        assert_eq!(world.book.undelivered_notes(), 0, "a message was lost in an idle window");
        world.check(events).await;
    });
}
