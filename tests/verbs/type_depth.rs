//! A tree of worker types, each with addresses, handles and registries of the next type in its arguments, its state and
//! its messages. Checking `Send` traverses the whole tree, and the compiler gives up at a depth of 128 types unless a
//! crate raises its `recursion_limit`. This crate must not need to.

#![allow(dead_code, reason = "most fields exist only for the check of `Send`")]

use std::convert::Infallible;

use gen_registry::{Context, Registry, Reply, StartError, StopError, Via, Worker, WorkerHandle};
use test_support::within;

const KEY: u32 = 1;
const VACANT: u32 = 2;

/// Defines the module of a level above another one.
macro_rules! level {
    ($level:ident above $below:ident) => {
        mod $level {
            use super::*;

            #[derive(Clone)]
            pub(super) struct Args {
                vias: Vec<Via<$below::Level>>,
                registries: Vec<Registry<$below::Level>>,
                registry: Registry<$below::Level>,
                via: Via<$below::Level>,
                below: $below::Args,
            }

            impl Args {
                pub(super) fn new() -> Self {
                    let (registry, below) = (Registry::new(), $below::Args::new());
                    let via = registry.via_or_start(&KEY, below.clone());
                    Self { vias: vec![via.clone()], registries: vec![registry.clone()], registry, via, below }
                }
            }

            pub(super) struct Level {
                vias: Vec<Via<$below::Level>>,
                handles: Vec<WorkerHandle<$below::Level>>,
                handle: WorkerHandle<$below::Level>,
                args: Args,
            }

            pub(super) enum Message {
                Depth(Reply<u32>),
                Below(Reply<WorkerHandle<$below::Level>>),
                Keep(Vec<WorkerHandle<$below::Level>>, Via<$below::Level>),
            }

            impl Worker for Level {
                type Key = u32;
                type Args = Args;
                type Message = Message;
                type Error = Infallible;

                async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Infallible> {
                    let Args { registry, via, below, .. } = &args;
                    ctx.own(registry);
                    let handle = registry.lookup_or_start(&KEY, below.clone()).await.expect("the start succeeds");
                    let depth = via.call($below::Message::Depth).await.expect("the worker replies");
                    assert_eq!(handle.call($below::Message::Depth).await.expect("the worker replies"), depth);
                    let (reply, answer) = tokio::sync::oneshot::channel();
                    via.cast($below::Message::Depth(reply.into())).await.expect("the worker accepts the message");
                    assert_eq!(answer.await, Ok(depth));
                    let (reply, answer) = tokio::sync::oneshot::channel();
                    handle.cast($below::Message::Depth(reply.into())).await.expect("the worker accepts the message");
                    assert_eq!(answer.await, Ok(depth));
                    let refused = registry.start(&KEY, below.clone()).await;
                    assert!(matches!(refused, Err(StartError::AlreadyStarted { .. })));
                    let hit = registry.lookup_or_start_with(&KEY, || below.clone()).await.expect("a hit");
                    assert_eq!(registry.stop(&VACANT).await.expect_err("the key is vacant"), StopError::NotFound);
                    assert_eq!(registry.kill(&VACANT).await.expect_err("the key is vacant"), StopError::NotFound);
                    let via = via.clone();
                    let subtask =
                        ctx.spawn(async move { via.call($below::Message::Depth).await.expect("the worker replies") });
                    assert_eq!(subtask.await, Ok(depth));
                    let (kept, via) = (handle.clone(), args.via.clone());
                    ctx.monitor(&handle, |_| Message::Keep(vec![kept], via));
                    Ok(Self { vias: Vec::new(), handles: vec![hit], handle, args })
                }

                async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
                    match message {
                        Message::Depth(reply) => {
                            let below = self.args.via.call($below::Message::Depth).await.expect("the worker replies");
                            reply.send(below + 1);
                        }
                        Message::Below(reply) => reply.send(self.handle.clone()),
                        Message::Keep(handles, via) => {
                            self.handles.extend(handles);
                            self.vias.push(via);
                        }
                    }
                    Ok(())
                }
            }
        }
    };
}

mod l16 {
    use super::*;

    #[derive(Clone)]
    pub(super) struct Args;

    impl Args {
        pub(super) fn new() -> Self {
            Self
        }
    }

    pub(super) struct Level;

    pub(super) enum Message {
        Depth(Reply<u32>),
    }

    impl Worker for Level {
        type Key = u32;
        type Args = Args;
        type Message = Message;
        type Error = Infallible;

        async fn init(_: Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
            Ok(Self)
        }

        async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
            let Message::Depth(reply) = message;
            reply.send(1);
            Ok(())
        }
    }
}

level!(l15 above l16);
level!(l14 above l15);
level!(l13 above l14);
level!(l12 above l13);
level!(l11 above l12);
level!(l10 above l11);
level!(l09 above l10);
level!(l08 above l09);
level!(l07 above l08);
level!(l06 above l07);
level!(l05 above l06);
level!(l04 above l05);
level!(l03 above l04);
level!(l02 above l03);
level!(l01 above l02);

#[tokio::test]
async fn sixteen_nested_worker_types_compile() {
    let registry = Registry::<l01::Level>::new();
    let via = registry.via_or_start(&KEY, l01::Args::new());
    assert_eq!(within(via.call(l01::Message::Depth), "the call").await.expect("the worker replies"), 16);
    let top = registry.lookup(&KEY).expect("the worker is running");
    let second = within(top.call(l01::Message::Below), "the call").await.expect("the worker replies");
    let third = within(second.call(l02::Message::Below), "the call").await.expect("the worker replies");
    assert_eq!(within(third.call(l03::Message::Depth), "the call").await.expect("the worker replies"), 14);
    assert_eq!(within(registry.shutdown(), "the shutdown").await.aborted, 0);
    assert_eq!(third.state(), gen_registry::WorkerState::Exited, "its owner ended it");
}
