//! The service from outside: its binary, over HTTP, with real files and signals. Also what an operator uses of it,
//! `grafana/`.

#[cfg(unix)]
mod api;
#[cfg(unix)]
mod calls;
#[cfg(unix)]
mod console;
#[cfg(unix)]
mod description;
#[cfg(unix)]
mod durability;
mod grafana;
#[cfg(unix)]
mod harness;
#[cfg(unix)]
mod import;
#[cfg(unix)]
mod lifecycle;
#[cfg(unix)]
mod openapi;
#[cfg(unix)]
mod operation;
#[cfg(unix)]
mod replay;
#[cfg(unix)]
mod residency;
#[cfg(unix)]
mod workers;
