//! The same worker in other actor libraries. Their registries are global and support string keys only. xtra has none.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::FutureExt as _;
use kameo::actor::Spawn as _;
use kameo::registry::ACTOR_REGISTRY;
use ractor::{ActorProcessingErr, ActorStatus, RpcReplyPort};

use super::{Begin, Counts, MAILBOX, TALLY, Variant};

pub(crate) struct Add(u64);
pub(crate) struct Get;
pub(crate) struct Note;

pub(crate) struct KameoCounter(u64);

impl kameo::Actor for KameoCounter {
    type Args = Begin;
    type Error = Infallible;

    async fn on_start(begin: Begin, _actor: KameoRef) -> Result<Self, Infallible> {
        begin.init().await;
        Ok(Self(0))
    }
}

impl kameo::message::Message<Add> for KameoCounter {
    type Reply = ();

    async fn handle(&mut self, Add(n): Add, _ctx: &mut kameo::message::Context<Self, ()>) {
        self.0 += n;
    }
}

impl kameo::message::Message<Get> for KameoCounter {
    type Reply = u64;

    async fn handle(&mut self, Get: Get, _ctx: &mut kameo::message::Context<Self, u64>) -> u64 {
        self.0
    }
}

impl kameo::message::Message<Note> for KameoCounter {
    type Reply = ();

    async fn handle(&mut self, Note: Note, _ctx: &mut kameo::message::Context<Self, ()>) {
        TALLY.count();
    }
}

pub(crate) type KameoRef = kameo::actor::ActorRef<KameoCounter>;

impl Counts for KameoRef {
    async fn cast(&self) {
        self.tell(Add(1)).await.expect("the worker is running");
    }

    async fn call(&self) -> u64 {
        self.ask(Get).await.expect("the worker replies")
    }

    fn note(&self) {
        self.tell(Note).try_send().expect("the mailbox has room");
    }
}

/// kameo with its default mailbox, which is bounded to 64. A start is not atomic: spawn, then register.
#[derive(Clone)]
pub(crate) struct Kameo;

impl Kameo {
    pub(crate) async fn spawn() -> KameoRef {
        let actor = KameoCounter::spawn(Begin::AtOnce);
        actor.wait_for_startup().await;
        actor
    }
}

impl Variant<String> for Kameo {
    const NAME: &'static str = "kameo";
    const IS_GLOBAL: bool = true;
    type Handle = KameoRef;

    fn empty() -> Self {
        Self
    }

    fn lookup(&self, key: &String) -> Option<KameoRef> {
        KameoRef::lookup(key.as_str()).expect("only one type of actor is registered")
    }

    async fn start(&self, key: &String) -> KameoRef {
        let actor = Kameo::spawn().await;
        actor.register(key.clone()).expect("a vacant name");
        actor
    }

    async fn end(self) {
        // The registry has the last references. An actor that ends while its name is registered scans all names.
        ACTOR_REGISTRY.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

pub(crate) struct RactorCounter;

pub(crate) enum RactorMessage {
    Add(u64),
    Get(RpcReplyPort<u64>),
    Note,
}

impl ractor::Actor for RactorCounter {
    type Msg = RactorMessage;
    type State = u64;
    type Arguments = Begin;

    async fn pre_start(&self, _myself: RactorRef, begin: Begin) -> Result<u64, ActorProcessingErr> {
        begin.init().await;
        Ok(0)
    }

    async fn handle(
        &self,
        _myself: RactorRef,
        message: RactorMessage,
        count: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RactorMessage::Add(n) => *count += n,
            // The caller may have dropped its receiver.
            RactorMessage::Get(reply) => drop(reply.send(*count)),
            RactorMessage::Note => TALLY.count(),
        }
        Ok(())
    }
}

pub(crate) type RactorRef = ractor::ActorRef<RactorMessage>;

impl Counts for RactorRef {
    async fn cast(&self) {
        ractor::ActorRef::cast(self, RactorMessage::Add(1)).expect("the worker is running");
    }

    async fn call(&self) -> u64 {
        ractor::ActorRef::call(self, RactorMessage::Get, None)
            .await
            .expect("the worker is running")
            .expect("the worker replies")
    }

    fn note(&self) {
        ractor::ActorRef::cast(self, RactorMessage::Note).expect("the worker is running");
    }
}

/// ractor, whose mailboxes are unbounded: a cast never waits.
#[derive(Clone)]
pub(crate) struct Ractor;

impl Ractor {
    pub(crate) async fn spawn(name: Option<String>, begin: Begin) -> RactorRef {
        <RactorCounter as ractor::Actor>::spawn(name, RactorCounter, begin).await.expect("the start succeeds").0
    }
}

impl Variant<String> for Ractor {
    const NAME: &'static str = "ractor";
    const IS_GLOBAL: bool = true;
    type Handle = RactorRef;

    fn empty() -> Self {
        Self
    }

    fn lookup(&self, key: &String) -> Option<RactorRef> {
        RactorRef::where_is(key)
    }

    async fn start(&self, key: &String) -> RactorRef {
        Ractor::spawn(Some(key.clone()), Begin::AtOnce).await
    }

    async fn end(self) {
        let named = ractor::registry::registered().into_iter().filter_map(ractor::registry::where_is);
        let actors: Vec<_> = named.collect();
        for actor in &actors {
            actor.stop(None);
        }
        // An actor that has just started reports `Starting` briefly. One that still does after this hangs, and is
        // dropped with its runtime.
        tokio::time::sleep(Duration::from_millis(2)).await;
        for actor in actors {
            while !matches!(actor.get_status(), ActorStatus::Starting | ActorStatus::Stopped) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

#[derive(xtra::Actor)]
pub(crate) struct XtraCounter(u64);

impl xtra::Handler<Add> for XtraCounter {
    type Return = ();

    async fn handle(&mut self, Add(n): Add, _ctx: &mut xtra::Context<Self>) {
        self.0 += n;
    }
}

impl xtra::Handler<Get> for XtraCounter {
    type Return = u64;

    async fn handle(&mut self, Get: Get, _ctx: &mut xtra::Context<Self>) -> u64 {
        self.0
    }
}

impl xtra::Handler<Note> for XtraCounter {
    type Return = ();

    async fn handle(&mut self, Note: Note, _ctx: &mut xtra::Context<Self>) {
        TALLY.count();
    }
}

/// An xtra actor with a mailbox of 64.
pub(crate) fn xtra_spawn() -> xtra::Address<XtraCounter> {
    xtra::spawn_tokio(XtraCounter(0), xtra::Mailbox::bounded(MAILBOX))
}

impl Counts for xtra::Address<XtraCounter> {
    async fn cast(&self) {
        // Detached, the send completes when the mailbox has accepted the message. Its result awaits the handler.
        drop(self.send(Add(1)).detach().await.expect("the worker is running"));
    }

    async fn call(&self) -> u64 {
        self.send(Get).await.expect("the worker replies")
    }

    fn note(&self) {
        let sent = self.send(Note).detach().now_or_never().expect("the mailbox has room");
        // As for a cast.
        drop(sent.expect("the worker is running"));
    }
}
