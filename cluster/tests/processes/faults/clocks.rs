//! J7: nodes whose clocks show other times.
//!
//! A time namespace gives a process another monotonic clock. The wall clock has no namespace: libfaketime sets it for one
//! process, and leaves the other clocks alone. That no code of the crate reads it is checked by a test of `clock.rs`.

use tokio::time::{Instant, sleep};

use crate::bed::{Bed, Node, SECOND, Setup, has_time_namespaces, keys, timing};
use crate::wall_clock::{WallClock, wall_seconds};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

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
    sleep(SECOND).await;
    // Those with other clocks take over.
    let concerned = bed.owned_by(bed.nodes[2].address, &keys);
    load.mark();
    bed.kill(2);
    sleep(timing().take + 2 * SECOND).await;
    let report =
        bed.report("J7, clocks 100 days and 2 hours ahead, SIGKILL of the third", &load.end().await, &concerned);
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    assert!(report.all.no_reply <= concerned.len() as u64);
    assert!(report.hit.worst() < timing().take + 2 * SECOND, "{:?}", report.hit.worst());
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}

/// Sets the wall clock of a node, and asks the node what it shows.
async fn set(node: &mut Node, ahead: i64) {
    node.wall_clock.as_ref().expect("the run has wall clocks").set(ahead);
    let here = wall_seconds();
    node.command("wall");
    let (_, there) = node.line("wall").await;
    let seen: i64 = there.parse::<u64>().expect("seconds").cast_signed() - here.cast_signed();
    assert!(
        (ahead..ahead + HOUR / 2).contains(&seen),
        "the node sees a clock that is {seen} s ahead, and not {ahead} s"
    );
}

/// By an hour to both sides, while the nodes serve and while one of them is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j7_wall_clock_that_is_set_changes_nothing() {
    if WallClock::new().is_none() {
        assert!(std::env::var_os("CI").is_none(), "faketime is missing (Debian: apt-get install faketime)");
        return eprintln!("\n*** NOT TESTED: faketime is not installed (Debian: apt-get install faketime) ***\n");
    }
    let Some(mut bed) = Bed::with(Setup { wall_clocks: 2, ..Setup::default() }).await else { return };
    let keys = keys("k", 120);
    let owners = bed.owners();
    let load = bed.load(&keys);
    load.mark();
    for ahead in [HOUR, -HOUR] {
        set(&mut bed.nodes[0], ahead).await;
        set(&mut bed.nodes[1], -ahead).await;
        sleep(timing().valid).await;
    }
    assert_eq!(bed.owners(), owners, "no shard has moved");
    let report = bed.report("J7, wall clocks set by an hour and two", &load.end().await, &Default::default());
    assert_eq!(report.all.not_delivered + report.all.no_reply + report.all.timed_out + report.refused, 0);
    // Those with such clocks take over, neither sooner nor later.
    let load = bed.load_again(&keys);
    let concerned = bed.owned_by(bed.nodes[2].address, &keys);
    load.mark();
    bed.kill(2);
    let (killed, mut ahead) = (Instant::now(), HOUR);
    while killed.elapsed() < timing().take + 2 * SECOND {
        set(&mut bed.nodes[0], ahead).await;
        ahead = -ahead;
        sleep(SECOND / 2).await;
    }
    let report = bed.report("J7, wall clock set each 0.5 s, SIGKILL of another node", &load.end().await, &concerned);
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    assert!(report.all.no_reply <= concerned.len() as u64);
    let outage = report.hit.worst();
    assert!(outage > timing().take - 2 * timing().beat && outage < timing().take + 2 * SECOND, "{outage:?}");
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}
