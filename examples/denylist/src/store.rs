//! [`Store`]: the database file.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use gen_registry::TaskError;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use redb::{TableDefinition, TableError, TableHandle, WriteTransaction};
use thiserror::Error;
use tracing::warn;

use crate::complaint::{Complaint, Record, Timestamp};
use crate::database::{self, OpenError, Opened, contained};
use crate::phone_number::PhoneNumber;
use crate::println_lossy::println_lossy;
use crate::rule::{Edit, Rule, RuleSet};

/// Identifies the file. Without it, the database belongs to another program.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// The rules of each recipient, as text.
const RULES: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("rules");
/// Every counted complaint, so that none is counted twice. The date comes first, so that a daily file writes to
/// neighbouring pages.
const COMPLAINTS: TableDefinition<'_, (u64, u128), ()> = TableDefinition::new("complaints");
/// Complaints, robocalls and the last complaint's date, by caller.
const REPUTATIONS: TableDefinition<'_, u64, (u64, u64, u64)> = TableDefinition::new("reputations");
/// Complaints by caller and subject.
const SUBJECTS: TableDefinition<'_, (u64, &str), u64> = TableDefinition::new("subjects");

const FORMAT: &str = "denylist 1";
/// The database file. Clones are cheap. The methods block.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Database>);

/// The result of a batch of complaints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    /// New complaints.
    pub(crate) new: u64,
    /// Complaints that had been counted before.
    pub(crate) known: u64,
}

/// The number of rows in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rules: u64,
    pub(crate) complaints: u64,
    pub(crate) callers: u64,
}

impl Store {
    /// Opens the database, or creates it.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let Opened { database, is_repaired } = database::open(path)?;
        if is_repaired {
            warn!(path = %path.display(), "the database was damaged and is set back to its last intact state");
            println_lossy(format_args!(
                "{} was damaged and is set back to its last intact state: the last changes may be missing",
                path.display()
            ));
        }
        let store = Self(Arc::new(database));
        match contained(|| store.prepare()) {
            Ok(Ok(true)) => Ok(store),
            Ok(Ok(false)) => Err(OpenError::NotOurs(path.into())),
            Ok(Err(error)) => Err(OpenError::store(path, error)),
            Err(why) => Err(OpenError::Damaged(path.into(), why)),
        }
    }

    /// Creates the tables in a new file. Returns whether the file belongs to this program.
    fn prepare(&self) -> Result<bool, StoreError> {
        let transaction = self.0.begin_write()?;
        // Also one whose creation was interrupted before this commit.
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
            // Readers then need not check whether they exist.
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

    /// The first phones with rules after `after`, at most `limit` of them. Each costs one look-up, however many rules it
    /// has.
    pub(crate) fn phones(&self, after: Option<PhoneNumber>, limit: usize) -> Result<Vec<PhoneNumber>, StoreError> {
        let rules = self.0.begin_read()?.open_table(RULES)?;
        let mut phones = Vec::new();
        let mut from = after.map_or(0, |after| after.digits() + 1);
        while phones.len() < limit {
            let Some(row) = rules.range((from, "")..)?.next() else { break };
            let (digits, _) = row?.0.value();
            phones.push(PhoneNumber::from_digits(digits).ok_or(StoreError::Corrupt)?);
            from = digits + 1;
        }
        Ok(phones)
    }

    /// Writes a change to disk. It is durable when this returns.
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
        let last = Timestamp::from_stored(last).ok_or(StoreError::Corrupt)?;
        Ok(Record::new(complaints, robocalls, last, subjects))
    }

    /// Counts complaints, each once, in one transaction.
    ///
    /// The content of each complaint is recorded in the same transaction. So a repeated complaint counts once, whether
    /// it comes from the same file, an overlapping one, or the rest of an interrupted import.
    pub(crate) fn count(&self, complaints: &[Complaint]) -> Result<Counted, StoreError> {
        let transaction = self.0.begin_write()?;
        let counted = count(&transaction, complaints)?;
        transaction.commit()?;
        Ok(counted)
    }

    /// Imports the sample unless that was done before. What a user has deleted stays deleted.
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

    /// Closes the file. Returns the store if it is still in use.
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

/// Why the database failed.
#[derive(Debug, Clone, Error)]
pub(crate) enum StoreError {
    #[error("the database failed: {0}")]
    Database(Arc<redb::Error>),
    #[error("the database has unexpected content")]
    Corrupt,
    /// The operation may have taken effect.
    #[error("the database operation did not complete: {0}")]
    Task(#[from] TaskError),
    /// A read outside of a worker.
    #[error("the database operation did not complete")]
    Interrupted,
}

impl StoreError {
    /// The error of the system, if there is one.
    pub(crate) fn io(&self) -> Option<io::Error> {
        match self {
            Self::Database(error) => match &**error {
                // io::Error is not Clone.
                redb::Error::Io(error) => {
                    Some(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error))
                }
                _ => None,
            },
            _ => None,
        }
    }
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
