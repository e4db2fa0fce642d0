//! [`Progress`]: a line that is overwritten.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// A line on standard error that shows how far a command is. On anything but a terminal, it shows nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal() }
    }

    pub(crate) fn show(&self, line: impl Display) {
        if self.is_terminal {
            // Back to the first column, and clear the line. The command works without its progress.
            let _ = write!(io::stderr(), "\r\x1b[2K{line}");
        }
    }

    pub(crate) fn clear(&self) {
        self.show("");
    }
}
