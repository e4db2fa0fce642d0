//! Which member is asked, and what follows from its answer.
//!
//! 1. All requests go to one member, over one connection, until an attempt fails. Then the next member has its *turn*.
//! 2. Each attempt has a deadline. Silence is a failure: nothing else shows that a member hangs.
//! 3. A turn ends once, however many requests fail in it: each names the turn in which it was made.
//! 4. A commit is sent again only if it is certain that no member has it: nothing was sent, or the member refused it for the
//!    sake of a token.
//! 5. An attempt that its caller drops while the member is silent counts as a failure, too. Otherwise a caller with a shorter
//!    deadline would ask a member that hangs for ever.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use prost::Message;
use tokio::time::timeout;

use crate::engine::EngineError;
use crate::engine::etcd::grpc::{Code, Connection, Failure};
use crate::engine::etcd::member::Member;
use crate::engine::etcd::tls::EtcdTls;
use crate::engine::etcd::wire::{AuthenticateRequest, AuthenticateResponse};

#[derive(Clone)]
pub(super) struct Config {
    /// Or what is wrong with the addresses.
    pub(super) members: Result<Vec<Member>, String>,
    pub(super) tls: Option<EtcdTls>,
    pub(super) user: Option<User>,
    pub(super) attempt: Duration,
}

#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
}

/// What is sent with each request when etcd checks users. `None`: etcd does not check them.
type Token = Option<HeaderValue>;

pub(super) struct Client {
    pub(super) config: Config,
    /// The member is that of this number, modulo their count.
    turn: AtomicUsize,
    connection: Mutex<Option<(usize, Arc<Connection>)>>,
    /// One task connects at a time. The others wait for its connection.
    connecting: tokio::sync::Mutex<()>,
    /// Tokens are numbered, so that a refused one is replaced once.
    token: Mutex<Option<(usize, Token)>>,
    authenticating: tokio::sync::Mutex<usize>,
}

/// Why a request failed, and whether it may be made again.
#[derive(Debug)]
pub(super) enum Failed {
    /// See [`EngineError::Refused`].
    Refused(String),
    /// The member has not seen it: it may be sent to another.
    NotSent(String),
    /// It may be done.
    Lost(String),
}

impl From<Failed> for EngineError {
    fn from(failed: Failed) -> EngineError {
        match failed {
            Failed::Refused(why) => EngineError::Refused(why),
            Failed::NotSent(why) => EngineError::Unavailable(why),
            Failed::Lost(why) => EngineError::Unknown(why),
        }
    }
}

/// The end of an attempt in a turn, which is a failure unless it was answered.
struct Attempt<'a> {
    client: &'a Client,
    turn: usize,
    begun: Instant,
    is_answered: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // A caller that goes early says nothing about the member. (rule 5)
        if !self.is_answered && self.begun.elapsed() >= self.client.config.attempt / 2 {
            self.client.end_turn(self.turn);
        }
    }
}

impl Client {
    pub(super) fn new(config: Config) -> Client {
        Client {
            config,
            // Nodes begin with different members.
            turn: AtomicUsize::new(std::hash::RandomState::new().hash_one(()) as usize),
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            token: Mutex::default(),
            authenticating: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn members(&self) -> Result<&[Member], Failed> {
        match &self.config.members {
            Ok(members) => Ok(members),
            Err(why) => Err(Failed::Refused(why.clone())),
        }
    }

    /// Each member once, and a single one twice: its connection may have been lost since the last request.
    fn attempts(&self) -> usize {
        self.config.members.as_ref().map_or(1, |members| members.len().max(2))
    }

    pub(super) fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    fn end_turn(&self, turn: usize) {
        // A failure: another request has ended this turn already. (rule 3)
        let _ = self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn member(&self, turn: usize) -> Result<&Member, Failed> {
        let members = self.members()?;
        Ok(&members[turn % members.len()])
    }

    /// A request that is safe to repeat: each member is asked until one answers.
    pub(super) async fn ask<A: Message + Default>(&self, path: &str, message: &impl Message) -> Result<A, EngineError> {
        let mut last = String::new();
        for _ in 0..self.attempts() {
            match self.attempt(path, message).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Refused(why)) => return Err(EngineError::Refused(why)),
                Err(Failed::NotSent(why) | Failed::Lost(why)) => last = why,
            }
        }
        Err(EngineError::Unavailable(last))
    }

    /// A request that must reach one member only. (rule 4)
    pub(super) async fn send<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, EngineError> {
        let mut last = String::new();
        for _ in 0..self.attempts() {
            match self.attempt(path, message).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::NotSent(why)) => last = why,
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(EngineError::Unavailable(last))
    }

    /// Asks the member whose turn it is. A refused token is replaced once.
    pub(super) async fn attempt<A: Message + Default>(&self, path: &str, message: &impl Message) -> Result<A, Failed> {
        let first = self.attempt_with_token(path, message).await;
        match first {
            // The member has looked at the token and at nothing else.
            Err((Some(number), Failed::Refused(..))) => {
                self.forget_token(number);
                self.attempt_with_token(path, message).await.map_err(|(_, failed)| failed)
            }
            other => other.map_err(|(_, failed)| failed),
        }
    }

    /// With the failure comes the number of the token, if the failure is due to the token.
    async fn attempt_with_token<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, (Option<usize>, Failed)> {
        let turn = self.turn();
        let mut attempt = Attempt { client: self, turn, begun: Instant::now(), is_answered: false };
        let connection = match timeout(self.config.attempt, self.connect(turn)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failed)) => {
                self.end_turn(turn);
                return Err((None, failed));
            }
            Err(_) => {
                self.end_turn(turn);
                return Err((None, Failed::NotSent(self.silent(turn))));
            }
        };
        let (number, token) = self.token(turn, &connection).await.map_err(|failed| (None, failed))?;
        attempt.begun = Instant::now();
        let within = self.config.attempt;
        let answer = match timeout(within, connection.unary(path, message, token.as_ref(), within)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Lost(self.silent(turn))),
        };
        match answer {
            Ok(answer) => {
                attempt.is_answered = true;
                Ok(answer)
            }
            Err(failure) => {
                let is_of_token = is_of_token(&failure) && self.config.user.is_some();
                let failed = self.judge(turn, failure);
                attempt.is_answered = matches!(failed, Failed::Refused(..));
                Err((is_of_token.then_some(number), failed))
            }
        }
    }

    fn silent(&self, turn: usize) -> String {
        let member = self.member(turn).map(Member::to_string).unwrap_or_default();
        format!("{member} did not answer within {:?}", self.config.attempt)
    }

    /// What follows from a failure. It ends the turn, if it is the member's.
    fn judge(&self, turn: usize, failure: Failure) -> Failed {
        let failed = judge(failure);
        if !matches!(failed, Failed::Refused(..)) {
            self.end_turn(turn);
        }
        self.named(turn, failed)
    }

    /// With the name of the member.
    fn named(&self, turn: usize, failed: Failed) -> Failed {
        let named = |why: String| match self.member(turn) {
            Ok(member) if !why.contains(&member.to_string()) => format!("{member}: {why}"),
            _ => why,
        };
        match failed {
            Failed::Refused(why) => Failed::Refused(named(why)),
            Failed::NotSent(why) => Failed::NotSent(named(why)),
            Failed::Lost(why) => Failed::Lost(named(why)),
        }
    }

    /// The connection of this turn.
    async fn connect(&self, turn: usize) -> Result<Arc<Connection>, Failed> {
        let present = || match &*self.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((of, connection)) if *of == turn && !connection.is_lost() => Some(connection.clone()),
            _ => None,
        };
        if let Some(connection) = present() {
            return Ok(connection);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(connection) = present() {
            return Ok(connection);
        }
        let connection = self.dial(turn).await?;
        // The former connection closes when the last request on it has ended.
        let kept = (turn, connection.clone());
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(connection)
    }

    /// A connection of its own to the member of a turn.
    pub(super) async fn dial(&self, turn: usize) -> Result<Arc<Connection>, Failed> {
        let connection = Connection::open(self.member(turn)?, self.config.tls.as_ref()).await;
        connection.map(Arc::new).map_err(|failure| self.named(turn, judge(failure)))
    }

    /// The token for requests, and its number. A new one is got over the connection.
    pub(super) async fn token(&self, turn: usize, connection: &Connection) -> Result<(usize, Token), Failed> {
        let Some(user) = &self.config.user else { return Ok((0, None)) };
        let present = || self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = present() {
            return Ok(token);
        }
        let mut numbers = self.authenticating.lock().await;
        if let Some(token) = present() {
            return Ok(token);
        }
        let token = self.authenticate(turn, connection, user).await?;
        *numbers += 1;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((*numbers, token.clone()));
        Ok((*numbers, token))
    }

    pub(super) fn forget_token(&self, number: usize) {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.as_ref().is_some_and(|(present, _)| *present == number) {
            *token = None;
        }
    }

    async fn authenticate(&self, turn: usize, connection: &Connection, user: &User) -> Result<Token, Failed> {
        let message = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        // The member hashes the password, which is slow on purpose.
        let within = self.config.attempt * 4;
        let asked = connection.unary("/etcdserverpb.Auth/Authenticate", &message, None, within);
        let answer = timeout(within, asked).await.unwrap_or_else(|_| Err(Failure::Lost(self.silent(turn))));
        match answer {
            Ok(AuthenticateResponse { token }) => match HeaderValue::from_str(&token) {
                Ok(mut token) => {
                    token.set_sensitive(true);
                    Ok(Some(token))
                }
                Err(error) => Err(Failed::NotSent(format!("a token that no header can hold: {error}"))),
            },
            Err(Failure::Status(Code::FailedPrecondition, why)) if why.contains("not enabled") => Ok(None),
            // The request for which the token is wanted was not sent yet.
            Err(failure) => Err(match self.judge(turn, failure) {
                Failed::Lost(why) => Failed::NotSent(why),
                failed => failed,
            }),
        }
    }
}

/// Whether a member refused a request because of its token. Then it has done nothing else with the request.
pub(super) fn is_of_token(failure: &Failure) -> bool {
    let Failure::Status(code, why) = failure else { return false };
    *code == Code::Unauthenticated
        || ["invalid auth token", "revision of auth store is old", "user name is empty"]
            .iter()
            .any(|text| why.contains(text))
}

pub(super) fn judge(failure: Failure) -> Failed {
    match failure {
        Failure::NotSent(why) => Failed::NotSent(why),
        Failure::Lost(why) => Failed::Lost(why),
        // Among the others are all that a member says when it does not know the outcome either: "request timed out", "leader
        // changed", "server stopped". And "database space exceeded", which etcd says of a commit that it has done
        // (`quotaApplierV3`).
        Failure::Status(Code::Other, why) => Failed::Lost(why),
        Failure::Status(_, why) => Failed::Refused(why),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Client");
        debug.field("members", &self.config.members).field("turn", &self.turn());
        debug.field("user", &self.config.user.as_ref().map(|user| &user.name)).finish_non_exhaustive()
    }
}
