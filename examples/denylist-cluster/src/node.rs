//! A node: joins the cluster, hosts the denylists, and hands them over at its end.

use std::time::Duration;

use gen_registry::SharedLimits;
use gen_registry_cluster::engine::Etcd;
use gen_registry_cluster::{Cluster, ClusterBuilder, ClusterRegistry, HostError, Timing};

use crate::denylist::{Allows, Block, Denylist, KIND};
use crate::storage::Storage;
use crate::{ClusterArgs, Failed, NodeArgs};

/// The options that all nodes of the cluster have, and its clients.
pub fn options(args: &ClusterArgs) -> ClusterBuilder {
    let beat = Duration::from_millis(args.beat);
    let timing = Timing { beat, valid: 8 * beat, take: 10 * beat };
    let options = Cluster::builder(&args.cluster).engine(Etcd::new(&args.engine)).timing(timing).settle(2 * beat);
    // Longer than a fail-over takes, so that callers outlive the death of a node.
    options.call_timeout(2 * timing.take)
}

/// Hosts the denylists. Clients do too: they need the names of the messages.
pub fn host(cluster: &Cluster, storage: Storage, loads: u16) -> Result<ClusterRegistry<Denylist>, HostError> {
    // After the death of a node, its numbers are loaded by the others, at most this many at a time on each.
    let limits = SharedLimits::new().max_concurrent_starts(loads.into());
    cluster
        .host::<Denylist>(KIND, move |_, fence| (storage.clone(), fence))
        .call::<Block>()
        .call::<Allows>()
        .local(|builder| builder.idle_timeout(Duration::from_secs(900)))
        .limits(&limits)
        .start()
}

pub async fn run(args: NodeArgs) -> Result<(), Failed> {
    let cluster = if args.cluster.engine.is_empty() {
        Cluster::solo(&args.cluster.cluster)
    } else {
        let mut options = options(&args.cluster).listen(args.listen);
        if let Some(advertise) = &args.advertise {
            options = options.advertise(advertise);
        }
        options.join().await?
    };
    // The node hosts the kind with or without this handle.
    let _denylists = host(&cluster, Storage::at(&args.storage), args.loads)?;
    let ended = until_ended()?;
    println!("node {} serves", cluster.id());
    ended.await?;
    let report = cluster.leave().await;
    println!("{} shards given away, {} stuck, {} calls not answered", report.moved, report.stuck, report.unanswered);
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM, which are caught from the call on.
fn until_ended() -> Result<impl Future<Output = Result<(), Failed>>, Failed> {
    #[cfg(unix)]
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            ended = tokio::signal::ctrl_c() => ended?,
            _ = terminated.recv() => {}
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await?;
        Ok(())
    })
}
