//! [`Denylist`]: the rules of one phone.

use std::time::Duration;

use gen_registry::{Context, Registry, Reply, Worker};
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use crate::failure::{Failure, ask};
use crate::phone_number::{Caller, PhoneNumber};
use crate::reputation::{Query, Reputation};
use crate::rule::{Edit, MAX_RULES, Rule, RuleSet, Verdict};
use crate::store::{Store, StoreError};

/// The worker of one recipient. It holds the rules in memory and is the only one that writes them to disk.
///
/// The memory holds what was acknowledged. A change is first written to disk, in a blocking task that belongs to the
/// worker. If the worker is stopped or killed meanwhile, the key is not vacant before the write has ended (G1), and the
/// next worker, which reads the rules in `init`, finds the change. The caller learns that the change may have happened.
#[derive(Debug)]
pub(crate) struct Denylist {
    rules: RuleSet,
    /// A write failed, and may or may not have reached the disk.
    is_disk_unknown: bool,
    backend: Backend,
}

/// The dependencies of a denylist.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) store: Store,
    pub(crate) reputations: Registry<Reputation>,
}

#[derive(Debug)]
pub(crate) enum Command {
    /// Whether this caller may ring.
    Decide(Caller, Reply<Result<Decision, Failure>>),
    /// Returns the rules.
    Rules(Reply<Vec<Rule>>),
    /// Changes the rules. The reply is sent when the change is on disk.
    Edit(Edit, Reply<Result<Edited, Failure>>),
    /// Panics, to test alerts and dashboards.
    Crash,
    /// Does nothing for a while, so that other commands wait.
    Pause(Duration),
}

/// The decision on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub(crate) enum Decision {
    Place,
    Reject { rule: Rule },
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edited {
    /// False if the change had no effect.
    pub(crate) is_change: bool,
    /// The rules after the change.
    pub(crate) rules: Vec<Rule>,
}

impl Worker for Denylist {
    type Key = PhoneNumber;
    type Args = Backend;
    type Message = Command;
    type Error = StoreError;

    async fn init(backend: Backend, ctx: &mut Context<Self>) -> Result<Self, StoreError> {
        let (number, store) = (*ctx.key(), backend.store.clone());
        let rules = ctx.spawn_blocking(move || store.rules(number)).await??;
        Ok(Self { rules, is_disk_unknown: false, backend })
    }

    async fn handle(&mut self, command: Command, ctx: &mut Context<Self>) -> Result<(), StoreError> {
        match command {
            Command::Decide(caller, reply) => self.decide(caller, reply, ctx),
            Command::Rules(reply) => reply.send(self.rules.to_vec()),
            // The caller gets the error. The worker continues with the acknowledged rules.
            Command::Edit(edit, reply) => reply.send(self.edit(edit, ctx).await),
            Command::Crash => panic!("this is a drill"),
            Command::Pause(time) => sleep(time).await,
        }
        Ok(())
    }
}

impl Denylist {
    fn decide(&self, caller: Caller, reply: Reply<Result<Decision, Failure>>, ctx: &mut Context<Self>) {
        let (threshold, number) = match (self.rules.judge(caller), caller) {
            (Verdict::RejectFrom(threshold), Caller::Known(number)) => (threshold, number),
            (Verdict::Reject(rule), _) => return reply.send(Ok(Decision::Reject { rule })),
            (Verdict::Place | Verdict::RejectFrom(_), _) => return reply.send(Ok(Decision::Place)),
        };
        let reputation = self.backend.reputations.via_or_start(&number, self.backend.store.clone());
        // In a separate task: a caller whose record is still being read from disk delays no other call to this phone.
        ctx.spawn(async move {
            let complaints = ask(&reputation, Query::Complaints).await;
            reply.send(complaints.map(|complaints| {
                let rule = Rule::Complaints(threshold);
                if complaints >= threshold { Decision::Reject { rule } } else { Decision::Place }
            }));
        });
    }

    async fn edit(&mut self, edit: Edit, ctx: &mut Context<Self>) -> Result<Edited, Failure> {
        let rules = self.rules.edited(&edit);
        let is_change = rules != self.rules;
        if rules.len() > MAX_RULES {
            return Err(Failure::TooManyRules);
        }
        if is_change || self.is_disk_unknown {
            // It is unknown what a failed write left on disk. So the next change writes all rules, even if it changes
            // none: it must not be acknowledged because of what is only in memory.
            let edit = if self.is_disk_unknown { Edit::Replace(rules.to_set()) } else { edit };
            let (number, store) = (*ctx.key(), self.backend.store.clone());
            self.is_disk_unknown = true;
            ctx.spawn_blocking(move || store.edit(number, &edit)).await.map_err(StoreError::from)??;
            self.is_disk_unknown = false;
            self.rules = rules;
        }
        Ok(Edited { is_change, rules: self.rules.to_vec() })
    }
}
