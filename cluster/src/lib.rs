//! One live worker per key across nodes: the workers of [gen-registry](https://docs.rs/gen-registry) on several machines.
//!
//! A program that outgrows one machine keeps each `Worker` as it is. The keys are divided into *shards*, each node owns some
//! of the shards, and a message for a key goes to the node that owns the shard of the key. An existing consensus service, the
//! *engine*, decides which node owns which shard. The engine is etcd; a process alone needs no engine and no port.
//!
//! # The price
//!
//! **The engine is a single fate.** No message, no start and no stop of a worker asks it, and an outage shorter than `valid`
//! (8 s by default) passes unnoticed. When it has no majority for longer, *all* nodes stop *all* workers, because no node can
//! know any more that it still owns its shards. They start again when the engine answers. A longer `valid` bears longer
//! outages, and makes the fail-over after the death of a node as much slower.
//!
//! # Assumptions
//!
//! - **A1**: the engine's commits and reads are linearizable, and it loses no acknowledged commit.
//! - **A2**: the clocks of two nodes differ in rate by less than the ratio of `take` to `valid` allows, and no clock is
//!   stopped from outside. A hypervisor that pauses a guest without notice stops its clock.
//! - **A3**: the code of the workers yields within half of `take - valid`, or the process is aborted if it does not
//!   (the default policy).
//!
//! # Guarantees
//!
//! - **Exclusion** (C1): under A1 to A3, from the first poll of a worker's `init` to the drop of its state, no second worker
//!   of its key runs on any node.
//! - **Epochs** (C2): under A1 alone, each ownership of a shard has a greater epoch than every earlier one. A storage that
//!   keeps the highest epoch per key and refuses lower ones takes no write of an earlier owner after the first write of a
//!   later one, whatever clocks, pauses and partitions do.
//!
//! [All of them](guide::guarantees) have numbers, C1 to C14, which the code and the tests cite.
//!
//! **A storage must check the epoch.** C1 rests on clocks. Between a look at the clock and the effect of a write a process
//! can be stopped for any time, and only the storage can refuse what it writes afterwards.

mod builder;
mod clock;
mod cluster;
mod codec;
pub mod engine;
mod error;
mod events;
mod exit;
mod fence;
pub mod guide;
mod health;
mod host;
mod id;
mod key;
mod kind;
mod machine;
mod message;
pub mod metrics;
mod node;
mod registry;
mod remote;
mod send;
mod serve;
mod transport;
mod via;

pub use builder::{ClusterBuilder, JoinError, Timing};
pub use clock::{Clock, ClockDriver};
pub use cluster::Cluster;
pub use codec::{Codec, CodecError, Json, Named, Part, Prost};
pub use error::{ClusterCallError, ClusterCastError, TooLarge, Unreachable, Why};
pub use events::{ClusterEvent, ClusterEvents};
pub use fence::{Fence, FencePolicy, Token};
pub use health::{ClusterStats, Health, LeaveReport, Member, ShardCounts};
pub use host::{HostBuilder, HostError};
pub use id::{Epoch, NodeId, Revision, Shard};
pub use key::ClusterKey;
pub use message::{Answers, Call, Cast, Takes};
pub use registry::{ClusterRegistry, ClusterStopError, Here, HereEvents, Partial};
pub use remote::RemoteError;
pub use transport::{ListenError, NodeTls, NodeTlsError};
pub use via::ClusterVia;
