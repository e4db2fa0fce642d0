//! [`open`]: opens the database file, or creates it.
//!
//! 1. The file appears under its name when it is a database, and not before. It is created under another name, and
//!    renamed. So a full disk or a kill during the creation leaves nothing that a later start would refuse.
//! 2. Each start verifies the checksums of the whole file. redb does not verify what it reads later, and a service that
//!    decides by damaged rules is worse than one that does not start.
//! 3. redb panics at some damages. Those panics end here, as [`OpenError::Damaged`].

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, StorageError};
use thiserror::Error;

use crate::store::StoreError;

/// redb's default of 1 GiB would let an import grow to that size.
const CACHE_BYTES: usize = 32 << 20;

/// An open database.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) database: Database,
    /// The file was damaged, and has been set back to its last intact state.
    pub(crate) is_repaired: bool,
}

/// Opens the database, or creates it.
pub(crate) fn open(path: &Path) -> Result<Opened, OpenError> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() == 0 => Err(OpenError::Empty(path.into())),
        Ok(_) => open_existing(path),
        Err(error) if error.kind() == ErrorKind::NotFound => create(path),
        Err(error) => Err(OpenError::Io(path.into(), error)),
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn open_existing(path: &Path) -> Result<Opened, OpenError> {
    let opened = contained(|| builder().open(path)).map_err(|why| OpenError::Damaged(path.into(), why))?;
    let mut database = opened.map_err(|error| OpenError::new(path, error))?;
    match contained(|| database.check_integrity()) {
        Ok(Ok(is_intact)) => Ok(Opened { database, is_repaired: !is_intact }),
        // The program is about to exit. Closing the database would write to what is left of it.
        Ok(Err(error)) => {
            mem::forget(database);
            Err(OpenError::new(path, error))
        }
        Err(why) => {
            mem::forget(database);
            Err(OpenError::Damaged(path.into(), why))
        }
    }
}

/// Creates the database under another name, and renames it.
///
/// The lock on the file, which moves with it, excludes a second process: one that waits at the other name finds the file
/// locked, or finds that its own name is taken.
fn create(path: &Path) -> Result<Opened, OpenError> {
    let mut name = OsString::from(path);
    name.push(".new");
    let draft = PathBuf::from(name);
    let failed = |error| OpenError::Io(path.into(), error);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&draft).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.into())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Checked under the lock: another process may have renamed its file meanwhile.
    if path.exists() {
        return open_existing(path);
    }
    let created = (|| {
        // What an interrupted creation has left.
        file.set_len(0).map_err(failed)?;
        let database = builder().create_file(file).map_err(|error| OpenError::new(path, error))?;
        fs::rename(&draft, path).map_err(failed)?;
        sync_directory(path).map_err(failed)?;
        Ok(Opened { database, is_repaired: false })
    })();
    if created.is_err() {
        // The error is reported in any case, and the next start does the same again.
        let _ = fs::remove_file(&draft);
    }
    created
}

/// Makes the new name durable: an acknowledged change must not be in a file that has no name after a power failure.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Runs code that may panic, without the report of a panic. Returns its message.
///
/// The hook belongs to the whole process, so nothing else may run yet.
pub(crate) fn contained<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(code));
    panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        text.unwrap_or_else(|| String::from("unknown")).replace('\n', " ")
    })
}

/// Why a database could not be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("the database {} is open in another process; stop it first, or choose another with --db", .0.display())]
    Locked(PathBuf),
    #[error("{} is not a database of this program, or its first bytes are damaged; choose another with --db", .0.display())]
    NotOurs(PathBuf),
    #[error("the database {} is empty; restore it from a backup, or delete it to begin with a new one", .0.display())]
    Empty(PathBuf),
    #[error(
        "the database {} is damaged ({}); restore it from a backup, or move it away to begin with a new one",
        .0.display(), .1
    )]
    Damaged(PathBuf, String),
    #[error("cannot open the database {}: {}{}", .0.display(), .1, Advice(.1))]
    Io(PathBuf, io::Error),
    #[error("cannot read the database {}: {}", .0.display(), .1)]
    Store(PathBuf, StoreError),
}

impl OpenError {
    fn new(path: &Path, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked(path.into()),
            DatabaseError::UpgradeRequired(_) => Self::NotOurs(path.into()),
            DatabaseError::Storage(StorageError::Corrupted(why)) => Self::Damaged(path.into(), why),
            DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
                ErrorKind::InvalidData => Self::NotOurs(path.into()),
                // It is shorter than its first bytes say.
                ErrorKind::UnexpectedEof => Self::Damaged(path.into(), String::from("it is too short")),
                _ => Self::Io(path.into(), error),
            },
            error => Self::Store(path.into(), StoreError::from(error)),
        }
    }

    /// The reason of a failed operation on a database that is open.
    pub(crate) fn store(path: &Path, error: StoreError) -> Self {
        match error.io() {
            Some(io) => Self::Io(path.into(), io),
            None => Self::Store(path.into(), error),
        }
    }
}

/// What to do about an error, if the system's text does not say it.
struct Advice<'a>(&'a io::Error);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "; the program must be able to write to the file and to its directory"
            }
            ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded => {
                "; make room on the disk and start it again"
            }
            _ => "",
        })
    }
}
