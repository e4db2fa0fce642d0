//! One call from outside, as a client: a member that owns nothing.

use gen_registry_cluster::{Cluster, ClusterRegistry};

use crate::denylist::{Allows, Block, Denylist};
use crate::storage::Storage;
use crate::{ClusterArgs, Failed, node};

/// Joins as a client. It needs no storage, for no worker runs here.
pub async fn join(args: &ClusterArgs) -> Result<(Cluster, ClusterRegistry<Denylist>), Failed> {
    if args.engine.is_empty() {
        return Err("name the members of etcd with --engine".into());
    }
    let cluster = node::options(args).weight(0).join().await?;
    let denylists = node::host(&cluster, Storage::at("nowhere"), 1)?;
    Ok((cluster, denylists))
}

pub async fn block(args: &ClusterArgs, number: &str, caller: String) -> Result<(), Failed> {
    let (cluster, denylists) = join(args).await?;
    let blocked = denylists.via(number).call(Block { caller }).await?;
    println!("callers that {number} blocks: {blocked}");
    cluster.leave().await;
    Ok(())
}

pub async fn allows(args: &ClusterArgs, number: &str, caller: String) -> Result<(), Failed> {
    let (cluster, denylists) = join(args).await?;
    let allows = denylists.via(number).call(Allows { caller }).await?;
    println!("{}", if allows { "allowed" } else { "blocked" });
    cluster.leave().await;
    Ok(())
}
