//! [`CliError`]: why the program exits, as one line and an exit code.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use crate::complaint_reader::HeaderError;
use crate::database::OpenError;
use crate::store::StoreError;

/// An error that ends the program. The exit codes follow sysexits.h, so that scripts can distinguish them. clap exits
/// with 2 for an invalid command line.
#[derive(Debug)]
pub(crate) struct CliError {
    code: u8,
    pub(crate) message: String,
}

impl CliError {
    fn with(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// An error of no other class.
    pub(crate) fn other(message: impl Display) -> Self {
        Self::with(1, message)
    }

    /// The content of a file is invalid.
    pub(crate) fn bad_data(message: impl Display) -> Self {
        Self::with(65, message)
    }

    /// A file cannot be read.
    pub(crate) fn no_input(message: impl Display) -> Self {
        Self::with(66, message)
    }

    /// An address or a service is unavailable.
    pub(crate) fn unavailable(message: impl Display) -> Self {
        Self::with(69, message)
    }

    pub(crate) fn header(path: &Path, error: &HeaderError) -> Self {
        let message = format!("{} is not a file of complaints: {error}", path.display());
        match error {
            HeaderError::Io(error) => Self::no_input(format!("cannot read {}: {error}", path.display())),
            HeaderError::Empty | HeaderError::Missing(_) => Self::bad_data(message),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        let code = match error {
            OpenError::NotOurs(_) => 65,
            OpenError::Empty(_) | OpenError::Damaged(..) | OpenError::Io(..) | OpenError::Store(..) => 74,
            OpenError::Locked(_) => 75,
        };
        Self::with(code, error)
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::with(74, error)
    }
}
