//! [`play`]: the sessions of the article, one after the other.

use std::fmt::{Debug, Write};
use std::sync::Arc;

use gen_registry::{CallError, Registry, SendError, StartError, StopError, spawn};
use thiserror::Error;

use crate::process_registry::{ChatRegistry, Pid, ProcessRegistry, Registered};
use crate::room::{Line, MAX_ROOMS, Message, Room, supervisor};

/// The article's `Chat.Supervisor` and `Chat.Server`. The functions take the name of a room, never its pid.
struct Chat<R> {
    rooms: Registry<Room>,
    /// The module in `{:via, module, name}`.
    via: R,
}

#[derive(Debug, Error)]
enum StartRoomError {
    #[error("the room is already started: {0:?}")]
    AlreadyStarted(Pid),
    #[error("another room has the name")]
    NameTaken,
    #[error(transparent)]
    Failed(StartError<Room>),
}

impl<R: ProcessRegistry> Chat<R> {
    async fn start_room(&self, name: &str) -> Result<Pid, StartRoomError> {
        let room = self.rooms.start(name, ()).await.map_err(|error| match error.already_started() {
            Some(room) => StartRoomError::AlreadyStarted(Pid(room.clone())),
            None => StartRoomError::Failed(error),
        });
        let room = Pid(room?);
        match self.via.register_name(name, &room) {
            Registered::Yes => Ok(room),
            Registered::No => Err(StartRoomError::NameTaken),
        }
    }

    async fn add_message(&self, room: &str, text: &str) -> Result<(), SendError<Room>> {
        self.via.send(room, message(text)).await
    }

    async fn get_messages(&self, room: &str) -> Result<Vec<String>, CallError<Room>> {
        let room = self.via.whereis_name(room).ok_or(CallError::NotFound)?;
        get_messages(&room).await
    }
}

fn message(text: &str) -> Message {
    Message::Add(Arc::new(Line { from: "iex".into(), text: text.into() }))
}

/// A room without a supervisor and without a registry.
async fn start_link() -> Result<Pid, StartError<Room>> {
    spawn("unnamed".to_owned(), ()).await.map(Pid)
}

async fn add_message(pid: &Pid, text: &str) -> Result<(), SendError<Room>> {
    pid.0.cast(message(text)).await
}

async fn get_messages(pid: &Pid) -> Result<Vec<String>, CallError<Room>> {
    let lines = pid.0.call(Message::Get).await?;
    Ok(lines.iter().map(|line| line.text.clone()).collect())
}

/// `Process.exit(pid, :kill)`. As in OTP, the supervisor restarts the room a moment later. A call waits for that.
async fn exit_kill(pid: Option<Pid>) -> Result<bool, StopError> {
    let pid = pid.ok_or(StopError::NotFound)?;
    pid.0.crash().await?;
    Ok(pid.0.call(Message::Get).await.is_ok())
}

/// What has been entered, and what it returned.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    fn title(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.write(format_args!("{gap}# {title}\n"));
    }

    fn answer<T: Debug>(&mut self, entered: &str, answer: T) -> T {
        let entered = entered.replace(".await", "");
        self.write(format_args!("iex> {entered}\n{answer:?}\n"));
        answer
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes any text");
    }
}

/// Evaluates an expression, and writes it and its value to the transcript.
macro_rules! iex {
    ($transcript:ident, $entered:expr) => {
        $transcript.answer(stringify!($entered), $entered)
    };
}

/// Plays the article's sessions and returns the transcript.
pub(crate) async fn play() -> anyhow::Result<String> {
    let mut transcript = Transcript::default();
    by_pid(&mut transcript).await?;
    by_one_name(&mut transcript).await?;
    by_any_name(&mut transcript).await?;
    by_own_registry(&mut transcript).await?;
    by_via(&mut transcript).await?;
    by_gproc(&mut transcript).await?;
    Ok(transcript.0)
}

async fn end(rooms: Registry<Room>) -> anyhow::Result<()> {
    let report = rooms.shutdown().await;
    anyhow::ensure!(report.stuck == 0, "a room does not end: {report:?}");
    Ok(())
}

async fn by_pid(iex: &mut Transcript) -> anyhow::Result<()> {
    iex.title("Starting with no registry at all");
    let pid = iex!(iex, start_link().await)?;
    iex!(iex, add_message(&pid, "foo").await)?;
    iex!(iex, add_message(&pid, "bar").await)?;
    iex!(iex, get_messages(&pid).await)?;
    pid.0.stop().await?;
    Ok(())
}

async fn by_one_name(iex: &mut Transcript) -> anyhow::Result<()> {
    iex.title("Registering a process name");
    let rooms = supervisor(MAX_ROOMS)?;
    let chat = Chat { via: rooms.clone(), rooms };
    iex!(iex, chat.start_room("chat_room").await)?;
    iex!(iex, chat.add_message("chat_room", "foo").await)?;
    iex!(iex, chat.add_message("chat_room", "bar").await)?;
    iex!(iex, chat.get_messages("chat_room").await)?;
    iex!(iex, chat.via.whereis_name("chat_room"));
    iex!(iex, exit_kill(chat.via.whereis_name("chat_room")).await)?;
    iex!(iex, chat.via.whereis_name("chat_room"));
    iex!(iex, chat.add_message("chat_room", "foo").await)?;
    iex!(iex, chat.get_messages("chat_room").await)?;
    end(chat.rooms).await
}

async fn by_any_name(iex: &mut Transcript) -> anyhow::Result<()> {
    iex.title("Dynamic process creation");
    let rooms = supervisor(MAX_ROOMS)?;
    let chat = Chat { via: rooms.clone(), rooms };
    iex!(iex, chat.start_room("first room").await)?;
    iex!(iex, chat.start_room("second room").await)?;
    iex!(iex, chat.add_message("first room", "foo").await)?;
    iex!(iex, chat.add_message("second room", "bar").await)?;
    iex!(iex, chat.get_messages("first room").await)?;
    iex!(iex, chat.get_messages("second room").await)?;
    // An error is the answer here: the name is in use.
    let _ = iex!(iex, chat.start_room("first room").await);
    end(chat.rooms).await
}

async fn by_own_registry(iex: &mut Transcript) -> anyhow::Result<()> {
    iex.title("Using via tuple: the functions of Chat.Registry");
    let pid = iex!(iex, start_link().await)?;
    let registry = ChatRegistry::default();
    iex!(iex, registry.whereis_name("room1"));
    iex!(iex, registry.register_name("room1", &pid));
    iex!(iex, registry.register_name("room1", &pid));
    iex!(iex, registry.whereis_name("room1"));
    iex!(iex, registry.send("room1", message("foo")).await)?;
    iex!(iex, registry.unregister_name("room1"));
    iex!(iex, registry.whereis_name("room1"));
    // An error is the answer here, with the message in it: no room has the name.
    let _ = iex!(iex, registry.send("room1", message("bar")).await);
    pid.0.stop().await?;
    Ok(())
}

async fn by_via(iex: &mut Transcript) -> anyhow::Result<()> {
    iex.title("Using via tuple: {:via, Chat.Registry, name}");
    let chat = Chat { via: ChatRegistry::default(), rooms: supervisor(MAX_ROOMS)? };
    iex!(iex, chat.start_room("room1").await)?;
    iex!(iex, chat.add_message("room1", "message").await)?;
    iex!(iex, chat.get_messages("room1").await)?;
    iex!(iex, exit_kill(chat.via.whereis_name("room1")).await)?;
    iex!(iex, chat.add_message("room1", "message").await)?;
    iex!(iex, chat.get_messages("room1").await)?;
    end(chat.rooms).await
}

async fn by_gproc(iex: &mut Transcript) -> anyhow::Result<()> {
    iex.title("Simplifying with gproc: {:via, :gproc, name}, and no Chat.Registry");
    let rooms = supervisor(MAX_ROOMS)?;
    let chat = Chat { via: rooms.clone(), rooms }; // the only line that differs
    iex!(iex, chat.start_room("room1").await)?;
    iex!(iex, chat.start_room("room2").await)?;
    iex!(iex, chat.add_message("room1", "first message").await)?;
    iex!(iex, chat.add_message("room2", "second message").await)?;
    iex!(iex, chat.get_messages("room1").await)?;
    iex!(iex, chat.get_messages("room2").await)?;
    iex!(iex, exit_kill(chat.via.whereis_name("room1")).await)?;
    iex!(iex, chat.add_message("room1", "first message").await)?;
    iex!(iex, chat.get_messages("room1").await)?;
    end(chat.rooms).await
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    /// What was entered and what it returned, from one section of the transcript.
    fn section<'a>(transcript: &'a str, title: &str) -> Vec<(&'a str, &'a str)> {
        let mut sections = transcript.split("\n\n").map(|section| section.split_once('\n').expect("a title"));
        let (_, section) = sections.find(|(found, _)| found.contains(title)).expect("the section is in the transcript");
        let mut lines = section.lines();
        std::iter::from_fn(|| Some((lines.next()?.strip_prefix("iex> ")?, lines.next()?))).collect()
    }

    async fn transcript() -> String {
        within(play(), "the session").await.expect("no verb of the session fails")
    }

    #[tokio::test(start_paused = true)]
    async fn pid_reaches_a_room_without_a_registry() {
        let transcript = transcript().await;
        let expected = [
            ("start_link()", "Ok(#PID<unnamed.1>)"),
            (r#"add_message(&pid, "foo")"#, "Ok(())"),
            (r#"add_message(&pid, "bar")"#, "Ok(())"),
            ("get_messages(&pid)", r#"Ok(["bar", "foo"])"#),
        ];
        assert_eq!(section(&transcript, "no registry at all"), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn killed_room_restarts_empty_under_its_name() {
        let transcript = transcript().await;
        let expected = [
            (r#"chat.start_room("chat_room")"#, "Ok(#PID<chat_room.1>)"),
            (r#"chat.add_message("chat_room", "foo")"#, "Ok(())"),
            (r#"chat.add_message("chat_room", "bar")"#, "Ok(())"),
            (r#"chat.get_messages("chat_room")"#, r#"Ok(["bar", "foo"])"#),
            (r#"chat.via.whereis_name("chat_room")"#, "Some(#PID<chat_room.1>)"),
            (r#"exit_kill(chat.via.whereis_name("chat_room"))"#, "Ok(true)"),
            (r#"chat.via.whereis_name("chat_room")"#, "Some(#PID<chat_room.2>)"),
            (r#"chat.add_message("chat_room", "foo")"#, "Ok(())"),
            (r#"chat.get_messages("chat_room")"#, r#"Ok(["foo"])"#),
        ];
        assert_eq!(section(&transcript, "a process name"), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn rooms_have_any_name_and_each_name_once() {
        let transcript = transcript().await;
        let expected = [
            (r#"chat.start_room("first room")"#, "Ok(#PID<first room.1>)"),
            (r#"chat.start_room("second room")"#, "Ok(#PID<second room.1>)"),
            (r#"chat.add_message("first room", "foo")"#, "Ok(())"),
            (r#"chat.add_message("second room", "bar")"#, "Ok(())"),
            (r#"chat.get_messages("first room")"#, r#"Ok(["foo"])"#),
            (r#"chat.get_messages("second room")"#, r#"Ok(["bar"])"#),
            (r#"chat.start_room("first room")"#, "Err(AlreadyStarted(#PID<first room.1>))"),
        ];
        assert_eq!(section(&transcript, "Dynamic process creation"), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn registry_has_the_four_functions_of_via() {
        let transcript = transcript().await;
        let expected = [
            ("start_link()", "Ok(#PID<unnamed.1>)"),
            (r#"registry.whereis_name("room1")"#, "None"),
            (r#"registry.register_name("room1", &pid)"#, "Yes"),
            (r#"registry.register_name("room1", &pid)"#, "No"),
            (r#"registry.whereis_name("room1")"#, "Some(#PID<unnamed.1>)"),
            (r#"registry.send("room1", message("foo"))"#, "Ok(())"),
            (r#"registry.unregister_name("room1")"#, "()"),
            (r#"registry.whereis_name("room1")"#, "None"),
            (r#"registry.send("room1", message("bar"))"#, "Err(NotFound(..))"),
        ];
        assert_eq!(section(&transcript, "the functions of Chat.Registry"), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn via_finds_a_killed_room_again() {
        let transcript = transcript().await;
        let expected = [
            (r#"chat.start_room("room1")"#, "Ok(#PID<room1.1>)"),
            (r#"chat.add_message("room1", "message")"#, "Ok(())"),
            (r#"chat.get_messages("room1")"#, r#"Ok(["message"])"#),
            (r#"exit_kill(chat.via.whereis_name("room1"))"#, "Ok(true)"),
            (r#"chat.add_message("room1", "message")"#, "Ok(())"),
            (r#"chat.get_messages("room1")"#, r#"Ok(["message"])"#),
        ];
        assert_eq!(section(&transcript, "{:via, Chat.Registry, name}"), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn gproc_replaces_the_registry() {
        let transcript = transcript().await;
        let expected = [
            (r#"chat.start_room("room1")"#, "Ok(#PID<room1.1>)"),
            (r#"chat.start_room("room2")"#, "Ok(#PID<room2.1>)"),
            (r#"chat.add_message("room1", "first message")"#, "Ok(())"),
            (r#"chat.add_message("room2", "second message")"#, "Ok(())"),
            (r#"chat.get_messages("room1")"#, r#"Ok(["first message"])"#),
            (r#"chat.get_messages("room2")"#, r#"Ok(["second message"])"#),
            (r#"exit_kill(chat.via.whereis_name("room1"))"#, "Ok(true)"),
            (r#"chat.add_message("room1", "first message")"#, "Ok(())"),
            (r#"chat.get_messages("room1")"#, r#"Ok(["first message"])"#),
        ];
        assert_eq!(section(&transcript, "Simplifying with gproc"), expected);
    }
}
