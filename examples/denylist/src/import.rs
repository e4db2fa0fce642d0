//! [`import`]: counts the complaints of a published file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::complaint::Complaint;
use crate::complaint_reader::{BadRow, ComplaintReader, Row};
use crate::fault::Fault;
use crate::say::say;
use crate::store::{Counted, Store};

/// How many complaints are counted in one transaction: as many are in memory, and as many are read again after an
/// import that was interrupted.
const BATCH: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// A daily file of the FTC's Do Not Call Reported Calls, as published (CSV)
    file: PathBuf,
    /// The database file; made if there is none. No service may have it open
    #[arg(long, value_name = "FILE", default_value = "denylist.redb")]
    db: PathBuf,
}

/// What was in a file.
#[derive(Debug, Default)]
struct Tally {
    counted: Counted,
    /// How many rows had each fault, and in which line the first one is.
    bad: BTreeMap<BadRow, (u64, u64)>,
}

pub(crate) fn import(args: &ImportArgs) -> Result<(), Fault> {
    let unreadable = |error| Fault::no_input(format!("cannot read {}: {error}", args.file.display()));
    let file = File::open(&args.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    // A pipe's is not known.
    let length = metadata.is_file().then_some(metadata.len());
    let mut reader = ComplaintReader::new(BufReader::new(file)).map_err(|error| Fault::header(&args.file, &error))?;
    let store = Store::open(&args.db)?;

    // It draws on standard error, and only if that is a terminal.
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
    fn count(&mut self, store: &Store, batch: &mut Vec<Complaint>) -> Result<(), Fault> {
        let counted = store.count(batch)?;
        self.counted.new += counted.new;
        self.counted.known += counted.known;
        batch.clear();
        Ok(())
    }

    fn print(&self) {
        let Counted { new, known } = self.counted;
        let skipped: u64 = self.bad.values().map(|(rows, _)| rows).sum();
        say(format_args!("read {} rows", HumanCount(new + known + skipped)));
        say(format_args!("counted {} complaints", HumanCount(new)));
        say(format_args!("{} were counted before", HumanCount(known)));
        say(format_args!("skipped {} rows", HumanCount(skipped)));
        for (why, (rows, line)) in &self.bad {
            say(format_args!("  {}: {why} (first in line {line})", HumanCount(*rows)));
        }
    }
}
