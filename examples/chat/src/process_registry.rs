//! The article's process registry. Elixir sends to `{:via, module, name}` through four functions of the module:
//! `register_name`, `unregister_name`, `whereis_name` and `send`.

use std::fmt;

use gen_registry::{Aliases, Registry, SendError, WorkerHandle};

use crate::room::{Message, Room};

/// Prints a room as its name and the number of its run, which grows with each restart.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pid(pub(crate) WorkerHandle<Room>);

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#PID<{}.{}>", self.0.key(), self.0.incarnation())
    }
}

/// The answer of `register_name`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    Yes,
    No,
}

/// What the chat needs of the module in `{:via, module, name}`.
pub(crate) trait ProcessRegistry {
    fn register_name(&self, name: &str, pid: &Pid) -> Registered;
    fn whereis_name(&self, name: &str) -> Option<Pid>;
    /// The error contains the message, if no room has the name.
    async fn send(&self, name: &str, message: Message) -> Result<(), SendError<Room>>;
}

/// The article's own `Chat.Registry`. It need not monitor the rooms: a worker loses its names when it exits.
#[derive(Debug, Default)]
pub(crate) struct ChatRegistry(Aliases<String, Room>);

impl ChatRegistry {
    pub(crate) fn unregister_name(&self, name: &str) {
        self.0.unregister(name);
    }
}

impl ProcessRegistry for ChatRegistry {
    /// The article's registry refuses a name that is in use, even to its holder. `register` accepts that.
    fn register_name(&self, name: &str, pid: &Pid) -> Registered {
        let is_free = self.0.whereis(name).is_none();
        if is_free && self.0.register(name.to_owned(), &pid.0).is_ok() { Registered::Yes } else { Registered::No }
    }

    fn whereis_name(&self, name: &str) -> Option<Pid> {
        self.0.whereis(name).map(Pid)
    }

    async fn send(&self, name: &str, message: Message) -> Result<(), SendError<Room>> {
        self.0.cast(name, message).await
    }
}

/// What gproc is to the article: the registry that starts the rooms finds them by name already.
impl ProcessRegistry for Registry<Room> {
    fn register_name(&self, name: &str, pid: &Pid) -> Registered {
        if self.whereis_name(name).as_ref() == Some(pid) { Registered::Yes } else { Registered::No }
    }

    fn whereis_name(&self, name: &str) -> Option<Pid> {
        self.lookup(name).map(Pid)
    }

    async fn send(&self, name: &str, message: Message) -> Result<(), SendError<Room>> {
        self.via(name).cast(message).await
    }
}
