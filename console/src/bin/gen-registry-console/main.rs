//! The console in a terminal: `gen-registry-console ADDRESS`.
//!
//! It reads the JSON of a service's console. It never acts: for that there is the page.

mod app;
mod client;
mod text;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{Event, KeyEventKind, read};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;
use crate::client::Client;

const USAGE: &str = "Usage: gen-registry-console ADDRESS

Shows the registries of a running service, whose console is at ADDRESS:

    gen-registry-console http://127.0.0.1:8080/console

Options:
    --once       print all registries once, and exit
    --help       print this
    --version    print the version

Keys: ? shows them.
Without TLS: reach a remote service through a tunnel, such as `ssh -L 8080:127.0.0.1:8080 HOST`.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, addresses): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    let options: Vec<&str> = options.into_iter().map(String::as_str).collect();
    match (options.as_slice(), addresses.as_slice()) {
        (["--help" | "-h"], _) => println!("{USAGE}"),
        (["--version" | "-V"], _) => println!("gen-registry-console {}", env!("CARGO_PKG_VERSION")),
        ([] | ["--once"], [address]) => match Client::new(address) {
            Ok(client) => return run(client, !options.is_empty()),
            Err(error) => return fail(&error),
        },
        _ => return fail(USAGE),
    }
    ExitCode::SUCCESS
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}

fn run(client: Client, is_once: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    let ran = runtime.block_on(async {
        // Fail before the terminal changes: the message stays in sight.
        let overview = client.overview().await?;
        if is_once {
            print!("{}", text::overview(&overview));
            return Ok(());
        }
        let mut terminal = ratatui::init();
        let ran = follow(&mut terminal, App::new(overview), client).await;
        ratatui::restore();
        ran
    });
    // The thread that reads keys waits for one: nothing may wait for it.
    runtime.shutdown_background();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Draws until the user quits. Keys and answers arrive as messages: a slow service delays no key.
async fn follow(terminal: &mut DefaultTerminal, mut app: App, client: Client) -> Result<(), String> {
    let (pressed, mut keys) = mpsc::unbounded_channel();
    // It ends with the process, or when a send fails.
    std::thread::spawn(move || {
        while let Ok(event) = read()
            && pressed.send(event).is_ok()
        {}
    });
    let (answer, mut answers) = mpsc::channel(1);
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_asking = false;
    loop {
        terminal.draw(|frame| view::draw(frame, &mut app)).map_err(|error| format!("cannot draw: {error}"))?;
        let is_due = tokio::select! {
            Some(event) = keys.recv() => match event {
                Event::Key(key) if key.kind != KeyEventKind::Release => app.press(key),
                _ => false,
            },
            Some(answered) = answers.recv() => {
                is_asking = false;
                app.take(answered)
            }
            _ = ticks.tick() => true,
        };
        if app.is_done() {
            return Ok(());
        }
        // One question at a time. What a key has made stale is asked for again when its answer arrives.
        if is_due && !is_asking {
            is_asking = true;
            let (question, client, answer) = (app.question(), client.clone(), answer.clone());
            tokio::spawn(async move {
                let answered = client.ask(question).await;
                let _ = answer.send(answered).await; // The user has quit.
            });
        }
    }
}
