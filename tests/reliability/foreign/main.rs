//! Foreign code: each place where code that is not the library's runs, which panics, blocks or calls the registry.
//!
//! - `places.md` is the table: for each place, where a panic ends and what a block delays. It is read by these tests.
//! - [`place`]: the list of the places, and the table.
//! - [`device`]: what the foreign code of a test does, once, when it is reached.
//! - [`host`]: a worker, its key, its arguments, messages and errors, all of which reach the device.
//! - [`triggers`]: for each place, what makes the library run it.
//! - [`cell`]: runs one place with one deed on one kind of runtime, and checks what must hold after it.

#![allow(missing_docs, reason = "a test binary")]

mod cell;
mod device;
mod host;
mod place;
mod recorder;
mod tracer;
mod triggers;
mod verbs;

use crate::cell::{Flavor, check_all};
use crate::device::Deed;

#[test]
fn panics_end_where_the_table_says_on_one_thread() {
    check_all(Deed::Panic, Flavor::CurrentThread);
}

#[test]
fn panics_end_where_the_table_says_on_threads() {
    check_all(Deed::Panic, Flavor::MultiThread);
}

#[test]
fn blocks_delay_what_the_table_says() {
    check_all(Deed::Block, Flavor::MultiThread);
}

#[test]
fn verbs_called_by_foreign_code_return_on_one_thread() {
    check_all(Deed::Call, Flavor::CurrentThread);
}

#[test]
fn verbs_called_by_foreign_code_return_on_threads() {
    check_all(Deed::Call, Flavor::MultiThread);
}

#[test]
fn shutdown_by_foreign_code_ends_on_one_thread() {
    check_all(Deed::End, Flavor::CurrentThread);
}

#[test]
fn shutdown_by_foreign_code_ends_on_threads() {
    check_all(Deed::End, Flavor::MultiThread);
}
