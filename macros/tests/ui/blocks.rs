//! Blocks that the attribute does not take.

#![allow(unused)]

use std::convert::Infallible;

use gen_registry::{Context, Worker, worker};

struct OfTheTrait;

#[worker(key = String)]
impl Worker for OfTheTrait {
    type Key = String;
    type Args = ();
    type Message = ();
    type Error = Infallible;
}

struct Borrowing<'a>(&'a str);

#[worker(key = String)]
impl<'a> Borrowing<'a> {
    fn init() -> Self {
        Borrowing("")
    }
}

struct Sync;

#[worker(key = String)]
impl Sync {
    fn init() -> Self {
        Sync
    }

    fn handle(&mut self, message: SyncMessage, ctx: &mut Context<Self>) {}
}

fn main() {}
