//! `denylist import`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::Stdio;

use crate::harness::{HEADER, KillOnDrop, TestDir, eventually};

const GOOD: [&str; 3] = [
    "2025550123,2021-07-07 00:01:15,2021-07-06 11:48:00,Reno,Nevada,775,Other,Y",
    "2025550123,2021-07-07 00:02:15,2021-07-06 11:48:00,Reno,Nevada,775,Other,N",
    "3035550147,2021-07-07 00:03:15,2021-07-06 11:48:00,,Nevada,775,\"debt (cards, loans)\",",
];

#[track_caller]
fn assert_says(report: &str, line: &str) {
    assert!(report.lines().any(|found| found == line), "no {line:?} in\n{report}");
}

#[test]
fn repeated_import_counts_once() {
    let dir = TestDir::new();
    let first = dir.import("a.csv", &GOOD).succeeded();
    assert_says(&first, "counted 3 complaints");
    assert_says(&first, "0 were counted before");
    let again = dir.import("b.csv", &GOOD).succeeded();
    assert_says(&again, "counted 0 complaints");
    assert_says(&again, "3 were counted before");
    let service = dir.serve_with(&["--no-sample"]);
    let record = service.get("/v1/reputations/+12025550123").json(200);
    assert_eq!((&record["complaints"], &record["robocalls"]), (&2.into(), &1.into()), "{record}");
    assert_eq!(record["last"], "2021-07-07 00:02:15");
}

#[test]
fn overlapping_file_counts_new_rows() {
    let dir = TestDir::new();
    dir.import("a.csv", &GOOD[..2]).succeeded();
    let report = dir.import("b.csv", &GOOD[1..]).succeeded();
    assert_says(&report, "counted 1 complaint");
    assert_says(&report, "1 was counted before");
}

#[test]
fn bad_rows_are_counted_by_reason() {
    let dir = TestDir::new();
    let mut file = format!("\u{feff}{HEADER}\r\n{}\r\n", GOOD[0]).into_bytes();
    for bad in [
        b",2021-07-07 00:01:15,,,,,,".as_slice(),
        b",2021-07-07 00:01:16,,,,,,",
        b"12345,2021-07-07 00:01:15,,,,,,",
        b"70611454600144,2021-07-07 00:01:15,,,,,,",
        b"202555\xff\xfe,2021-07-07 00:01:15,,,,,,",
        b"2025550123,2021-07-07 00:01:15",
        b"2025550123,today,,,,,,",
        b"2025550123,2021-07-07 00:01:15,,\"Reno,,,,",
        b"2025550123;222,2021-07-07 00:01:15,,,,,,",
        b"442079460123,2021-07-07 00:01:15,,,,,,",
    ] {
        file.extend_from_slice(bad);
        file.extend_from_slice(b"\r\n");
    }
    file.extend_from_slice(GOOD[1].as_bytes());
    let path = dir.file("bad.csv", file);
    let report = dir.run(&["import", path.to_str().expect("text")]).succeeded();
    for line in [
        "read 12 rows",
        "counted 2 complaints",
        "skipped 10 rows",
        "  2: no number (first in line 3)",
        "  1: phone number too short (first in line 5)",
        "  2: phone number too long (first in line 6)",
        "  1: not a phone number (first in line 11)",
        "  1: not UTF-8 (first in line 7)",
        "  1: wrong number of columns (first in line 8)",
        "  1: created date not like 2021-07-07 00:01:15 (first in line 9)",
        "  1: an unclosed quote (first in line 10)",
    ] {
        assert_says(&report, line);
    }
}

#[test]
fn pipe_gets_no_progress_bar() {
    let dir = TestDir::new();
    let ran = dir.import("a.csv", &GOOD);
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
}

#[test]
fn invalid_file_creates_no_database() {
    let dir = TestDir::new();
    dir.run(&["import", "nowhere.csv"]).failed(66, "cannot read nowhere.csv");
    dir.run(&["import", "."]).failed(66, "cannot read .");
    dir.file("empty.csv", "");
    dir.run(&["import", "empty.csv"]).failed(65, "it is empty");
    dir.file("headless.csv", GOOD.join("\n"));
    dir.run(&["import", "headless.csv"]).failed(65, "no column Company_Phone_Number");
    dir.file("other.csv", "Company_Phone_Number,Created_Date\n");
    dir.run(&["import", "other.csv"]).failed(65, "no column Violation_Date");
    assert!(!dir.path("denylist.redb").exists());
}

#[test]
fn database_in_use_is_an_error() {
    let dir = TestDir::new();
    let service = dir.serve();
    dir.import("a.csv", &GOOD).failed(75, "open in another process");
    dir.run(&["--listen", "127.0.0.1:0"]).failed(75, "open in another process");
    service.terminate();
    dir.import("a.csv", &GOOD).succeeded();
}

/// A row that is unique to its number.
fn row(n: usize, city: &str) -> String {
    let (day, hour, minute, second) = (1 + n / 86_400, n / 3_600 % 24, n / 60 % 60, n % 60);
    let (area_code, last) = (201 + n % 700, n * 7_919 % 100);
    format!(
        "{area_code}55501{last:02},2021-07-{day:02} {hour:02}:{minute:02}:{second:02},,{city},Nevada,775,Other,Y\r\n"
    )
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_for_large_files() {
    let dir = TestDir::new();
    let path = dir.path("big.csv");
    let mut file = BufWriter::new(File::create(&path).expect("the file is written"));
    let city = "x".repeat(500);
    writeln!(file, "{HEADER}").expect("there is room");
    for n in 0..300_000 {
        let row = row(n, &city);
        // Four of five rows have no number. They are read and counted, which is faster in a debug build.
        let row = if n % 5 == 0 { row.as_str() } else { &row[10..] };
        file.write_all(row.as_bytes()).expect("there is room");
    }
    file.into_inner().expect("there is room");

    let mut child =
        KillOnDrop(dir.command().arg("import").arg(&path).stdout(Stdio::null()).spawn().expect("the program starts"));
    let status = format!("/proc/{}/status", child.0.id());
    let mut kib = 0_u64;
    let mut exit = None;
    eventually("the import ends", || {
        // The high-water mark, while the process exists.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        kib = kib.max(mark.and_then(|mark| mark.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0));
        exit = child.0.try_wait().expect("a child can be waited for");
        exit.is_some()
    });
    assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");
    let file_kib = std::fs::metadata(&path).expect("the file was written").len() >> 10;
    assert!(file_kib > 128 << 10, "{file_kib} KiB is not a big file");
    // The cache of the database is 32 MiB.
    assert!(kib > 0 && kib < 64 << 10, "{kib} KiB for a file of {file_kib} KiB");
}

#[test]
fn resumed_import_counts_nothing_twice() {
    let dir = TestDir::new();
    let rows: Vec<String> = (0..25_000).map(|n| row(n, "Reno")).collect();
    let mut child = dir.command();
    let child = child.args(["import", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = KillOnDrop(child.spawn().expect("the program starts"));
    let mut pipe = child.0.stdin.take().expect("piped");
    // A pipe holds 64 KiB, fewer than two thousand rows. So when this write returns, twenty thousand rows have been
    // read, which are two batches. The import then waits for more.
    pipe.write_all(format!("{HEADER}\r\n{}", rows[..24_000].concat()).as_bytes()).expect("the program reads");
    drop(child);

    let file = dir.file("whole.csv", format!("{HEADER}\r\n{}", rows.concat()));
    let report = dir.run(&["import", file.to_str().expect("text")]).succeeded();
    assert_says(&report, "read 25,000 rows");
    assert_says(&report, "counted 5,000 complaints");
    assert_says(&report, "20,000 were counted before");

    let service = dir.serve_with(&["--no-sample"]);
    let line = service.log().into_iter().find(|line| line.starts_with("it has")).expect("the size");
    assert!(line.contains(" 25,000 complaints"), "{line}");
    // A caller of the file.
    let expected = rows.iter().filter(|row| row.starts_with("2025550119")).count();
    assert!(expected > 0);
    assert_eq!(service.get("/v1/reputations/+12025550119").json(200)["complaints"], expected);
}
