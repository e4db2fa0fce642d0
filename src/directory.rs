//! Directories find workers by something other than their key: [`Aliases`] by unique names, [`Groups`] by shared
//! properties.
//!
//! Both consist of an [`Index`](index::Index): entries by name, read concurrently and changed under one lock, and a
//! reverse index from workers to their entries under the same lock. A worker's cell has a weak reference to every
//! directory that the worker is in. When the worker exits, it calls [`Membership::forget`] on each, which removes the
//! worker's entries.
//!
//! # Races
//!
//! 1. *Register against exit.* An exiting worker closes its gate, and then calls `forget`, which takes the lock that a register
//!    holds. If the register came first, `forget` finds its entry. If it came second, it sees the closed gate and fails. The
//!    list of directories in the worker's cell is settled in the same way: see `WorkerCell::add_membership`.
//! 2. *Read against exit.* The entry of a worker may outlive its open gate. A read checks the gate after it has found the entry
//!    and before it returns the worker, so the gate was open at that moment. (G3)
//! 3. *Unregister against exit.* Both remove entries under the lock and by number, and no number is used twice. The second one
//!    finds nothing.
//! 4. *Register by a successor against the exit of the holder.* A register treats a holder with a closed gate as absent and
//!    removes its entry. `forget` removes the entries of one worker by number, never by name, so it leaves the successor's
//!    entry, which has another number.
//! 5. *Two registers of one name.* The lock orders them. The second fails unless the gate of the first worker is closed.
//! 6. *Drop of the directory while its workers live.* A worker refers to the directory weakly, so its exit finds nothing to call.
//!    An entry refers to its worker strongly. The two form no cycle.
//! 7. *Wait for a name against its registration.* The waiter stores its waker, and then looks the name up. A register inserts the
//!    entry, and then takes the wakers. Both access the wakers under one lock: if the register takes them before the waiter stores
//!    its own, the waiter's lookup finds the entry.
//!
//! [`Membership::forget`]: crate::worker::watchers::Membership::forget

mod aliases;
mod error;
mod groups;
mod index;
#[cfg(all(test, gen_registry_loom))]
mod models;
mod send;
#[cfg(test)]
mod tests;
mod waiters;

pub use aliases::Aliases;
pub use error::JoinError;
pub use error::NotRegistered;
pub use error::RegisterError;
pub use groups::Groups;
pub use send::Broadcast;
