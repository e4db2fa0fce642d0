//! J7: nodes whose clocks show other times.
//!
//! A time namespace gives a process another monotonic clock. The wall clock has no namespace, and to set it is to set it for
//! the whole machine. No code of the crate reads it, which a test of `clock.rs` checks.

use tokio::time::sleep;

use crate::bed::{Bed, SECOND, Setup, has_time_namespaces, keys, timing};

const DAY: i64 = 24 * 3600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j7_offsets_of_clocks_are_of_no_meaning() {
    if !has_time_namespaces() {
        return eprintln!("\n*** NOT TESTED: time namespaces are not allowed here (unshare --time) ***\n");
    }
    // One is a hundred days ahead. One has been suspended for two hours, so its two clocks differ.
    let clocks_ahead = vec![(100 * DAY, 100 * DAY), (0, 7_200)];
    let Some(mut bed) = Bed::with(Setup { clocks_ahead, ..Setup::default() }).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    load.mark();
    sleep(SECOND).await;
    // Those with other clocks take over.
    let concerned = bed.owned_by(bed.nodes[2].address, &keys);
    bed.kill(2);
    sleep(timing().take + 2 * SECOND).await;
    let report =
        bed.report("J7, clocks 100 days and 2 hours ahead, SIGKILL of the third", &load.end().await, &concerned);
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    assert!(report.all.no_reply <= concerned.len() as u64);
    assert!(report.hit.worst() < timing().take + 2 * SECOND, "{:?}", report.hit.worst());
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}
