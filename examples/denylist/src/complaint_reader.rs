//! [`ComplaintReader`]: the FTC's file, row by row.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use crate::complaint::{Complaint, Timestamp};
use crate::phone_number::NumberError;

/// The columns, in the order in which they are digested. A file may have them in another order, and may have more.
pub const COLUMNS: [&str; 8] = [
    "Company_Phone_Number",
    "Created_Date",
    "Violation_Date",
    "Consumer_City",
    "Consumer_State",
    "Consumer_Area_Code",
    "Subject",
    "Recorded_Message_Or_Robocall",
];
const NUMBER: usize = 0;
const CREATED: usize = 1;
const SUBJECT: usize = 6;
const ROBOCALL: usize = 7;
/// Longer lines are rejected. Without a limit, a file without line breaks would fill the memory.
const MAX_LINE: usize = 64 << 10;
/// The FTC's subjects are shorter. Many rows are in memory at once.
const MAX_SUBJECT: usize = 100;

/// Reads the published file Do Not Call Reported Calls: comma-separated values with a header.
///
/// A row is a line, because the file has no line breaks within quotes. So an unclosed quote costs one row and not the
/// rest of the file. The longest line bounds the memory.
#[derive(Debug)]
pub struct ComplaintReader<R> {
    input: R,
    /// The index of each of [`COLUMNS`] in a row.
    columns: [usize; COLUMNS.len()],
    /// The number of columns of a row.
    width: usize,
    line: Vec<u8>,
    line_number: u64,
    bytes_read: u64,
}

/// One row of the file.
#[derive(Debug)]
pub enum Row {
    /// A complaint.
    Complaint(Complaint),
    /// A row that is none. It is skipped.
    Bad(BadRow),
}

impl<R: BufRead> ComplaintReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// The input cannot be read, or its first line does not name all columns.
    pub fn new(input: R) -> Result<Self, HeaderError> {
        let columns = [0; COLUMNS.len()];
        let mut reader = Self { input, columns, width: 0, line: Vec::new(), line_number: 0, bytes_read: 0 };
        let header = match reader.next_line()? {
            Some(Line::Text) => String::from_utf8_lossy(&reader.line).into_owned(),
            Some(Line::TooLong) => String::new(),
            None => return Err(HeaderError::Empty),
        };
        let names = split(header.trim_start_matches('\u{feff}')).unwrap_or_default();
        for (place, column) in reader.columns.iter_mut().zip(COLUMNS) {
            let found = names.iter().position(|name| name.trim().eq_ignore_ascii_case(column));
            *place = found.ok_or(HeaderError::Missing(column))?;
        }
        reader.width = names.len();
        Ok(reader)
    }

    /// The next row, if there is one. An error is an I/O error. An invalid row is a [`Row`].
    pub fn next_row(&mut self) -> io::Result<Option<Row>> {
        Ok(self.next_line()?.map(|line| {
            let row = match line {
                Line::Text => self.parse(),
                Line::TooLong => Err(BadRow::LineTooLong),
            };
            row.map_or_else(Row::Bad, Row::Complaint)
        }))
    }

    /// The line number of the last row, counted from 1.
    pub fn line_number(&self) -> u64 {
        self.line_number
    }

    /// How much of the input is read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads the next non-empty line, without its line break.
    fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            self.line.clear();
            let bound = MAX_LINE as u64 + 1;
            let read = self.input.by_ref().take(bound).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.bytes_read += read as u64;
            self.line_number += 1;
            let text = match self.line.strip_suffix(b"\n") {
                Some(text) => text.strip_suffix(b"\r").unwrap_or(text),
                None if read > MAX_LINE => {
                    self.skip_line()?;
                    return Ok(Some(Line::TooLong));
                }
                None => &self.line,
            };
            let length = text.len();
            self.line.truncate(length);
            if length > 0 {
                return Ok(Some(Line::Text));
            }
        }
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let skipped = end.map_or(buffer.len(), |end| end + 1);
            self.input.consume(skipped);
            self.bytes_read += skipped as u64;
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn parse(&self) -> Result<Complaint, BadRow> {
        let line = std::str::from_utf8(&self.line).map_err(|_| BadRow::NotUtf8)?;
        let fields = split(line).ok_or(BadRow::Quotes)?;
        if fields.len() != self.width {
            return Err(BadRow::Columns);
        }
        let field = |column: usize| fields[self.columns[column]].trim();
        let about = field(NUMBER).parse()?;
        let created = Timestamp::parse(field(CREATED)).ok_or(BadRow::Date)?;
        // The normalised number, so that a complaint counts once even if files write the number differently.
        let mut content = format!("{about}");
        for column in CREATED..COLUMNS.len() {
            content.push('\u{1f}');
            content.push_str(field(column));
        }
        Ok(Complaint {
            about,
            created,
            subject: field(SUBJECT).chars().take(MAX_SUBJECT).collect(),
            is_robocall: field(ROBOCALL).eq_ignore_ascii_case("y"),
            digest: xxh3_128(content.as_bytes()),
        })
    }
}

enum Line {
    Text,
    TooLong,
}

/// The fields of a row. `None` if a quote is not closed.
fn split(mut rest: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut fields = Vec::with_capacity(COLUMNS.len());
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// The text up to the closing quote, and the rest of the row. A doubled quote stands for one.
fn unquote(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut text = Cow::Borrowed("");
    let mut rest = quoted;
    loop {
        let (before, after) = rest.split_once('"')?;
        text += before;
        match after.strip_prefix('"') {
            Some(next) => {
                text += "\"";
                rest = next;
            }
            None => return Some((text, after)),
        }
    }
}

/// Why a row is not a complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum BadRow {
    /// The number of the caller is none.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// The date of the complaint is none.
    #[error("created date not like 2021-07-07 00:01:15")]
    Date,
    /// It has more or fewer columns than the header.
    #[error("wrong number of columns")]
    Columns,
    /// A quote is not closed, or text follows it.
    #[error("an unclosed quote")]
    Quotes,
    /// It is not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// It is longer than any row.
    #[error("line longer than 64 KiB")]
    LineTooLong,
}

/// Why a file is not a file of complaints.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// There is no first line.
    #[error("it is empty")]
    Empty,
    /// The first line does not name this column.
    #[error("its first line has no column {0}; it must name the columns of the FTC's Do Not Call Reported Calls")]
    Missing(&'static str),
    /// The input cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "Company_Phone_Number,Created_Date,Violation_Date,Consumer_City,Consumer_State,\
                          Consumer_Area_Code,Subject,Recorded_Message_Or_Robocall";

    fn rows(text: &[u8]) -> Vec<Result<Complaint, BadRow>> {
        let mut reader = ComplaintReader::new(text).expect("the header is good");
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row().expect("memory is readable") {
            rows.push(match row {
                Row::Complaint(complaint) => Ok(complaint),
                Row::Bad(why) => Err(why),
            });
        }
        rows
    }

    fn after_header(text: &str) -> Vec<Result<Complaint, BadRow>> {
        rows(format!("{HEADER}\r\n{text}").as_bytes())
    }

    #[test]
    fn a_row_is_a_complaint() {
        let rows = after_header("2025550123,2021-07-07 00:01:15,2021-07-06 11:48:00,Reno,Nevada,775,Other,Y\r\n");
        let [Ok(complaint)] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!(complaint.about.to_string(), "+12025550123");
        assert_eq!(complaint.created.to_string(), "2021-07-07 00:01:15");
        assert_eq!(complaint.subject, "Other");
        assert!(complaint.is_robocall);
    }

    #[test]
    fn same_complaint_in_any_csv_form() {
        let plain = after_header("2025550123,2021-07-07 00:01:15,2021-07-06 11:48:00,Reno,Nevada,775,Other,Y");
        let quoted =
            after_header("\"+1 202 555 0123\",2021-07-07 00:01:15,2021-07-06 11:48:00, Reno,\"Nevada\",775,Other,Y\n");
        let moved = rows(
            b"\xef\xbb\xbfsubject,Recorded_Message_Or_Robocall,Company_Phone_Number,Created_Date,Violation_Date,Consumer_City,\
              Consumer_State,Consumer_Area_Code,More\nOther,Y,2025550123,2021-07-07 00:01:15,2021-07-06 11:48:00,Reno,Nevada,775,?",
        );
        assert!(plain[0].is_ok());
        assert_eq!(plain, quoted);
        assert_eq!(plain, moved);
    }

    #[test]
    fn quotes_hold_commas_and_quotes() {
        let rows = after_header("2025550123,2021-07-07 00:01:15,,\"Reno, \"\"NV\"\"\",,,\"a,b\",N");
        assert_eq!(rows[0].as_ref().expect("a good row").subject, "a,b");
        assert_eq!(split("\"Reno, \"\"NV\"\"\",").unwrap(), ["Reno, \"NV\"", ""]);
    }

    #[test]
    fn bad_row_is_reported_and_skipped() {
        let good = "2025550123,2021-07-07 00:01:15,,,,,,";
        let cases: [(&[u8], BadRow); 10] = [
            (b",2021-07-07 00:01:15,,,,,,", BadRow::Number(NumberError::Empty)),
            (b"12345,2021-07-07 00:01:15,,,,,,", BadRow::Number(NumberError::TooShort)),
            (b"70611454600144,2021-07-07 00:01:15,,,,,,", BadRow::Number(NumberError::TooLong)),
            (b"2025550123;2,2021-07-07 00:01:15,,,,,,", BadRow::Number(NumberError::NotANumber)),
            (b"2025550123,yesterday,,,,,,", BadRow::Date),
            (b"2025550123,2021-07-07 00:01:15", BadRow::Columns),
            (b"2025550123,2021-07-07 00:01:15,,,,,,,,", BadRow::Columns),
            (b"2025550123,2021-07-07 00:01:15,,\"Reno,,,,", BadRow::Quotes),
            (b"2025550123,2021-07-07 00:01:15,,\"Reno\"x,,,,", BadRow::Quotes),
            (b"2025550123,2021-07-07 00:01:15,,R\xffno,,,,", BadRow::NotUtf8),
        ];
        for (bad, why) in cases {
            let text = [HEADER.as_bytes(), b"\n", bad, b"\r\n\r\n", good.as_bytes(), b"\n"].concat();
            let rows = rows(&text);
            assert_eq!(rows.len(), 2, "{}", String::from_utf8_lossy(bad));
            assert_eq!(rows[0], Err(why), "{}", String::from_utf8_lossy(bad));
            assert!(rows[1].is_ok());
        }
    }

    #[test]
    fn overlong_line_loses_one_row_in_bounded_memory() {
        let long = "x".repeat(3 * MAX_LINE);
        let good = "2025550123,2021-07-07 00:01:15,,,,,,";
        let text = format!("{HEADER}\n{long}\n{good}\n{long}");
        let mut reader = ComplaintReader::new(text.as_bytes()).unwrap();
        let mut reasons = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            reasons.push(matches!(row, Row::Bad(BadRow::LineTooLong)));
        }
        assert_eq!(reasons, [true, false, true]);
        assert_eq!(reader.bytes_read(), text.len() as u64);
        assert!(reader.line.capacity() < 4 * MAX_LINE);
    }

    #[test]
    fn missing_header_is_an_error() {
        for (text, message) in [
            ("", "it is empty"),
            ("2025550123,2021-07-07 00:01:15,,,,,,\n", "no column Company_Phone_Number"),
            ("Company_Phone_Number,Created_Date\n", "no column Violation_Date"),
            ("\u{0}\u{1}\u{2}", "no column"),
        ] {
            let error = ComplaintReader::new(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
