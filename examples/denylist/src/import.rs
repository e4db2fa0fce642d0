//! [`import`]: imports the complaints of a published file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use crate::cli_error::CliError;
use crate::complaint::Complaint;
use crate::complaint_reader::{BadRow, ComplaintReader, Row};
use crate::println_lossy::println_lossy;
use crate::progress::Progress;
use crate::store::{Counted, Store};
use crate::words;

/// How many complaints are counted in one transaction. As many are in memory, and as many are read again after an
/// interrupted import.
const BATCH: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// A daily file of the FTC's Do Not Call Reported Calls, as published (CSV)
    file: PathBuf,
    /// The database file, created if it does not exist. It must not be open in a running service
    #[arg(long, env = "DENYLIST_DB", value_name = "FILE", default_value = "denylist.redb")]
    db: PathBuf,
}

/// The contents of a file.
#[derive(Debug, Default)]
struct Tally {
    counted: Counted,
    /// How many rows had each error, and the line of the first one.
    bad: BTreeMap<BadRow, (u64, u64)>,
}

pub(crate) fn import(args: &ImportArgs) -> Result<(), CliError> {
    let unreadable = |error| CliError::no_input(format!("cannot read {}: {error}", args.file.display()));
    let file = File::open(&args.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    // The length of a pipe is unknown.
    let length = metadata.is_file().then_some(metadata.len());
    let mut reader =
        ComplaintReader::new(BufReader::new(file)).map_err(|error| CliError::header(&args.file, &error))?;
    let store = Store::open(&args.db)?;

    let progress = Progress::new();
    let mut tally = Tally::default();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let row = reader.next_row().map_err(unreadable)?;
        let is_end = row.is_none();
        match row {
            Some(Row::Complaint(complaint)) => batch.push(complaint),
            Some(Row::Bad(why)) => tally.bad.entry(why).or_insert((0, reader.line_number())).0 += 1,
            None => {}
        }
        if batch.len() == BATCH || is_end {
            tally.count(&store, &mut batch)?;
            let read = words::size(reader.bytes_read());
            match length {
                Some(length) => progress.show(format_args!("read {read} of {}", words::size(length))),
                None => progress.show(format_args!("read {read}")),
            }
        }
        if is_end {
            break;
        }
    }
    progress.clear();
    tally.print();
    Ok(())
}

impl Tally {
    fn count(&mut self, store: &Store, batch: &mut Vec<Complaint>) -> Result<(), CliError> {
        let counted = store.count(batch)?;
        self.counted.new += counted.new;
        self.counted.known += counted.known;
        batch.clear();
        Ok(())
    }

    fn print(&self) {
        let Counted { new, known } = self.counted;
        let skipped: u64 = self.bad.values().map(|(rows, _)| rows).sum();
        let were = if known == 1 { "was" } else { "were" };
        println_lossy(format_args!("read {}", words::count(new + known + skipped, "row")));
        println_lossy(format_args!("counted {}", words::count(new, "complaint")));
        println_lossy(format_args!("{} {were} counted before", words::number(known)));
        println_lossy(format_args!("skipped {}", words::count(skipped, "row")));
        for (why, (rows, line)) in &self.bad {
            println_lossy(format_args!("  {}: {why} (first in line {line})", words::number(*rows)));
        }
    }
}
