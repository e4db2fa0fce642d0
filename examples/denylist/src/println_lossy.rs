//! [`println_lossy`]: a line on standard output.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line. Unlike `println!`, it ignores a closed output.
pub(crate) fn println_lossy(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
