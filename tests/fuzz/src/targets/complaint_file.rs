//! The FTC's file of complaints.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};

use denylist::complaint::{Complaint, Timestamp};
use denylist::complaint_reader::{BadRow, COLUMNS, ComplaintReader, HeaderError, Row};
use denylist::phone_number::PhoneNumber;

use crate::kind;

pub(crate) const WORDS: &[&str] = &[
    "Company_Phone_Number,Created_Date,Violation_Date,Consumer_City,Consumer_State,Consumer_Area_Code,Subject,\
     Recorded_Message_Or_Robocall\n",
    "2025550123,2021-07-07 00:01:15,2021-07-06 11:48:00,Reno,Nevada,775,Other,Y\n",
    "\r\n",
    "\n",
    ",",
    "\"",
    "\"\"",
    "\u{feff}",
    "2021-07-07 00:01:15",
    "2025550123",
    ",,,,,,,",
    "Subject",
    "\0",
];

/// A file that is read to its end.
#[derive(Debug, PartialEq, Eq)]
struct File {
    rows: Vec<Result<Complaint, BadRow>>,
    bytes: u64,
    lines: u64,
}

fn read(input: impl BufRead) -> Result<File, String> {
    let mut reader = match ComplaintReader::new(input) {
        Ok(reader) => reader,
        Err(HeaderError::Io(error)) => panic!("memory is readable: {error}"),
        Err(error) => return Err(error.to_string()),
    };
    let mut rows = Vec::new();
    let mut line = reader.line_number();
    while let Some(row) = reader.next_row().expect("memory is readable") {
        assert!(reader.line_number() > line, "two rows in line {line}");
        line = reader.line_number();
        rows.push(match row {
            Row::Complaint(complaint) => Ok(complaint),
            Row::Bad(why) => Err(why),
        });
    }
    Ok(File { rows, bytes: reader.bytes_read(), lines: reader.line_number() })
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let file = read(data);
    // Where the chunks of the input end is no matter.
    for size in [1, 7] {
        assert_eq!(read(BufReader::with_capacity(size, data)), file, "in chunks of {size} bytes");
    }
    let Ok(file) = file else { return kind(file.err()) };
    assert_eq!(file.bytes, data.len() as u64, "bytes are left");
    let lines = data.split_inclusive(|byte| *byte == b'\n').count() as u64;
    assert_eq!(file.lines, lines, "lines are left");
    let mut reasons = BTreeSet::new();
    for row in &file.rows {
        match row {
            Ok(complaint) => check(complaint),
            Err(why) => drop(reasons.insert(*why)),
        }
    }
    if data.len() < 60_000 {
        let (rows, quoted) = model(data).expect("a header that is read");
        let found: Vec<_> = file.rows.iter().map(|row| row.as_ref().map(seen).map_err(|why| *why)).collect();
        assert_eq!(found, rows, "against the model");
        // The same rows with every cell in quotes, and so with the same digests.
        let good: Vec<_> = file.rows.iter().filter(|row| row.is_ok()).cloned().collect();
        assert_eq!(read(quoted.as_bytes()).map(|file| file.rows), Ok(good), "with every cell in quotes");
    }
    // A line break at the end is no row, and a row after it does not change those before.
    let more = [data, b"\n2025550123\n".as_slice()].concat();
    let more = read(more.as_slice()).expect("the header is the same").rows;
    assert_eq!(more[..file.rows.len()], file.rows, "a later row changes an earlier one");
    let good = file.rows.iter().filter(|row| row.is_ok()).count();
    kind((format!("{reasons:?}"), good.min(4)))
}

/// What the model knows of a complaint.
type Seen = (PhoneNumber, Timestamp, String, bool);

fn seen(complaint: &Complaint) -> Seen {
    (complaint.about, complaint.created, complaint.subject.clone(), complaint.is_robocall)
}

/// The rows of a file with short lines, character by character, and the good ones as a file with every cell in quotes.
/// `None` without a header.
fn model(data: &[u8]) -> Option<(Vec<Result<Seen, BadRow>>, String)> {
    let lines = data.split_inclusive(|byte| *byte == b'\n').map(|line| match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    });
    let mut lines = lines.filter(|line| !line.is_empty());
    let header = String::from_utf8_lossy(lines.next()?).into_owned();
    let names = cells(header.trim_start_matches('\u{feff}'))?;
    let place = |name: &str| names.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
    let places = COLUMNS.map(place).into_iter().collect::<Option<Vec<_>>>()?;
    let mut quoted = COLUMNS.join(",");
    let rows = lines.map(|line| {
        let line = std::str::from_utf8(line).map_err(|_| BadRow::NotUtf8)?;
        let cells = cells(line).ok_or(BadRow::Quotes)?;
        if cells.len() != names.len() {
            return Err(BadRow::Columns);
        }
        let cells: Vec<&str> = places.iter().map(|place| cells[*place].trim()).collect();
        let about = cells[0].parse()?;
        let created = Timestamp::parse(cells[1]).ok_or(BadRow::Date)?;
        let row: Vec<_> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        quoted += &format!("\n{}", row.join(","));
        Ok((about, created, cells[6].chars().take(100).collect(), cells[7].eq_ignore_ascii_case("y")))
    });
    let rows = rows.collect();
    Some((rows, quoted))
}

/// The cells of a line. `None` if a quote is not closed, or text follows it.
fn cells(line: &str) -> Option<Vec<String>> {
    enum At {
        Start,
        Plain,
        Quoted,
        /// After a quote that closes the cell, or is the first of two.
        Quote,
    }
    let (mut cells, mut cell, mut at) = (Vec::new(), String::new(), At::Start);
    for char in line.chars() {
        at = match (at, char) {
            (At::Start, '"') => At::Quoted,
            (At::Start | At::Plain | At::Quote, ',') => {
                cells.push(std::mem::take(&mut cell));
                At::Start
            }
            (At::Quoted, '"') => At::Quote,
            (At::Quote, '"') | (At::Quoted, _) => {
                cell.push(char);
                At::Quoted
            }
            (At::Start | At::Plain, _) => {
                cell.push(char);
                At::Plain
            }
            (At::Quote, _) => return None,
        };
    }
    cells.push(cell);
    if let At::Quoted = at { None } else { Some(cells) }
}

fn check(complaint: &Complaint) {
    let Complaint { about, created, subject, .. } = complaint;
    assert_eq!(about.to_string().parse::<PhoneNumber>(), Ok(*about));
    assert_eq!(Timestamp::parse(&created.to_string()), Some(*created));
    assert_eq!(Timestamp::from_stored(created.to_stored()), Some(*created), "it cannot be read again");
    assert!(subject.chars().count() <= 100, "{subject:?} is not shortened");
}
