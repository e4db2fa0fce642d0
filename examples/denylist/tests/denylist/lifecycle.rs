//! Start and shutdown.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::harness::{PATIENCE, TestDir, eventually};

#[test]
fn sigterm_drains_and_closes_database() {
    let dir = TestDir::new();
    let service = dir.serve();
    service.call(Some("+12025550123"), "+12025550199");
    service.rules("+12025550100");
    let log = service.terminate();
    let tail = &log[log.len() - 4..];
    assert_eq!(tail[0], "SIGTERM: draining");
    assert_eq!(tail[1], "denylist: 2 workers drained");
    assert_eq!(tail[2], "reputation: 1 worker drained");
    assert_eq!(tail[3], "closed the database");
    // Another process may open the database at once.
    dir.serve().terminate();
}

#[test]
fn sigint_drains_and_closes_database() {
    let service = TestDir::new().serve();
    service.signal("INT");
    let (code, log) = service.ended();
    assert_eq!(code, Some(0));
    assert!(log.contains(&String::from("SIGINT: draining")), "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("closed the database"));
}

#[test]
fn draining_service_answers_but_is_unready() {
    let service = TestDir::new().serve_with(&["--drain-delay", "3600"]);
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(service.get("/healthz").status, 200);
    service.signal("TERM");
    eventually("it is not ready", || service.get("/readyz").status == 503);
    let response = service.get("/readyz");
    assert!(response.header("retry-after").is_some(), "{response:?}");
    response.problem(503);
    assert_eq!(service.get("/healthz").status, 200);
    assert_eq!(service.call(Some("+12025550123"), "+12025550199").as_deref(), Some("complaints:5"));
    // The second signal ends the delay.
    let log = service.terminate();
    assert!(log.contains(&String::from("SIGTERM: without delay")), "{log:?}");
}

#[test]
fn idle_connection_does_not_delay_exit() {
    let service = TestDir::new().serve();
    let mut stream = TcpStream::connect(service.address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("the service reads the request");
    let mut answer = [0; 256];
    assert!(stream.read(&mut answer).expect("a reply") > 0);
    let log = service.terminate();
    assert_eq!(log.last().map(String::as_str), Some("closed the database"), "{log:?}");
}

#[test]
fn port_in_use_creates_no_database() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let dir = TestDir::new();
    dir.run(&["--listen", &address]).failed(69, &format!("cannot listen on {address}"));
    assert!(!dir.path("denylist.redb").exists());
}

#[test]
fn non_database_file_is_left_unchanged() {
    let dir = TestDir::new();
    let content = "dear diary, ".repeat(1_000);
    dir.file("diary", &content);
    dir.run(&["--listen", "127.0.0.1:0", "--db", "diary"]).failed(65, "diary is not a database of this program");
    assert_eq!(std::fs::read_to_string(dir.path("diary")).expect("the file exists"), content);
    dir.run(&["--listen", "127.0.0.1:0", "--db", "."]).failed(74, "cannot open the database .");
    dir.run(&["--listen", "127.0.0.1:0", "--db", "no/where"]).failed(74, "cannot open the database no/where");
}

#[test]
fn foreign_database_is_left_unchanged() {
    let dir = TestDir::new();
    let table = redb::TableDefinition::<u64, u64>::new("other");
    let database = redb::Database::create(dir.path("other.redb")).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    transaction.open_table(table).expect("a table").insert(1, 2).expect("room");
    transaction.commit().expect("a commit");
    drop(database);
    dir.run(&["--listen", "127.0.0.1:0", "--db", "other.redb"]).failed(65, "not a database of this program");
    let database = redb::Database::create(dir.path("other.redb")).expect("the file is still a database");
    let transaction = database.begin_write().expect("a transaction");
    let tables: Vec<_> =
        transaction.list_tables().expect("tables").map(|table| redb::TableHandle::name(&table).to_owned()).collect();
    assert_eq!(tables, ["other"]);
}

#[test]
fn usage_error_exits_with_2() {
    let dir = TestDir::new();
    for args in [
        ["--listen", "nowhere"].as_slice(),
        &["--lisen", "127.0.0.1:0"],
        &["import"],
        &["exprot", "x.csv"],
        &["replay", "x.csv", "--url", "ftp://x"],
        &["--listen", "127.0.0.1:0", "import", "x.csv"],
    ] {
        let ran = dir.run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.starts_with("error: "), "{ran:?}");
    }
    let help = dir.run(&["--help"]).succeeded();
    for option in ["--listen", "--db", "--no-sample", "import", "replay", "Exit codes"] {
        assert!(help.contains(option), "{help}");
    }
}
