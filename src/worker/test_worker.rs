//! A worker that does nothing, for unit tests.

use std::convert::Infallible;

use crate::worker::Worker;
use crate::worker::context::Context;

pub(crate) struct TestWorker;

impl Worker for TestWorker {
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
