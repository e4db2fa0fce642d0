//! A worker for unit tests that need one, and nothing of it.

use std::convert::Infallible;

use crate::worker::Worker;
use crate::worker::context::Context;

pub(crate) struct Idle;

impl Worker for Idle {
    type Key = u32;
    type Args = ();
    type Message = ();
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}
