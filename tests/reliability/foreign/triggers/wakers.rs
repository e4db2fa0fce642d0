//! Wakers of other executors.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gen_registry::{Reply, WorkerHandle};
use test_support::{BoxFuture, Gate, poll_once, within};

use crate::cell::World;
use crate::device::ForeignWaker;
use crate::host::{Args, Host, Message, Name};
use crate::place::Place;

/// Polls a future as another executor does. The future keeps the last reference to the waker.
fn poll_foreign<F: Future + ?Sized>(world: &World, future: Pin<&mut F>) -> Poll<F::Output> {
    let drop = match world.place {
        Place::WakerDropReplaced => Place::WakerDropReplaced,
        _ => Place::WakerDropCancelled,
    };
    let waker = ForeignWaker::wrap(&world.device, Waker::noop().clone(), world.place, drop);
    future.poll(&mut Context::from_waker(&waker))
}

/// Polls with a foreign waker, lets `event` happen, and waits for the wake and then for the future.
async fn woken(world: &World, mut future: BoxFuture<'_, ()>, event: impl Future<Output = ()>) {
    assert!(poll_foreign(world, future.as_mut()).is_pending(), "{:?} is ready at once", world.place);
    world.arm();
    event.await;
    world.device.reached().await;
    within(future, "the future whose waker is foreign").await;
}

/// The handler of the victim waits at the gate, and then answers.
fn at_gate(gate: &Gate) -> impl FnOnce(Reply<()>) -> Message {
    let gate = gate.clone();
    move |reply| {
        Message::run(move |_| {
            Box::pin(async move {
                gate.pass().await;
                reply.send(());
            })
        })
    }
}

/// Fills the mailbox of the victim, whose handler waits at the gate.
async fn fill(world: &World, victim: &WorkerHandle<Host>, gate: &Gate) {
    drop(victim.try_call(at_gate(gate)));
    gate.reached().await;
    while victim.try_cast(world.note()).is_ok() {}
}

pub(super) async fn wake(world: &World) {
    let (verbs, device, gate) = (&world.verbs, &world.device, Gate::new());
    let (registry, id) = (&verbs.registry, world.id());
    let open = async { gate.open() };
    match world.place {
        Place::WakeForStart => {
            let start = registry.lookup_or_start(&id, Args::gated(device, &gate));
            let open = async {
                gate.reached().await;
                gate.open();
            };
            return woken(world, Box::pin(async move { drop(start.await) }), open).await;
        }
        Place::WakeForReport => {
            world.set_ended();
            return woken(world, Box::pin(async { assert_eq!(registry.shutdown().await.stuck, 0) }), async {}).await;
        }
        _ => {}
    }
    let victim = world.start().await;
    match world.place {
        Place::WakeForReply => {
            let call = Box::pin(async { drop(victim.call(at_gate(&gate)).await) });
            woken(world, call, open).await;
        }
        Place::WakeForRoom => {
            fill(world, &victim, &gate).await;
            let cast = Box::pin(async { drop(victim.cast(world.note()).await) });
            woken(world, cast, open).await;
        }
        Place::WakeForClose => {
            fill(world, &victim, &gate).await;
            let cast = Box::pin(async { drop(victim.cast(world.note()).await) });
            let mut stop = Box::pin(async { drop(registry.stop(&id).await) });
            let begin = async { assert!(poll_once(stop.as_mut()).await.is_pending()) };
            woken(world, cast, begin).await;
            gate.open();
            within(stop, "the stop").await;
        }
        Place::WakeForEvent => {
            let mut events = registry.subscribe();
            let next = Box::pin(async move { drop(events.recv().await) });
            let stop = async { drop(registry.stop(&id).await) };
            woken(world, next, stop).await;
        }
        Place::WakeForStop => {
            drop(victim.try_call(at_gate(&gate)));
            gate.reached().await;
            woken(world, Box::pin(async { drop(registry.stop(&id).await) }), open).await;
        }
        Place::WakeForExit => {
            let stop = async { drop(registry.stop(&id).await) };
            woken(world, Box::pin(async { drop(victim.closed().await) }), stop).await;
        }
        Place::WakeForName => {
            let name = Name::new(device);
            let wait = verbs.aliases.await_registration(&name, Duration::from_secs(2));
            let register = async { drop(verbs.aliases.register(Name::new(device), &victim)) };
            woken(world, Box::pin(async move { drop(wait.await) }), register).await;
        }
        _ => {
            let passed = gate.clone();
            let spawned = victim.call(|reply: Reply<gen_registry::Task<()>>| {
                Message::run(move |ctx| {
                    reply.send(ctx.spawn(async move { passed.pass().await }));
                    Box::pin(async {})
                })
            });
            let task = spawned.await.expect("it runs");
            gate.reached().await;
            woken(world, Box::pin(async move { drop(task.await) }), open).await;
        }
    }
}

pub(super) async fn release(world: &World) {
    if world.place == Place::WakerDropInMailbox {
        world.device.wrap_receiver();
        let victim = world.start().await;
        // The next message is awaited with a foreign waker.
        drop(victim.call(Message::echo(&world.device)).await);
        world.arm();
        while !world.device.was_reached() {
            world.device.wake_receiver();
            tokio::task::yield_now().await;
        }
        return;
    }
    let (victim, gate) = (world.start().await, Gate::new());
    fill(world, &victim, &gate).await;
    let mut cast = Box::pin(async { drop(victim.cast(world.note()).await) });
    assert!(poll_foreign(world, cast.as_mut()).is_pending());
    world.arm();
    if world.place == Place::WakerDropReplaced {
        let polled = cast.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending() || world.is_ended());
        gate.open();
        if polled.is_pending() {
            within(cast, "the send").await;
        }
    } else {
        drop(cast);
        gate.open();
    }
    world.device.reached().await;
}
