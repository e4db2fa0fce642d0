//! [`Store`]: the database file.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gen_registry::TaskError;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError};
use redb::{TableDefinition, TableError, TableHandle, WriteTransaction};
use thiserror::Error;

use crate::complaint::{Complaint, Record, Timestamp};
use crate::phone_number::PhoneNumber;
use crate::rule::{Edit, Rule, RuleSet};

/// What this file is: without it the database is somebody else's.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// The rules of each recipient, as text.
const RULES: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("rules");
/// Every complaint that was counted, so that none is counted twice. By date first: a day's file then writes to
/// neighbouring pages.
const COMPLAINTS: TableDefinition<'_, (u64, u128), ()> = TableDefinition::new("complaints");
/// Complaints, robocalls and the last complaint's date, by caller.
const REPUTATIONS: TableDefinition<'_, u64, (u64, u64, u64)> = TableDefinition::new("reputations");
/// Complaints by caller and subject.
const SUBJECTS: TableDefinition<'_, (u64, &str), u64> = TableDefinition::new("subjects");

const FORMAT: &str = "denylist 1";
/// redb's default of 1 GiB would let an import grow to that.
const CACHE_BYTES: usize = 32 << 20;

/// The database file: a cheap clone. Its methods block.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Database>);

/// What a batch of complaints came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    /// Complaints that were not known before.
    pub(crate) new: u64,
    /// Complaints that were counted earlier.
    pub(crate) known: u64,
}

/// How much is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rules: u64,
    pub(crate) complaints: u64,
    pub(crate) callers: u64,
}

impl Store {
    /// Opens the database, and makes it if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let store = Self(Arc::new(database.map_err(|error| OpenError::new(path, error))?));
        match store.prepare() {
            Ok(true) => Ok(store),
            Ok(false) => Err(OpenError::NotOurs(path.into())),
            Err(error) => Err(OpenError::Store(path.into(), error)),
        }
    }

    /// Makes the tables in a new file; whether an old one is ours.
    fn prepare(&self) -> Result<bool, StoreError> {
        let transaction = self.0.begin_write()?;
        // Also one that was made by a process which was killed before this commit.
        let is_new = transaction.list_tables()?.next().is_none();
        if !is_new && !transaction.list_tables()?.any(|table| table.name() == META.name()) {
            return Ok(false);
        }
        {
            let mut meta = match transaction.open_table(META) {
                Err(TableError::TableTypeMismatch { .. }) => return Ok(false),
                meta => meta?,
            };
            if is_new {
                meta.insert("format", FORMAT)?;
            }
            if meta.get("format")?.is_none_or(|format| format.value() != FORMAT) {
                return Ok(false);
            }
            // Readers then need not ask whether they exist.
            transaction.open_table(RULES)?;
            transaction.open_table(COMPLAINTS)?;
            transaction.open_table(REPUTATIONS)?;
            transaction.open_table(SUBJECTS)?;
        }
        transaction.commit()?;
        Ok(true)
    }

    pub(crate) fn size(&self) -> Result<Size, StoreError> {
        let transaction = self.0.begin_read()?;
        Ok(Size {
            rules: transaction.open_table(RULES)?.len()?,
            complaints: transaction.open_table(COMPLAINTS)?.len()?,
            callers: transaction.open_table(REPUTATIONS)?.len()?,
        })
    }

    pub(crate) fn rules(&self, of: PhoneNumber) -> Result<RuleSet, StoreError> {
        let rules = self.0.begin_read()?.open_table(RULES)?;
        let mut set = Vec::new();
        for row in rules.range((of.digits(), "")..(of.digits() + 1, ""))? {
            let (key, _) = row?;
            let (_, text) = key.value();
            set.push(text.parse::<Rule>().map_err(|_| StoreError::Corrupt)?);
        }
        Ok(set.into_iter().collect())
    }

    /// Puts a change on disk: when this returns, it is there.
    pub(crate) fn edit(&self, of: PhoneNumber, edit: &Edit) -> Result<(), StoreError> {
        let transaction = self.0.begin_write()?;
        {
            let mut rules = transaction.open_table(RULES)?;
            let mut add = |rule: &Rule| rules.insert((of.digits(), rule.to_string().as_str()), ()).map(drop);
            match edit {
                Edit::Add(rule) => add(rule)?,
                Edit::Remove(rule) => drop(rules.remove((of.digits(), rule.to_string().as_str()))?),
                Edit::Replace(all) => {
                    rules.retain_in((of.digits(), "")..(of.digits() + 1, ""), |_, ()| false)?;
                    for rule in all {
                        rules.insert((of.digits(), rule.to_string().as_str()), ())?;
                    }
                }
            }
        }
        Ok(transaction.commit()?)
    }

    pub(crate) fn record(&self, of: PhoneNumber) -> Result<Record, StoreError> {
        let transaction = self.0.begin_read()?;
        let Some(row) = transaction.open_table(REPUTATIONS)?.get(of.digits())? else { return Ok(Record::default()) };
        let (complaints, robocalls, last) = row.value();
        let mut subjects = Vec::new();
        for row in transaction.open_table(SUBJECTS)?.range((of.digits(), "")..(of.digits() + 1, ""))? {
            let (key, count) = row?;
            subjects.push((key.value().1.to_owned(), count.value()));
        }
        Ok(Record::new(complaints, robocalls, Timestamp::from_stored(last), subjects))
    }

    /// Counts complaints, each once, all or none of them.
    ///
    /// A complaint is remembered by its content in the same transaction. So whatever repeats one, the same file again,
    /// another that overlaps, or the rest of an import that was interrupted, it counts once.
    pub(crate) fn count(&self, complaints: &[Complaint]) -> Result<Counted, StoreError> {
        let transaction = self.0.begin_write()?;
        let counted = count(&transaction, complaints)?;
        transaction.commit()?;
        Ok(counted)
    }

    /// Puts the sample into the database, or does nothing if that was done before: what a user took out of it then
    /// does not come back.
    pub(crate) fn seed(
        &self,
        complaints: &[Complaint],
        rules: &[(PhoneNumber, Rule)],
    ) -> Result<Option<Counted>, StoreError> {
        let transaction = self.0.begin_write()?;
        if transaction.open_table(META)?.insert("sample", "imported")?.is_some() {
            return Ok(None);
        }
        {
            let mut table = transaction.open_table(RULES)?;
            for (of, rule) in rules {
                table.insert((of.digits(), rule.to_string().as_str()), ())?;
            }
        }
        let counted = count(&transaction, complaints)?;
        transaction.commit()?;
        Ok(Some(counted))
    }

    /// Closes the file, or gives itself back if something still uses it.
    pub(crate) fn close(self) -> Result<(), Self> {
        Arc::try_unwrap(self.0).map(drop).map_err(Self)
    }
}

#[derive(Default)]
struct Tally<'a> {
    complaints: u64,
    robocalls: u64,
    last: u64,
    subjects: HashMap<&'a str, u64>,
}

fn count(transaction: &WriteTransaction, complaints: &[Complaint]) -> Result<Counted, StoreError> {
    let mut counted = Counted::default();
    let mut tallies = HashMap::<PhoneNumber, Tally<'_>>::new();
    let mut seen = transaction.open_table(COMPLAINTS)?;
    for complaint in complaints {
        if seen.insert((complaint.created.to_stored(), complaint.digest), ())?.is_some() {
            counted.known += 1;
            continue;
        }
        counted.new += 1;
        let tally = tallies.entry(complaint.about).or_default();
        tally.complaints += 1;
        tally.robocalls += u64::from(complaint.is_robocall);
        tally.last = tally.last.max(complaint.created.to_stored());
        *tally.subjects.entry(&complaint.subject).or_default() += 1;
    }
    let mut reputations = transaction.open_table(REPUTATIONS)?;
    let mut subjects = transaction.open_table(SUBJECTS)?;
    for (about, tally) in tallies {
        let about = about.digits();
        let (complaints, robocalls, last) = reputations.get(about)?.map_or((0, 0, 0), |row| row.value());
        let row = (complaints + tally.complaints, robocalls + tally.robocalls, last.max(tally.last));
        reputations.insert(about, row)?;
        for (subject, more) in tally.subjects {
            let count = subjects.get((about, subject))?.map_or(0, |row| row.value());
            subjects.insert((about, subject), count + more)?;
        }
    }
    Ok(counted)
}

/// Why a database could not be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("the database {} is open in another process; end that one first, or choose another with --db", .0.display())]
    Locked(PathBuf),
    #[error("{} is not a database of this program; choose another with --db", .0.display())]
    NotOurs(PathBuf),
    #[error("cannot open the database {}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
    #[error("cannot read the database {}: {}", .0.display(), .1)]
    Store(PathBuf, StoreError),
}

impl OpenError {
    fn new(path: &Path, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked(path.into()),
            DatabaseError::UpgradeRequired(_) => Self::NotOurs(path.into()),
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Self::NotOurs(path.into())
            }
            DatabaseError::Storage(StorageError::Io(error)) => Self::Io(path.into(), error),
            error => Self::Store(path.into(), StoreError::from(error)),
        }
    }
}

/// Why the database did not do what it was asked.
#[derive(Debug, Clone, Error)]
pub(crate) enum StoreError {
    #[error("the database failed: {0}")]
    Database(Arc<redb::Error>),
    #[error("the database holds what this program did not write")]
    Corrupt,
    /// It may have done it.
    #[error("the work on the database did not end: {0}")]
    Task(#[from] TaskError),
}

macro_rules! from_redb {
    ($($error:ident)+) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Arc::new(error.into()))
            }
        })+
    };
}

from_redb!(CommitError DatabaseError StorageError TableError TransactionError);
