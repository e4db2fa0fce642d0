//! The watch.
//!
//! 1. A watch has a connection of its own: events that are not read yet take no room from requests.
//! 2. It resumes at the revision of the last commit that it has yielded whole, on the next member, after every failure.
//! 3. It asks for the commits **from** that revision on, not after it, and drops those that it has yielded. etcd compares the
//!    starting point with the last compaction and accepts an equal one, but may have lost a removal at that very revision
//!    (etcd-io/etcd#18089, #19179). With the earlier point, what is accepted is complete.
//! 4. Where a token has expired, etcd refuses a watch as if the user had no right to it (`isWatchPermitted`). So a refusal
//!    counts only with a token that was made for this attempt.
//! 5. After a silence it asks for a sign of life. The answer is that and nothing else: its revision may run ahead of events
//!    that are still on their way (etcd-io/etcd#15220).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::engine::etcd::client::{Client, Failed, is_of_token, judge};
use crate::engine::etcd::grpc::{Code, Duplex, Failure};
use crate::engine::etcd::wire::{DELETE, Event, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use crate::engine::etcd::{end_of, revision};
use crate::engine::{Change, Op, WatchError};
use crate::id::Revision;

/// How many tokens in a row may be refused. The first may have expired, and so may another that a request has got meanwhile.
const MOST_RENEWALS: u32 = 2;
/// The longest pause between two attempts to open a watch.
const MOST_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Watch<'a> {
    client: &'a Client,
    prefix: Bytes,
    /// Of the last commit that was yielded.
    from: Revision,
    open: Option<Open>,
    /// Commits that are whole, and not yielded yet.
    ready: VecDeque<Change>,
    turn: usize,
    failures: u32,
    renewals: u32,
    is_ended: bool,
}

/// A watch that a member serves.
struct Open {
    stream: Duplex,
    /// The number of the token with which it was opened.
    token: usize,
    /// Of an answer that comes in fragments.
    events: Vec<Event>,
    /// A sign of life was asked for, and did not come yet.
    is_probed: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client, prefix: &str, from: Revision) -> Watch<'a> {
        Watch {
            client,
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            from,
            open: None,
            ready: VecDeque::new(),
            turn: client.turn(),
            failures: 0,
            renewals: 0,
            is_ended: false,
        }
    }

    /// The next item of the stream. All progress is kept in `self` at each await.
    pub(super) async fn next(&mut self) -> Option<Result<Change, WatchError>> {
        while !self.is_ended {
            if let Some(change) = self.ready.pop_front() {
                self.from = change.revision;
                return Some(Ok(change));
            }
            if let Err(error) = self.step().await {
                self.is_ended = true;
                self.open = None;
                return Some(Err(error));
            }
        }
        None
    }

    async fn step(&mut self) -> Result<(), WatchError> {
        let Some(open) = &mut self.open else { return self.reopen().await };
        match timeout(self.client.config.attempt, open.stream.next::<WatchResponse>()).await {
            Ok(Ok(Some(response))) => {
                open.is_probed = false;
                self.take(response)
            }
            Ok(Ok(None)) => self.fail(Failed::Lost("the member ended the watch".into())),
            Ok(Err(failure)) => self.fail_with(failure),
            Err(_) if open.is_probed => self.fail(Failed::Lost("the member is silent".into())),
            Err(_) => {
                open.is_probed = true;
                let probe = WatchRequest { progress: Some(WatchProgressRequest {}), ..WatchRequest::default() };
                match open.stream.send(&probe) {
                    Ok(()) => Ok(()),
                    Err(failure) => self.fail_with(failure),
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), WatchError> {
        if self.failures > 0 {
            sleep(MOST_PAUSE.min(Duration::from_millis(5) * 2_u32.saturating_pow(self.failures.min(10)))).await;
        }
        let attempt = self.client.config.attempt;
        let opened = match timeout(attempt * 4, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(Failed::NotSent("the member is silent".into())),
        };
        match opened {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(failed) => self.fail(failed),
        }
    }

    async fn open(&self) -> Result<Open, Failed> {
        let silent = |_| Failed::NotSent("the member is silent".into());
        let connection = timeout(self.client.config.attempt, self.client.dial(self.turn)).await.map_err(silent)??;
        let (token, header) = self.client.token(self.turn, &connection).await?;
        let create = WatchCreateRequest {
            key: if self.prefix.is_empty() { Bytes::from_static(b"\0") } else { self.prefix.clone() },
            range_end: end_of(&self.prefix),
            // Not the revision after it. (rule 3) 0 would mean: from now on.
            start_revision: revision(Revision(self.from.0.max(1))),
            fragment: true,
        };
        let create = WatchRequest { create: Some(create), ..WatchRequest::default() };
        let stream = connection.stream("/etcdserverpb.Watch/Watch", &create, header.as_ref()).await.map_err(judge)?;
        // The answer to the creation is the first sign of life.
        Ok(Open { stream, token, events: Vec::new(), is_probed: true })
    }

    fn fail_with(&mut self, failure: Failure) -> Result<(), WatchError> {
        let may_be_of_token = is_of_token(&failure) || matches!(failure, Failure::Status(Code::PermissionDenied, _));
        match failure {
            failure if !may_be_of_token => self.fail(judge(failure)),
            _ if self.renew_token() => Ok(()),
            Failure::Status(_, why) | Failure::Lost(why) | Failure::NotSent(why) => self.fail(Failed::Refused(why)),
        }
    }

    /// Whether another token may help. Then the watch opens again, with a new one. (rule 4)
    fn renew_token(&mut self) -> bool {
        let Some(open) = self.open.take() else { return false };
        if self.client.config.user.is_none() || self.renewals == MOST_RENEWALS {
            return false;
        }
        self.renewals += 1;
        self.client.forget_token(open.token);
        true
    }

    /// The next member has its turn, unless no member will ever serve the watch.
    fn fail(&mut self, failed: Failed) -> Result<(), WatchError> {
        self.open = None;
        self.failures = self.failures.saturating_add(1);
        self.turn = self.turn.wrapping_add(1);
        match failed {
            Failed::Refused(why) => Err(WatchError::Refused(why)),
            Failed::NotSent(_) | Failed::Lost(_) => Ok(()),
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<(), WatchError> {
        if response.compact_revision > 0 {
            return Err(WatchError::Compacted { oldest: Revision(response.compact_revision.unsigned_abs()) });
        }
        if response.canceled {
            // The creation was refused: etcd names no code here.
            let code =
                if response.cancel_reason.contains("permission denied") { Code::PermissionDenied } else { Code::Other };
            return self.fail_with(Failure::Status(code, response.cancel_reason));
        }
        // The creation is confirmed before it is refused.
        if !response.created {
            self.failures = 0;
            self.renewals = 0;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.events.extend(response.events);
        if !response.fragment {
            let events = std::mem::take(&mut open.events);
            self.gather(events);
        }
        Ok(())
    }

    /// Puts the events of one commit together.
    fn gather(&mut self, events: Vec<Event>) {
        for event in events {
            let Some(kv) = event.kv else { continue };
            let revision = Revision(kv.mod_revision.unsigned_abs());
            // Not text: not a key of ours.
            let Ok(key) = String::from_utf8(kv.key.into()) else { continue };
            if revision <= self.from {
                continue;
            }
            let op = if event.kind == DELETE { Op::Delete(key) } else { Op::Put(key, kv.value) };
            match self.ready.back_mut() {
                Some(change) if change.revision == revision => change.ops.push(op),
                _ => self.ready.push_back(Change { revision, ops: vec![op] }),
            }
        }
    }
}
