//! Frames over gRPC: one method with a stream both ways. The client and the server are tonic's, without generated code.

mod client;
mod server;

use tonic_prost::ProstCodec;

use crate::transport::frame::Envelope;
pub(crate) use crate::transport::grpc::client::GrpcConnect;
pub use crate::transport::grpc::server::ListenError;
pub(crate) use crate::transport::grpc::server::Server;

/// The method, as a path.
const PATH: &str = "/gen_registry.cluster.Nodes/Stream";

/// How far an end may send before the other reads. It is also how much stands in the way of a small message.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

pub(in crate::transport) fn codec() -> ProstCodec<Envelope, Envelope> {
    ProstCodec::default()
}

/// The text of an error and of its sources. Many errors repeat the text of their source: that is dropped.
fn text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for error in std::iter::successors(Some(error), |&error| error.source()) {
        let next = error.to_string();
        if !next.is_empty() && !text.contains(&next) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&next);
        }
    }
    text
}

/// Why a call or a stream ended, without the status code that all such ends share.
fn status_text(status: &tonic::Status) -> String {
    let source = std::error::Error::source(status).map(text);
    match source {
        Some(source) if status.message().is_empty() || source.contains(status.message()) => source,
        Some(source) => format!("{}: {source}", status.message()),
        None if status.message().is_empty() => "the stream was reset".into(),
        None => status.message().into(),
    }
}
