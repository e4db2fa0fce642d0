//! What an attacker does who chooses keys and messages, and the limit that holds each time.
//!
//! The checklist of the guide (`guide/security.md`) has a row for each attack. [`checklist`] holds it against these tests.

mod checklist;
mod hashes;
mod labels;
mod logs;
mod messages;
mod slow;
mod starts;
