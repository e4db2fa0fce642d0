//! [`ready`]: asks a running service whether it is ready.

use std::time::Duration;

use tokio::time::timeout;

use crate::cli_error::CliError;
use crate::client::{Answer, Client, ServiceUrl, refusal};
use crate::println_lossy::println_lossy;

#[derive(Debug, clap::Args)]
pub(crate) struct ReadyArgs {
    /// The URL of the service
    #[arg(long, env = "DENYLIST_URL", default_value = "http://127.0.0.1:8080")]
    url: ServiceUrl,
}

/// Longer than the service takes to report a failure.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// The health check of a container, which has no other client for HTTP.
pub(crate) async fn ready(args: ReadyArgs) -> Result<(), CliError> {
    require_ready(&Client::new(args.url.clone()), &args.url).await?;
    println_lossy("ready");
    Ok(())
}

pub(crate) async fn require_ready(client: &Client, url: &ServiceUrl) -> Result<(), CliError> {
    match in_time(client.get("/readyz")).await {
        Ok((200, _)) => Ok(()),
        Ok(answer) => Err(CliError::unavailable(format!("{url} is not ready: {}", refusal(&answer)))),
        Err(error) => Err(CliError::unavailable(format!("cannot reach {url}: {error}"))),
    }
}

pub(crate) async fn in_time(answer: impl Future<Output = Answer>) -> Answer {
    timeout(TIMEOUT, answer).await.unwrap_or_else(|_| Err(String::from("no response in time")))
}
