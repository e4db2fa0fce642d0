//! Deadlines follow the clock of the runtime of the registry.
