//! `denylist import`.

use std::fmt::Write;

use crate::harness::{HEADER, KillOnDrop, Place, eventually};

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
fn importing_a_file_twice_counts_it_once() {
    let place = Place::new();
    let first = place.import("a.csv", &GOOD).succeeded();
    assert_says(&first, "counted 3 complaints");
    assert_says(&first, "0 were counted before");
    let again = place.import("b.csv", &GOOD).succeeded();
    assert_says(&again, "counted 0 complaints");
    assert_says(&again, "3 were counted before");
    let service = place.serve_with(&["--no-sample"]);
    let record = service.get("/v1/reputations/+12025550123").json(200);
    assert_eq!((&record["complaints"], &record["robocalls"]), (&2.into(), &1.into()), "{record}");
    assert_eq!(record["last"], "2021-07-07 00:02:15");
}

#[test]
fn of_a_file_that_overlaps_another_only_what_is_new_counts() {
    let place = Place::new();
    place.import("a.csv", &GOOD[..2]).succeeded();
    let report = place.import("b.csv", &GOOD[1..]).succeeded();
    assert_says(&report, "counted 1 complaints");
    assert_says(&report, "1 were counted before");
}

#[test]
fn bad_rows_are_counted_with_their_reasons_and_stop_nothing() {
    let place = Place::new();
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
    let path = place.file("bad.csv", file);
    let report = place.run(&["import", path.to_str().expect("text")]).succeeded();
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
        "  1: quotes that do not pair (first in line 10)",
    ] {
        assert_says(&report, line);
    }
}

#[test]
fn a_pipe_shows_no_progress_bar() {
    let place = Place::new();
    let ran = place.import("a.csv", &GOOD);
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
}

#[test]
fn a_file_that_is_none_is_an_error_and_makes_no_database() {
    let place = Place::new();
    place.run(&["import", "nowhere.csv"]).failed(66, "cannot read nowhere.csv");
    place.run(&["import", "."]).failed(66, "cannot read .");
    place.file("empty.csv", "");
    place.run(&["import", "empty.csv"]).failed(65, "it is empty");
    place.file("headless.csv", GOOD.join("\n"));
    place.run(&["import", "headless.csv"]).failed(65, "no column Company_Phone_Number");
    place.file("other.csv", "Company_Phone_Number,Created_Date\n");
    place.run(&["import", "other.csv"]).failed(65, "no column Violation_Date");
    assert!(!place.path("denylist.redb").exists());
}

#[test]
fn a_database_that_a_service_has_open_is_an_error() {
    let place = Place::new();
    let service = place.serve();
    place.import("a.csv", &GOOD).failed(75, "open in another process");
    place.run(&["--listen", "127.0.0.1:0"]).failed(75, "open in another process");
    service.terminate();
    place.import("a.csv", &GOOD).succeeded();
}

/// Many complaints, each another, about callers of the range for fiction.
fn many(rows: usize) -> String {
    let mut file = format!("{HEADER}\r\n");
    for n in 0..rows {
        let (hour, minute, second) = (n / 3_600 % 24, n / 60 % 60, n % 60);
        let (day, caller) = (1 + n / 86_400, n * 7_919 % 100);
        let area = 201 + n % 700;
        writeln!(
            file,
            "{area}55501{caller:02},2021-07-{day:02} {hour:02}:{minute:02}:{second:02},2021-07-01 11:48:00,Reno,Nevada,775,\
             Dropped call or no message,Y\r"
        )
        .expect("a string takes it");
    }
    file
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_file() {
    // Reading the status of a process that runs: the highest mark that was seen.
    let peak = |rows| {
        let place = Place::new();
        let file = place.file("big.csv", many(rows));
        let mut command = place.command();
        command.arg("import").arg(&file).stdout(std::process::Stdio::null());
        let mut child = KillOnDrop(command.spawn().expect("the program starts"));
        let status = format!("/proc/{}/status", child.0.id());
        let mut kib = 0_u64;
        eventually("the import ends", || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let mark = mark.and_then(|mark| mark.trim().trim_end_matches(" kB").parse().ok());
            kib = kib.max(mark.unwrap_or(0));
            child.0.try_wait().expect("a child can be waited for").is_some()
        });
        (kib, std::fs::metadata(&file).expect("it was written").len() >> 10)
    };
    let (kib, file_kib) = peak(300_000);
    // 32 MiB of it are the database's cache.
    assert!(kib > 0 && kib < 80 << 10, "{kib} KiB for a file of {file_kib} KiB");
}

#[test]
fn an_import_that_was_killed_half_way_counts_nothing_twice() {
    let place = Place::new();
    let file = place.file("big.csv", many(60_000));
    let mut child = KillOnDrop(place.command().arg("import").arg(&file).spawn().expect("the program starts"));
    let database = place.path("denylist.redb");
    eventually("some of it is in the database", || {
        std::fs::metadata(&database).is_ok_and(|file| file.len() > 3 << 20)
            || child.0.try_wait().expect("a child can be waited for").is_some()
    });
    drop(child);
    let report = place.run(&["import", file.to_str().expect("text")]).succeeded();
    assert_says(&report, "read 60,000 rows");
    let count = |prefix: &str, suffix: &str| -> u64 {
        let line = report.lines().find_map(|line| line.strip_prefix(prefix)?.strip_suffix(suffix)).expect(prefix);
        line.replace(',', "").parse().expect("a number")
    };
    let (new, known) = (count("counted ", " complaints"), count("", " were counted before"));
    assert_eq!(new + known, 60_000);
    assert!(known > 0, "the first import was killed before it had counted anything");

    let service = place.serve_with(&["--no-sample"]);
    let line = service.log().into_iter().find(|line| line.starts_with("it has")).expect("the size");
    assert!(line.contains(" 60000 complaints"), "{line}");
    // One caller of the file: every 700th row has the area code, and of those every hundredth the number.
    let expected = (0..60_000).filter(|n| n % 700 == 1 && n * 7_919 % 100 == 19).count();
    assert_eq!(service.get("/v1/reputations/+12025550119").json(200)["complaints"], expected);
}
