//! The state machine in a simulated [world](world::World): a table, a queue of notices and a list of deadlines.
//!
//! After every step the world checks each effect against the guarantees (G1, G2, G3, G5, G9, G10, G11). The properties
//! generate sequences of [operations](op::Op), and check at the end that every caller got exactly one reply. The cases
//! are single scenarios.

mod cases;
mod effects;
mod properties;
mod world;

use std::cell::Cell;
use std::rc::Rc;

use crate::lifecycle::event::{ReplySender, Types};

/// The types of a simulated registry.
struct Simulated;

impl Types for Simulated {
    /// The key, and the caller that requests it.
    type StartSpec = (u32, usize);
    type StartReply = TestReply;
    type StopReply = TestReply;
}

/// The reply to one caller, by its index.
struct TestReply {
    caller: usize,
    is_abandoned: Rc<Cell<bool>>,
}

impl ReplySender for TestReply {
    fn is_abandoned(&self) -> bool {
        self.is_abandoned.get()
    }
}
