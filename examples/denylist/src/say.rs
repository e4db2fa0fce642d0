//! [`say`]: a line on standard output.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line. That nobody reads any more is no reason to end, as `println!` would.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
