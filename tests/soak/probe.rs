//! [`Probe`]: the worker of the soak.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use gen_registry::{Context, ExitReason, Reply, Worker};
use tokio::task::yield_now;

use crate::ledger::{BEGUN, CRASHED, CUT_OFF, HANDLED, Ledger};

pub(crate) struct Args {
    pub(crate) ledger: Arc<Ledger>,
    /// Whether the arguments are a `Via`'s template. Its clones are for starts.
    pub(crate) is_template: bool,
}

impl Clone for Args {
    fn clone(&self) -> Self {
        if self.is_template {
            self.ledger.asked.fetch_add(1, SeqCst);
        }
        Self { ledger: Arc::clone(&self.ledger), is_template: false }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Act {
    Go,
    Yield,
    Sleep,
    Fail,
    Panic,
}

pub(crate) struct Message {
    pub(crate) number: usize,
    pub(crate) act: Act,
    pub(crate) reply: Option<Reply<usize>>,
}

/// A counted state, with the message that it handles.
pub(crate) struct Probe {
    key: usize,
    ledger: Arc<Ledger>,
    in_hand: Option<usize>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(number) = self.in_hand {
            self.ledger.turn(number, BEGUN, CUT_OFF);
        }
        self.ledger.dies(self.key);
    }
}

impl Worker for Probe {
    type Key = usize;
    type Args = Args;
    type Message = Message;
    type Error = &'static str;

    async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        let (key, ledger) = (*ctx.key(), args.ledger);
        ledger.is_born(key);
        // Half of the keys idle. The others stay until they are evicted.
        ctx.set_idle_timeout((key % 2 == 1).then_some(Duration::from_millis(5)));
        Ok(Self { key, ledger, in_hand: None })
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
        let Message { number, act, reply } = message;
        self.ledger.begin(self.key, number);
        self.in_hand = Some(number);
        match act {
            Act::Go => {}
            Act::Yield => yield_now().await,
            Act::Sleep => tokio::time::sleep(Duration::from_millis(1)).await,
            Act::Fail | Act::Panic => {
                self.in_hand = None;
                self.ledger.turn(number, BEGUN, CRASHED);
                if let Act::Panic = act {
                    // Prints nothing.
                    std::panic::resume_unwind(Box::new("as planned"));
                }
                return Err("as planned");
            }
        }
        self.in_hand = None;
        self.ledger.turn(number, BEGUN, HANDLED);
        if let Some(reply) = reply {
            reply.send(number);
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        yield_now().await;
    }
}
