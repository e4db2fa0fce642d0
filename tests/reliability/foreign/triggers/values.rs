//! Keys, arguments, names, the builder's closures, and recorders.

use std::sync::Arc;

use gen_registry::Registry;
use test_support::{Gate, poll_once, within};

use super::Returned;
use crate::cell::World;
use crate::device::Tracked;
use crate::host::{Args, Host, Message, Name, VICTIM};
use crate::place::Place;
use crate::recorder::ForeignRecorder;

pub(super) async fn start(world: &World) -> Returned {
    let (registry, device, id) = (&world.verbs.registry, &world.device, world.id());
    match world.place {
        Place::KeyHash => {
            world.arm();
            drop(registry.lookup(&id));
        }
        Place::KeyEqInLookup => {
            drop(world.start().await);
            world.arm();
            drop(registry.lookup(&id));
        }
        Place::KeyEqInOwner => {
            let gate = Gate::new();
            let (first, args) = (registry.clone(), Args::gated(device, &gate));
            let first = tokio::spawn(async move { first.lookup_or_start(&id, args).await.map(drop) });
            gate.reached().await;
            world.arm();
            let id = world.id();
            let mut second = Box::pin(registry.lookup_or_start(&id, Args::quiet(device)));
            let polled = poll_once(second.as_mut()).await;
            gate.open();
            let second = match polled {
                std::task::Poll::Ready(second) => second,
                std::task::Poll::Pending => second.await,
            };
            // The deed may have stopped it.
            drop(within(first, "the first start").await.expect("no foreign code runs in this task"));
            return Returned::from(&second);
        }
        Place::KeyDrop => {
            drop(world.start().await);
            drop(registry.stop(&id).await);
            world.arm();
            world.churn_until_reached().await;
            world.device.reached().await;
        }
        Place::KeyClone | Place::KeyDebug | Place::ArgsClone | Place::Accepts => {
            world.arm();
            return Returned::from(&registry.start(&id, Args::quiet(device)).await);
        }
        Place::ArgsMade => {
            world.arm();
            let made = registry.lookup_or_start_with(&id, || {
                device.reach(Place::ArgsMade);
                Args::quiet(device)
            });
            drop(made.await);
        }
        Place::ArgsMadeByVia => {
            let own = device.clone();
            let via = registry.via_or_start_with(&id, move || {
                own.reach(Place::ArgsMadeByVia);
                Args::quiet(&own)
            });
            world.arm();
            drop(via.cast(world.note()).await);
        }
        Place::ArgsDropUnused => {
            drop(world.start().await);
            world.arm();
            drop(registry.lookup_or_start(&id, Args::new(device, Place::ArgsDropUnused)).await);
        }
        _ => abandon(world).await,
    }
    Returned::Other
}

/// The caller of a start that has joined another one is dropped, and its arguments are unused.
async fn abandon(world: &World) {
    let (registry, device, gate) = (&world.verbs.registry, &world.device, Gate::new());
    let (first, id, args) = (registry.clone(), world.id(), Args::gated(device, &gate));
    let first = tokio::spawn(async move { first.lookup_or_start(&id, args).await.map(drop) });
    gate.reached().await;
    let id = world.id();
    let mut second = Box::pin(registry.lookup_or_start(&id, Args::new(device, Place::ArgsDropAbandoned)));
    assert!(poll_once(second.as_mut()).await.is_pending());
    world.arm();
    drop(second);
    gate.open();
    device.reached().await;
    drop(within(first, "the first start").await.expect("no foreign code runs in this task"));
}

/// The last reference to a registry and its workers is dropped.
pub(super) async fn drop_registry(world: &World) {
    let device = &world.device;
    let builder = match world.place {
        Place::AcceptsDrop => {
            let captured = Tracked::new(device, Place::AcceptsDrop, VICTIM);
            Registry::<Host>::builder().accepts(move |_| captured.device().live() > 0)
        }
        Place::UndeliveredDrop => {
            let captured = Tracked::new(device, Place::UndeliveredDrop, VICTIM);
            Registry::<Host>::builder().on_undelivered(move |_, _| captured.device().release())
        }
        _ => Registry::<Host>::builder().name("dropped").recorder(Arc::new(ForeignRecorder::new(device))),
    };
    let registry = builder.build().expect("the test has a runtime");
    let worker = registry.start(&world.id(), Args::quiet(device)).await.map(drop);
    assert!(worker.is_ok());
    world.arm();
    assert_eq!(within(registry.shutdown(), "the shutdown of the dropped registry").await.stuck, 0);
    drop(registry);
    device.reached().await;
}

pub(super) async fn name(world: &World) {
    let (device, verbs) = (&world.device, &world.verbs);
    let name = || Name::new(device);
    let victim = world.start().await;
    if world.place == Place::PropertyEqInChange {
        verbs.groups.join(name(), &victim).expect("it runs");
        world.arm();
        verbs.groups.leave(&name(), &victim);
        return;
    }
    if world.place != Place::NameHash {
        verbs.aliases.register(name(), &victim).expect("it runs, and the name is free");
    }
    match world.place {
        Place::NameDrop => {
            world.arm();
            drop(verbs.registry.stop(&world.id()).await);
        }
        Place::NameEqInChange => {
            let again = name();
            world.arm();
            drop(verbs.aliases.register(again, &victim));
        }
        Place::NameClone => {
            world.arm();
            drop(verbs.aliases.names_of(&victim));
        }
        Place::NameFold => {
            world.arm();
            verbs.aliases.reduce((), |(), _, _| device.reach(Place::NameFold));
        }
        // In the other places the name's `Drop` must come after the deed.
        _ => {
            let name = name();
            world.arm();
            drop(verbs.aliases.whereis(&name));
        }
    }
}

pub(super) async fn record(world: &World) {
    let victim = world.start().await;
    if world.place == Place::RecorderInHandling {
        world.arm();
        while !world.device.was_reached() {
            drop(victim.call(Message::echo(&world.device)).await);
            tokio::task::yield_now().await;
        }
        return;
    }
    world.arm();
    // The recorder gets the durations at 1,024 of them.
    world.churn(1_100).await;
    world.device.reached().await;
}
