//! [`import`]: imports the complaints of a published file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::cli_error::CliError;
use crate::complaint::Complaint;
use crate::complaint_reader::{BadRow, ComplaintReader, Row};
use crate::println_lossy::println_lossy;
use crate::store::{Counted, Store};

/// How many complaints are counted in one transaction. As many are in memory, and as many are read again after an
/// interrupted import.
const BATCH: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// A daily file of the FTC's Do Not Call Reported Calls, as published (CSV)
    file: PathBuf,
    /// The database file, created if it does not exist. It must not be open in a running service
    #[arg(long, value_name = "FILE", default_value = "denylist.redb")]
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

    // It draws on standard error, and only on a terminal.
    let bar = progress_bar(length);
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
        }
        bar.set_position(reader.bytes_read());
        if is_end {
            break;
        }
    }
    bar.finish_and_clear();
    tally.print();
    Ok(())
}

fn progress_bar(length: Option<u64>) -> ProgressBar {
    let Some(length) = length else { return ProgressBar::no_length() };
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
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
        println_lossy(format_args!("read {} rows", HumanCount(new + known + skipped)));
        println_lossy(format_args!("counted {} complaints", HumanCount(new)));
        println_lossy(format_args!("{} were counted before", HumanCount(known)));
        println_lossy(format_args!("skipped {} rows", HumanCount(skipped)));
        for (why, (rows, line)) in &self.bad {
            println_lossy(format_args!("  {}: {why} (first in line {line})", HumanCount(*rows)));
        }
    }
}
