//! `Aliases` and `Groups`: workers by name and by group.

mod aliases;
mod await_registration;
mod directory_storm;
mod groups;
