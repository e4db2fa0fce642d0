//! Runs the binary and talks to it. Every wait is bounded and says what it waits for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::description::Description;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const HEADER: &str = "Company_Phone_Number,Created_Date,Violation_Date,Consumer_City,Consumer_State,\
                                 Consumer_Area_Code,Subject,Recorded_Message_Or_Robocall";

/// The service's binary, which cargo builds with these tests.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_denylist"))
}

/// The directory of a test, with a database.
pub(crate) struct TestDir(TempDir);

impl TestDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("the file is written");
        path
    }

    /// The program with this directory as its working directory.
    pub(crate) fn command(&self) -> Command {
        self.command_of(binary().to_str().expect("the path is text"))
    }

    /// Another program with this directory as its working directory.
    pub(crate) fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The settings of the shell that runs the tests are not those of the tests.
        for (name, _) in std::env::vars_os() {
            if name == "RUST_LOG" || name.to_string_lossy().starts_with("DENYLIST_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.0.path());
        command
    }

    /// Runs the program until it exits.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command().args(args))
    }

    pub(crate) fn import(&self, name: &str, rows: &[&str]) -> Ran {
        let file = self.file(name, format!("{HEADER}\r\n{}\r\n", rows.join("\r\n")));
        self.run(&["import", file.to_str().expect("a temporary path is text")])
    }

    pub(crate) fn serve(&self) -> Service {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, args: &[&str]) -> Service {
        Service::start(self.command().args(["--listen", "127.0.0.1:0"]).args(args))
    }
}

/// The output of a program that has exited.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Runs a program until it exits.
    pub(crate) fn new(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = KillOnDrop(child.expect("the program starts"));
        let mut pipes = (child.0.stdout.take().expect("piped"), child.0.stderr.take().expect("piped"));
        // Read while it runs, because a full pipe would block it.
        let stdout = thread::spawn(move || read_all(&mut pipes.0));
        let stderr = thread::spawn(move || read_all(&mut pipes.1));
        let status = wait_for_exit(&mut child.0);
        let [stdout, stderr] = [stdout, stderr].map(|thread| thread.join().expect("reading does not panic"));
        Self { code: status.code(), stdout, stderr }
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Asserts this exit code and a single line that contains this text.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(text), "no {text:?} in {self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("denylist: "), "{self:?}");
    }
}

fn read_all(pipe: &mut impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("the program writes text");
    text
}

#[track_caller]
fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the program ends", || {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    status.expect("the program has exited")
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out before {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

pub(crate) struct KillOnDrop(pub(crate) Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // The program may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running service.
pub(crate) struct Service {
    child: KillOnDrop,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// Reads its output.
    reader: JoinHandle<()>,
}

impl Service {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut service = Self::watch(KillOnDrop(command.stdout(Stdio::piped()).spawn().expect("the program starts")));
        service.wait_for_line("stop it with");
        service.find_address();
        service
    }

    /// Collects what a child prints.
    fn watch(mut child: KillOnDrop) -> Self {
        let stdout = BufReader::new(child.0.stdout.take().expect("piped"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                kept.lock().expect("no code panics while holding the lock").push(line);
            }
        });
        Self { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), log, reader }
    }

    #[track_caller]
    fn find_address(&mut self) {
        let line = self.wait_for_line("listening on http://");
        self.address = line.rsplit('/').next().and_then(|text| text.parse().ok()).expect("an address");
        // While it surely responds.
        Description::of(self.address);
    }

    /// Starts it, or returns what it printed and its exit code if it refuses to start.
    #[allow(dead_code, reason = "used by tests/reliability")]
    pub(crate) fn attempt(command: &mut Command) -> Result<Self, Ran> {
        let mut child =
            KillOnDrop(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts"));
        let mut stderr = child.0.stderr.take().expect("piped");
        let errors = thread::spawn(move || read_all(&mut stderr));
        let mut service = Self::watch(child);
        eventually("it is ready or exits", || {
            service.reader.is_finished() || service.log().iter().any(|line| line.contains("stop it with"))
        });
        if service.reader.is_finished() {
            let status = wait_for_exit(&mut service.child.0);
            let stderr = errors.join().expect("reading does not panic");
            return Err(Ran { code: status.code(), stdout: service.log().join("\n"), stderr });
        }
        service.find_address();
        Ok(service)
    }

    #[track_caller]
    fn wait_for_line(&self, text: &str) -> String {
        let mut found = None;
        eventually(&format!("it prints {text:?}"), || {
            // Check this before reading the log, so that the log then has the last line.
            let is_over = self.reader.is_finished();
            found = self.log().into_iter().find(|line| line.contains(text));
            assert!(found.is_some() || !is_over, "it exited without {text:?}: {:?}", self.log());
            found.is_some()
        });
        found.expect("the line was printed")
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no code panics while holding the lock").clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([format!("-{name}"), pid]).status().expect("kill runs");
        assert!(sent.success(), "the signal {name} was not sent");
    }

    /// Waits for the exit. Returns the exit code and the output.
    #[track_caller]
    pub(crate) fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let status = wait_for_exit(&mut self.child.0);
        eventually("all output is read", || self.reader.is_finished());
        (status.code(), self.log())
    }

    /// Stops it with SIGTERM, and asserts a clean exit.
    #[track_caller]
    pub(crate) fn terminate(self) -> Vec<String> {
        self.signal("TERM");
        let (code, log) = self.ended();
        assert_eq!(code, Some(0), "{log:?}");
        log
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(self) {
        drop(self.child);
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        request(self.address, "GET", path, None).expect("a reply")
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str) -> Response {
        request(self.address, "PUT", path, None).expect("a reply")
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Response {
        request(self.address, "DELETE", path, None).expect("a reply")
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, json: &str) -> Response {
        request(self.address, method, path, Some(("application/json", json))).expect("a reply")
    }

    /// Requests a call. Returns the rule that rejects it, or `None` if it is placed.
    #[track_caller]
    pub(crate) fn call(&self, from: Option<&str>, to: &str) -> Option<String> {
        let call = serde_json::json!({ "from": from, "to": to }).to_string();
        let answer = self.send("POST", "/v1/calls", &call).json(200);
        match answer["decision"].as_str() {
            Some("place") => None,
            Some("reject") => Some(answer["rule"].as_str().expect("a rule").to_owned()),
            _ => panic!("{answer}"),
        }
    }

    #[track_caller]
    pub(crate) fn rules(&self, of: &str) -> Vec<String> {
        let answer = self.get(&format!("/v1/denylists/{of}")).json(200);
        serde_json::from_value(answer["rules"].clone()).expect("a list of rules")
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn parse(answer: &str) -> Option<Self> {
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let response = Self { status, head: head.to_owned(), body: body.to_owned() };
        let length = response.header("content-length").map_or(Ok(0), str::parse).ok()?;
        // A truncated response acknowledges nothing.
        (response.body.len() >= length).then_some(response)
    }

    #[track_caller]
    pub(crate) fn json(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Asserts that the response is a problem with this status. Returns its detail.
    #[track_caller]
    pub(crate) fn problem(self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).expect("JSON");
        assert_eq!(problem["status"], status, "{self:?}");
        assert!(problem["title"].is_string() && problem["type"] == "about:blank", "{self:?}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A request on a new connection, whose response must be described. `None` if the response is incomplete.
#[track_caller]
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, body: Option<(&str, &str)>) -> Option<Response> {
    let response = exchange(to, method, path, body)?;
    Description::of(to).check(method, path, body.map(|(_, body)| body), &response);
    Some(response)
}

/// A request on a new connection. `None` if the response is incomplete.
pub(crate) fn exchange(to: SocketAddr, method: &str, path: &str, body: Option<(&str, &str)>) -> Option<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if let Some((content_type, body)) = body {
        head += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    }
    let body = body.map_or("", |(_, body)| body);
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Response::parse(&answer)
}

/// The output of a program.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
