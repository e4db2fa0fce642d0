//! The program. See the README beside `Cargo.toml`.

use std::process::ExitCode;

fn main() -> ExitCode {
    denylist::main()
}
