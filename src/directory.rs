//! Finding workers by something else than their key: [`Aliases`], one worker per name, and [`Groups`], many workers
//! per property.
//!
//! Both are built alike. An [`Index`](index::Index) of names is read side by side and changed under one lock. A second
//! index, worker → its entries, is kept under that lock. Each worker's slot has a weak reference to every directory the
//! worker is in, by which its end removes what is there of it.
//!
//! # Races, and how they end
//!
//! 1. *A register against the end of its worker.* The gate closes first, then the directories are told, which takes the
//!    lock that the register holds. So either the register came first, and its entry is there to be removed; or it came
//!    second, and sees the gate closed. That the directory is told at all is settled the same way, under the lock of the
//!    cell's list: see `WorkerCell::add_membership`.
//! 2. *A read against the end.* The entry may be there still when the gate is closed. Readers look at the gate after
//!    they found the entry, and before they return it: what they return was open at that moment. (G3)
//! 3. *An unregister against the end.* Both remove under the lock, by the number of the entry, and no number is given
//!    twice: the second finds nothing.
//! 4. *A successor registers the name while its old holder is being forgotten.* A register treats a holder whose gate is
//!    closed as none, and removes that entry. Forgetting removes the entries of one worker, by number, and never one
//!    by its name: the successor's has another number, and is noted under another worker.
//! 5. *Two registers of one name.* The lock orders them: the second finds the first, and is refused unless that one's
//!    gate is closed.
//! 6. *The directory is dropped while its workers live.* They refer to it weakly: their end finds nobody to tell. An
//!    entry refers to its worker strongly, the worker to the directory weakly: neither keeps the other in a circle.
//! 7. *A wait for a name against its registration.* The waiter notes its waker, then looks. The register inserts, then
//!    takes the wakers. Both notes are under one lock: if the waiter's comes second, it sees what was inserted before.

mod aliases;
mod broadcast;
mod error;
mod groups;
mod index;
mod send;
#[cfg(test)]
mod tests;
mod waiting;

pub use aliases::Aliases;
pub use broadcast::Broadcast;
pub use error::{JoinError, NotRegistered, RegisterError};
pub use groups::Groups;
