mod hello;
mod outcomes;
mod proxy;
mod rules;
mod sockets;
mod storm;
mod support;
pub(crate) mod tls;
mod violations;
