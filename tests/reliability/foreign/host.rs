//! [`Host`]: a worker all of whose parts are foreign code.

use std::error::Error;
use std::fmt;
use std::future::{pending, poll_fn};
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::task;

use gen_registry::{Context, Equivalent, ExitReason, Mailbox, Reply, ToKey, Worker};
use test_support::{BoxFuture, Gate};

use crate::device::{Device, Tracked};
use crate::place::Place;

/// The worker whose code does the deed.
pub(crate) const VICTIM: u32 = 1;
/// A worker that must not be delayed.
pub(crate) const BYSTANDER: u32 = 2;
/// A worker that verbs stop.
pub(crate) const STANDBY: u32 = 3;
/// Keys from here on are fresh.
pub(crate) const FRESH: u32 = 10;

/// Reaches the device if the code belongs to the victim.
fn reach(device: &Device, id: u32, place: Place) {
    if id == VICTIM {
        device.reach(place);
    }
}

/// A key. Only the registry holds keys; callers use the borrowed form, [`Id`].
pub(crate) struct Key {
    pub(crate) id: u32,
    tracked: Tracked,
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self { id: self.id, tracked: Tracked::new(self.tracked.device(), Place::KeyDrop, self.id) }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        reach(self.tracked.device(), self.id, Place::KeyEqInOwner);
        self.id == other.id
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        reach(self.tracked.device(), self.id, Place::KeyDebug);
        f.write_str("a key")
    }
}

#[derive(Clone)]
pub(crate) struct Id {
    pub(crate) id: u32,
    pub(crate) device: Device,
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        reach(&self.device, self.id, Place::KeyHash);
        self.id.hash(state);
    }
}

impl Equivalent<Key> for Id {
    fn equivalent(&self, key: &Key) -> bool {
        reach(&self.device, self.id, Place::KeyEqInLookup);
        self.id == key.id
    }
}

impl ToKey<Key> for Id {
    fn to_key(&self) -> Key {
        reach(&self.device, self.id, Place::KeyClone);
        Key { id: self.id, tracked: Tracked::new(&self.device, Place::KeyDrop, self.id) }
    }
}

/// A name or a property.
pub(crate) struct Name(Tracked);

impl Name {
    pub(crate) fn new(device: &Device) -> Self {
        Self(Tracked::new(device, Place::NameDrop, VICTIM))
    }
}

impl Clone for Name {
    fn clone(&self) -> Self {
        self.0.device().reach(Place::NameClone);
        Self::new(self.0.device())
    }
}

impl PartialEq for Name {
    fn eq(&self, _: &Self) -> bool {
        for place in [Place::NameEqInRead, Place::NameEqInChange, Place::PropertyEqInChange] {
            self.0.device().reach(place);
        }
        true
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.device().reach(Place::NameHash);
        state.write_u8(0);
    }
}

pub(crate) struct Args {
    device: Device,
    gate: Option<Gate>,
    _tracked: Tracked,
}

impl Args {
    /// `place`: whose drop it is.
    pub(crate) fn new(device: &Device, place: Place) -> Self {
        Self { device: device.clone(), gate: None, _tracked: Tracked::new(device, place, VICTIM) }
    }

    /// Arguments whose drop reaches nothing.
    pub(crate) fn quiet(device: &Device) -> Self {
        Self { device: device.clone(), gate: None, _tracked: Tracked::new(device, Place::ArgsDropUnused, BYSTANDER) }
    }

    /// `init` waits until the gate is open.
    pub(crate) fn gated(device: &Device, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..Self::quiet(device) }
    }
}

impl Clone for Args {
    fn clone(&self) -> Self {
        self.device.reach(Place::ArgsClone);
        Self { gate: self.gate.clone(), ..Self::quiet(&self.device) }
    }
}

pub(crate) type Job = Box<dyn for<'a> FnOnce(&'a mut Context<Host>) -> BoxFuture<'a, ()> + Send>;

pub(crate) enum Message {
    Echo(Reply<u32>, #[allow(dead_code, reason = "only its drop matters")] Tracked),
    Note(#[allow(dead_code, reason = "only its drop matters")] Tracked),
    Fail,
    Hang,
    Run(Job),
}

impl Message {
    pub(crate) fn run(code: impl for<'a> FnOnce(&'a mut Context<Host>) -> BoxFuture<'a, ()> + Send + 'static) -> Self {
        Self::Run(Box::new(code))
    }

    /// A note whose drop reaches nothing.
    pub(crate) fn quiet(device: &Device) -> Self {
        Self::Note(Tracked::new(device, Place::MessageDropUndelivered, BYSTANDER))
    }

    pub(crate) fn echo(device: &Device) -> impl FnOnce(Reply<u32>) -> Self {
        let tracked = Tracked::new(device, Place::MessageDropUndelivered, BYSTANDER);
        move |reply| Self::Echo(reply, tracked)
    }
}

/// An error that becomes a [`Failure`].
pub(crate) struct Fault(Device);

struct Failure(Tracked);

impl From<Fault> for Box<dyn Error + Send + Sync> {
    fn from(Fault(device): Fault) -> Self {
        device.reach(Place::ErrorInto);
        Box::new(Failure(Tracked::new(&device, Place::ErrorDrop, VICTIM)))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a failure")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.device().reach(Place::ErrorDisplay);
        f.write_str("a failure")
    }
}

impl Error for Failure {}

pub(crate) struct Host {
    id: u32,
    device: Device,
    _tracked: Tracked,
}

impl Worker for Host {
    type Key = Key;
    type Args = Args;
    type Message = Message;
    type Error = Fault;

    async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Fault> {
        let (id, device) = (ctx.key().id, args.device.clone());
        if let Some(gate) = &args.gate {
            gate.pass().await;
        }
        reach(&device, id, Place::Init);
        Ok(Self { id, _tracked: Tracked::new(&device, Place::StateDrop, id), device })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Fault> {
        reach(&self.device, self.id, Place::Handle);
        match message {
            Message::Echo(reply, _) => reply.send(self.id),
            Message::Note(_) => {}
            Message::Fail => return Err(Fault(self.device.clone())),
            Message::Hang => pending().await,
            Message::Run(job) => job(ctx).await,
        }
        Ok(())
    }

    /// As the default, but that the waker may be foreign.
    async fn run(&mut self, mailbox: &mut Mailbox<Message>, ctx: &mut Context<Self>) -> Result<(), Fault> {
        loop {
            let received = {
                let mut received = pin!(mailbox.recv());
                poll_fn(|cx| {
                    let wrapped = if self.id == VICTIM { self.device.receiver_waker(cx) } else { None };
                    match wrapped {
                        Some(waker) => received.as_mut().poll(&mut task::Context::from_waker(&waker)),
                        None => received.as_mut().poll(cx),
                    }
                })
                .await
            };
            let Some(message) = received else { return Ok(()) };
            self.handle(message, ctx).await?;
        }
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        reach(&self.device, self.id, Place::Terminate);
    }
}
