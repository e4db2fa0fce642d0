//! The session of the program's documentation, and the tests.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gen_registry::{Registry, ShutdownReport};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::codec::{Framed, LinesCodec};

use crate::{BoxError, Device, Lines, Message, Settings, devices, serve};

/// A gateway that runs in a task.
struct Gateway {
    address: SocketAddr,
    devices: Registry<Device>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<ShutdownReport>,
}

impl Gateway {
    async fn start(settings: Settings) -> Result<Self, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, devices) = (listener.local_addr()?, devices(&settings)?);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let served = tokio::spawn(serve(listener, devices.clone(), settings, stopped));
        Ok(Self { address, devices, stop, served })
    }
}

/// A device in the session.
struct Client {
    name: &'static str,
    lines: Lines,
}

impl Client {
    async fn connect(name: &'static str, gateway: &Gateway) -> Result<Self, BoxError> {
        Ok(Self { name, lines: Framed::new(TcpStream::connect(gateway.address).await?, LinesCodec::new()) })
    }

    /// Sends a line and receives one.
    async fn ask(&mut self, line: &str, printed: &mut Vec<String>) -> Result<(), BoxError> {
        printed.push(format!("{:<5} > {line}", self.name));
        self.lines.send(line).await?;
        self.receive(printed).await
    }

    async fn receive(&mut self, printed: &mut Vec<String>) -> Result<(), BoxError> {
        let line = self.lines.next().await.ok_or("the gateway has disconnected")??;
        printed.push(format!("{:<5} < {line}", self.name));
        Ok(())
    }
}

/// Plays the session of the documentation, and returns what it prints.
pub(crate) async fn play() -> Result<Vec<String>, BoxError> {
    let directory = tempfile::tempdir()?;
    let settings = Settings {
        directory: directory.path().into(),
        max_devices: 2,
        idle_timeout: Duration::from_millis(100),
        ..Settings::new()
    };
    let mut printed = Vec::new();
    let gateway = Gateway::start(settings.clone()).await?;

    let mut lamp = Client::connect("lamp", &gateway).await?;
    for line in ["hello lamp", "21.5", "warm"] {
        lamp.ask(line, &mut printed).await?;
    }
    printed.push("the operator sends: dim".into());
    gateway.devices.via("lamp").call(|reply| Message::Push("dim".into(), reply)).await?;
    lamp.receive(&mut printed).await?;

    printed.push("the lamp connects again".into());
    let mut lamp2 = Client::connect("lamp2", &gateway).await?;
    lamp2.ask("hello lamp", &mut printed).await?;
    lamp.receive(&mut printed).await?;

    let mut meter = Client::connect("meter", &gateway).await?;
    meter.ask("hello meter", &mut printed).await?;
    Client::connect("fan", &gateway).await?.ask("hello fan", &mut printed).await?;

    let worker = gateway.devices.lookup("lamp").ok_or("the lamp has a worker")?;
    drop(lamp2);
    printed.push(format!("the lamp disconnects, and its worker ends: {}", worker.closed().await));
    let mut fan = Client::connect("fan", &gateway).await?;
    fan.ask("hello fan", &mut printed).await?;

    printed.push("the gateway shuts down".into());
    drop(gateway.stop);
    meter.receive(&mut printed).await?;
    fan.receive(&mut printed).await?;
    printed.push(format!("workers that ended in time: {}", gateway.served.await?.drained));

    printed.push("the gateway starts again".into());
    let gateway = Gateway::start(settings).await?;
    Client::connect("lamp", &gateway).await?.ask("hello lamp", &mut printed).await?;
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use test_support::within;

    use super::*;

    /// The session in the documentation above.
    fn documented() -> Vec<&'static str> {
        let (_, block) = include_str!("main.rs").split_once("//! ```text\n").expect("there is a session");
        block.lines().take_while(|line| *line != "//! ```").map(|line| &line[4..]).collect()
    }

    /// Connects, sends these lines, and returns what the gateway answers until it disconnects.
    async fn answers(settings: Settings, sent: &[&str]) -> Vec<String> {
        let gateway = Gateway::start(settings).await.expect("the gateway starts");
        let mut client = Client::connect("test", &gateway).await.expect("the gateway accepts");
        for line in sent {
            client.lines.send(line).await.expect("the gateway reads");
        }
        let received = client.lines.map(|line| line.expect("a line"));
        within(received.collect(), "the end of the connection").await
    }

    #[tokio::test]
    async fn session_prints_the_documented_lines() {
        let printed = within(play(), "the session").await.expect("the session has no errors");
        assert_eq!(printed, documented());
    }

    #[tokio::test]
    async fn id_cannot_leave_the_directory() {
        for hello in ["hello ../passwd", "hello ", "hello LAMP", "21.5"] {
            assert_eq!(answers(Settings::new(), &[hello]).await, ["error expected: hello and an id"], "{hello}");
        }
    }

    #[tokio::test]
    async fn silent_device_is_disconnected() {
        let directory = tempfile::tempdir().expect("a directory");
        let silence = Duration::from_millis(20);
        let settings = Settings { directory: directory.path().into(), silence, ..Settings::new() };
        assert_eq!(answers(settings, &["hello lamp"]).await, ["welcome, readings: 0", "bye silent"]);
        let mut files = fs::read_dir(&directory).expect("the directory exists");
        assert!(files.next().is_none(), "a device without readings has no file");
    }

    #[tokio::test]
    async fn device_that_does_not_read_is_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = Settings { directory: directory.path().into(), ..Settings::new() };
        let gateway = Gateway::start(settings).await.expect("the gateway starts");
        let mut client = Client::connect("test", &gateway).await.expect("the gateway accepts");
        for line in ["hello lamp", "21.5"] {
            within(client.ask(line, &mut Vec::new()), "an answer").await.expect("a line");
        }
        let lamp = gateway.devices.via("lamp");
        let push = async || lamp.call(|reply| Message::Push("x".repeat(1 << 20), reply)).await.expect("a reply");
        // The buffers of the connection take some lines.
        while within(push(), "the answer to a push").await {}
        assert_eq!(within(gateway.devices.shutdown(), "the shutdown").await.drained, 1);
        assert_eq!(fs::read_to_string(directory.path().join("lamp")).expect("it has saved"), "1 21.5");
    }

    #[tokio::test]
    async fn damaged_file_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("lamp");
        fs::write(&file, "damaged").expect("a file");
        let settings = Settings { directory: directory.path().into(), ..Settings::new() };
        assert_eq!(answers(settings, &["hello lamp"]).await, ["error unavailable"]);
        assert_eq!(fs::read_to_string(&file).expect("a file"), "damaged");
    }
}
