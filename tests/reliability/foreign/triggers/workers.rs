//! The code of a worker: its methods, its messages, its tasks and its span.

use std::future::pending;
use std::time::Duration;

use gen_registry::{Reply, WorkerHandle};
use test_support::{Gate, within};

use super::Returned;
use crate::cell::World;
use crate::device::Tracked;
use crate::host::{Args, Host, Message, Name, STANDBY, VICTIM};
use crate::place::Place;

pub(super) async fn run(world: &World) -> Returned {
    if world.place == Place::Init {
        world.arm();
        return Returned::from(&world.verbs.registry.start(&world.id(), Args::quiet(&world.device)).await);
    }
    let victim = world.start().await;
    world.arm();
    match world.place {
        Place::Handle => drop(victim.call(Message::echo(&world.device)).await),
        Place::Terminate => drop(world.verbs.registry.stop(&world.id()).await),
        // `terminate`, which would drop the state, does not run.
        _ => drop(world.verbs.registry.kill(&world.id()).await),
    }
    Returned::Other
}

pub(super) async fn fail(world: &World) {
    let victim = world.start().await;
    world.arm();
    // Refused once the deed has stopped it.
    drop(victim.try_cast(Message::Fail));
    drop(victim);
    world.until("the end of the victim", |stats| stats.exits.failed + stats.exits.panicked > 0).await;
    if world.place == Place::ErrorDrop {
        world.churn_until_reached().await;
    }
    world.device.reached().await;
}

/// Calls the victim, which is hung, and returns when its handler has begun.
async fn hang(world: &World, victim: &WorkerHandle<Host>) {
    victim.cast(Message::Hang).await.expect("it runs");
    world.until("the begin of the handler", |stats| stats.queued == 0).await;
}

pub(super) async fn message(world: &World) {
    let (registry, device) = (&world.verbs.registry, &world.device);
    let victim = world.start().await;
    let loud = |place| Tracked::new(device, place, VICTIM);
    match world.place {
        Place::MessageMade => {
            world.arm();
            let called = victim.call(|reply| {
                device.reach(Place::MessageMade);
                Message::echo(device)(reply)
            });
            drop(called.await);
        }
        Place::MessageDropRefused => {
            drop(registry.stop(&world.id()).await);
            let message = loud(Place::MessageDropRefused);
            world.arm();
            drop(victim.call(|reply| Message::Echo(reply, message)).await);
        }
        Place::MessageDropUndelivered => {
            hang(world, &victim).await;
            let message = loud(Place::MessageDropUndelivered);
            let pending = victim.try_call(|reply| Message::Echo(reply, message)).expect("there is room");
            world.arm();
            drop(registry.kill(&world.id()).await);
            assert!(within(pending, "the answer to the call").await.is_err());
        }
        Place::Undelivered => {
            hang(world, &victim).await;
            victim.cast(world.note()).await.expect("there is room");
            world.arm();
            drop(registry.kill(&world.id()).await);
        }
        _ => {
            let gate = Gate::new();
            let (passed, answer) = (gate.clone(), loud(Place::AnswerDrop));
            let called = victim.try_call(|reply: Reply<Tracked>| {
                Message::run(move |_| {
                    Box::pin(async move {
                        passed.pass().await;
                        reply.send(answer);
                    })
                })
            });
            gate.reached().await;
            drop(called);
            world.arm();
            gate.open();
            device.reached().await;
        }
    }
}

pub(super) async fn fold(world: &World) {
    let (verbs, device) = (&world.verbs, &world.device);
    let victim = world.start().await;
    if world.place == Place::Fold {
        world.arm();
        return verbs.registry.reduce((), |(), _, _| device.reach(Place::Fold));
    }
    verbs.groups.join(Name::new(device), &victim).expect("it runs");
    let property = Name::new(device);
    world.arm();
    let sent = verbs.groups.broadcast(&property, |_| {
        device.reach(Place::Broadcast);
        Message::quiet(device)
    });
    drop(sent.await);
}

/// Runs code in the victim's handler, and waits for its result.
async fn run_in<T: Send + 'static>(
    victim: &WorkerHandle<Host>,
    code: impl for<'a> FnOnce(&'a mut gen_registry::Context<Host>) -> test_support::BoxFuture<'a, T> + Send + 'static,
) {
    // It fails if the deed ends the worker.
    drop(
        victim
            .call(|reply: Reply<T>| Message::run(move |ctx| Box::pin(async move { reply.send(code(ctx).await) })))
            .await,
    );
}

pub(super) async fn task(world: &World) {
    let victim = world.start().await;
    let (device, place) = (world.device.clone(), world.place);
    let other = world.verbs.registry.lookup(&world.verbs.id(STANDBY)).expect("it runs");
    world.arm();
    match place {
        Place::TaskCode => {
            run_in(&victim, move |ctx| {
                let task = ctx.spawn(async move { device.reach(place) });
                Box::pin(async move { drop(task.await) })
            })
            .await;
        }
        Place::BlockingCode => {
            run_in(&victim, move |ctx| {
                let task = ctx.spawn_blocking(move || device.reach(place));
                Box::pin(async move { drop(task.await) })
            })
            .await;
        }
        Place::TaskDrop => {
            let captured = Tracked::new(&device, place, VICTIM);
            run_in(&victim, move |ctx| {
                let task = ctx.spawn(async move {
                    let _captured = captured;
                    pending::<()>().await;
                });
                Box::pin(async move {
                    tokio::task::yield_now().await;
                    task.abort();
                    drop(task.await);
                })
            })
            .await;
        }
        Place::Interval => {
            run_in(&victim, move |ctx| {
                ctx.send_interval(Duration::from_millis(1), move || {
                    device.reach(place);
                    Message::quiet(&device)
                });
                Box::pin(async {})
            })
            .await;
        }
        Place::Monitor => {
            let watched = other.clone();
            run_in(&victim, move |ctx| {
                ctx.monitor(&watched, move |_| {
                    device.reach(place);
                    Message::quiet(&device)
                });
                Box::pin(async {})
            })
            .await;
            drop(other.stop().await);
        }
        _ => {
            let message = Message::Note(Tracked::new(&device, place, VICTIM));
            run_in(&victim, move |ctx| {
                let timer = ctx.send_after(Duration::from_secs(3_600), message);
                Box::pin(async move {
                    tokio::task::yield_now().await;
                    timer.cancel();
                })
            })
            .await;
        }
    }
    world.device.reached().await;
}

pub(super) async fn trace(world: &World) {
    world.arm();
    // The span of the victim is made in its task.
    let started = world.verbs.registry.start(&world.id(), Args::quiet(&world.device)).await;
    assert!(started.is_ok() || world.is_ended(), "{:?}: {:?}", world.place, started.err());
    if let Ok(victim) = started {
        drop(victim.try_cast(Message::Fail));
    }
    world.device.reached().await;
}
