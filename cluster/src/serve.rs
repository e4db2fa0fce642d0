//! What this node does with the requests of other nodes, for one kind.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gen_registry::{Permit, StopError, Worker};

use crate::codec::{Codec, CodecError, Part};
use crate::error::Why;
use crate::exit;
use crate::fence::Validity;
use crate::id::Shard;
use crate::key::ClusterKey;
use crate::kind::{Kind, Local, NotSent};
use crate::message::{Answers, Call, Cast, Takes};
use crate::node::kinds::{AnyKind, AnyOpen};
use crate::remote::RemoteError;
use crate::send::{not_answered, not_reserved, not_sent};
use crate::transport::{AnswerRoom, Failure, Next, Request, Response, Verb};

impl<W: Worker<Key: ClusterKey>> AnyKind for Kind<W> {
    fn at(&self, shard: Shard) -> Option<Arc<dyn AnyOpen>> {
        Kind::at(self, shard).map(|open| open as Arc<dyn AnyOpen>)
    }

    fn try_take(&self, shard: Shard) -> bool {
        Kind::try_take(self, shard)
    }

    fn begin_abort(&self) {
        for open in self.all() {
            AnyOpen::begin_abort(&*open);
        }
    }

    fn count(&self) -> u64 {
        self.all().map(|open| open.registry.count() as u64).sum()
    }

    fn sums(&self) -> [u64; 2] {
        Kind::sums(self)
    }

    fn serve<'a>(
        self: Arc<Self>,
        request: &'a Request,
        shard: Shard,
        validity: &'a Arc<Validity>,
        room: &'a AnswerRoom,
    ) -> BoxFuture<'a, Option<Response>> {
        Box::pin(serve(self, request, shard, validity, room))
    }
}

/// Serves a request. `None`: the shard has moved, and nothing of the request has begun.
pub(crate) async fn serve<W: Worker<Key: ClusterKey>>(
    kind: Arc<Kind<W>>,
    request: &Request,
    shard: Shard,
    validity: &Arc<Validity>,
    room: &AnswerRoom,
) -> Option<Response> {
    let key = match W::Key::decode(&request.key) {
        Ok(key) => key,
        Err(error) => return Some(Response::Codec(error.of(Part::Key))),
    };
    match request.verb {
        Verb::Call | Verb::Cast => match kind.handler(&request.name) {
            Some(handler) => handler(Local { kind, request, key, shard, validity, room }).await,
            None => Some(Response::Codec(CodecError::new(format!(
                "the kind `{}` has no message with the name `{}`",
                kind.name,
                String::from_utf8_lossy(&request.name)
            )))),
        },
        Verb::Stop => Some(stop(&kind, shard, &key, validity).await?),
        // It has no key, and the node answers it.
        Verb::Count => None,
    }
}

/// Stops the worker of a key. `None`: the shard has moved.
pub(crate) async fn stop<W: Worker<Key: ClusterKey>>(
    kind: &Kind<W>,
    shard: Shard,
    key: &W::Key,
    validity: &Arc<Validity>,
) -> Option<Response> {
    validity.route(shard)?;
    // No registry, no worker: none is made for a stop.
    let stopped = match kind.at(shard) {
        Some(open) => open.registry.stop(key).await,
        None => Err(StopError::NotFound),
    };
    Some(Response::Replied(exit::encode(&stopped).into()))
}

impl<W: Worker<Key: ClusterKey>> Local<'_, W> {
    /// Sends a message that `send` makes. `Err(None)`: the shard has moved, and `send` was not called.
    async fn deliver<T>(&self, send: impl FnOnce(Permit<W>) -> T) -> Result<T, Option<Response>> {
        let (kind, shard) = (&self.kind, self.shard);
        let mut send = Some(send);
        let mut send = move |permit| send.take().map(|send| send(permit));
        let open = match kind.offer(shard, &self.key, &mut send) {
            Ok(sent) => return sent.ok_or(None),
            Err(NotSent::NoRoom(open)) => open,
            Err(NotSent::NotOpen) => match kind.open(shard, self.validity) {
                Ok(Some(open)) => open,
                Ok(None) => return Err(None),
                Err(error) => return Err(Some(Response::NotStarted(RemoteError::here(error)))),
            },
        };
        // The caller drops this at the deadline. The reservation is dropped with it.
        let permit = match kind.reserve(&open, &self.key, self.request.if_running).await {
            Ok(permit) => permit,
            Err(error) => {
                return Err(match not_reserved::<W, ()>(error) {
                    Next::Failed(failure) => Some(response(failure)),
                    _ => None,
                });
            }
        };
        kind.send_reserved(shard, &open, permit, send).flatten().ok_or(None)
    }
}

pub(crate) fn serve_call<W, C>(local: Local<'_, W>) -> BoxFuture<'_, Option<Response>>
where
    W: Worker<Key: ClusterKey> + Answers<C>,
    C: Call,
{
    Box::pin(async move {
        let call: C = match <C::Codec as Codec<C>>::decode(&local.request.body) {
            Ok(call) => call,
            Err(error) => return Some(Response::Codec(error.of(Part::Message))),
        };
        let sent = local.deliver(|permit| permit.call(|reply| W::message(call, reply))).await;
        let pending = match sent {
            Ok(Ok(pending)) => pending,
            Ok(Err(error)) => return Some(response(not_sent(&error))),
            Err(other) => return other,
        };
        let reply: C::Reply = match pending.await {
            Ok(reply) => reply,
            Err(error) => return Some(response(not_answered(&error))),
        };
        local.room.wait().await;
        let mut body = Vec::new();
        Some(match <C::Codec as Codec<C::Reply>>::encode(&reply, &mut body) {
            Ok(()) => Response::Replied(body.into()),
            Err(error) => Response::Codec(error.of(Part::Reply)),
        })
    })
}

pub(crate) fn serve_cast<W, C>(local: Local<'_, W>) -> BoxFuture<'_, Option<Response>>
where
    W: Worker<Key: ClusterKey> + Takes<C>,
    C: Cast,
{
    Box::pin(async move {
        let cast: C = match <C::Codec as Codec<C>>::decode(&local.request.body) {
            Ok(cast) => cast,
            Err(error) => return Some(Response::Codec(error.of(Part::Message))),
        };
        match local.deliver(|permit| permit.send(W::message(cast))).await {
            Ok(Ok(())) => Some(Response::Taken),
            Ok(Err(error)) => Some(response(not_sent(&error))),
            Err(other) => other,
        }
    })
}

/// A failure on this node, as it travels.
fn response(failure: Failure) -> Response {
    match failure {
        Failure::NotStarted(error) => Response::NotStarted(error),
        Failure::NotFound => Response::NotFound,
        Failure::WouldDeadlock => Response::WouldDeadlock,
        Failure::Codec(error) => Response::Codec(error),
        Failure::TooLarge(error) => Response::TooLarge(error),
        Failure::MayHaveRun(Why::TimedOut) => Response::TimedOut,
        Failure::MayHaveRun(_) => Response::ReplyDropped,
        Failure::NotDelivered(_) | Failure::Left => Response::WorkerEnded,
    }
}
