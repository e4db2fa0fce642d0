//! Frames: what travels in a stream. The structs are written by hand, so no dependant needs `protoc`.

use bytes::Bytes;

/// The protocol that this build speaks. Nodes with different ones do not open streams to each other.
pub(crate) const PROTOCOL: u32 = 1;

/// A larger body is cut into pieces of this many bytes, so that small messages pass it.
pub(crate) const PIECE: usize = 64 * 1024;

/// The kind, the name and the key of a message together. They are not cut.
pub(crate) const MAX_KEY: usize = 64 * 1024;

/// A received frame that is larger is a fault of the other node: a head, a key and one piece fit, and so does the text of a
/// [`RemoteError`](crate::RemoteError).
pub(crate) const MAX_FRAME: usize = 512 * 1024;

/// At most this many bodies are cut at a time, which bounds what a receiver holds of bodies that are not complete.
pub(crate) const LANES: usize = 4;

/// One message of the gRPC stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Envelope {
    #[prost(oneof = "Frame", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub(crate) frame: Option<Frame>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Frame {
    /// The first frame in each direction.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Instead of the receiver's hello, and the last frame: why there is no stream.
    #[prost(string, tag = "2")]
    Rejected(String),
    /// A call, a cast, a stop or a count, with the first piece of its body.
    #[prost(message, tag = "3")]
    Request(RequestFrame),
    /// The next piece of a body.
    #[prost(message, tag = "4")]
    Piece(Piece),
    /// The sender no longer waits for this request.
    #[prost(uint64, tag = "5")]
    Cancel(u64),
    /// The one answer to a request, with the first piece of its body.
    #[prost(message, tag = "6")]
    Answer(AnswerFrame),
    #[prost(message, tag = "7")]
    Ping(Empty),
    #[prost(message, tag = "8")]
    Pong(Empty),
    /// The receiver leaves the cluster: send no more. Answers still follow.
    #[prost(message, tag = "9")]
    GoAway(Empty),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

/// What both ends of a stream must agree on. [`hello`](super::hello) compares it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    #[prost(string, tag = "2")]
    pub(crate) cluster: String,
    #[prost(uint32, tag = "3")]
    pub(crate) era: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) shards: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) hash: u32,
    /// The node that sends this frame.
    #[prost(message, required, tag = "6")]
    pub(crate) node: WireNodeId,
    /// The node that the sender expects at the address. Absent in the frame of the receiver.
    #[prost(message, optional, tag = "7")]
    pub(crate) to: Option<WireNodeId>,
    /// The kinds of workers that the node hosts. They may differ, for builds may.
    #[prost(string, repeated, tag = "8")]
    pub(crate) kinds: Vec<String>,
    /// The sender pings this often.
    #[prost(uint32, tag = "9")]
    pub(crate) beat_millis: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct WireNodeId {
    #[prost(fixed64, tag = "1")]
    pub(crate) process: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) membership: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RequestFrame {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) verb: u32,
    #[prost(bool, tag = "3")]
    pub(crate) if_running: bool,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) kind: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) name: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) key: Bytes,
    /// How long the sender still waits. Clocks of nodes are not compared.
    #[prost(uint64, tag = "7")]
    pub(crate) within_micros: u64,
    /// The revision of the map by which the sender chose this receiver.
    #[prost(uint64, tag = "8")]
    pub(crate) revision: u64,
    /// The size of the whole body.
    #[prost(uint64, tag = "9")]
    pub(crate) size: u64,
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Piece {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AnswerFrame {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) outcome: OutcomeFrame,
    #[prost(uint64, tag = "3")]
    pub(crate) size: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) body: Bytes,
}

/// [`Response`](super::Response) without the body of a reply. Which fields are used depends on the code.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OutcomeFrame {
    #[prost(uint32, tag = "1")]
    pub(crate) code: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) part: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) size: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) max: u64,
    #[prost(string, repeated, tag = "6")]
    pub(crate) chain: Vec<String>,
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

impl Broken {
    pub(crate) fn new(reason: impl Into<String>) -> Broken {
        Broken(reason.into())
    }
}
