//! etcd as the engine, with processes of the real etcd.

mod support;

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use gen_registry_cluster::Revision;
use gen_registry_cluster::engine::{Commit, Compaction, Engine, EngineError, Etcd, EtcdTls, Expect, WatchError};
use support::etcd::EtcdCluster;
use support::load::Load;
use support::proxy::{Flow, Proxy};
use support::{conformance, delete, done, put, settle, within};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

/// A client through a proxy.
async fn proxied(etcd: &EtcdCluster, member: usize) -> (Proxy, Etcd) {
    let proxy = Proxy::to(etcd.address(member)).await;
    let client = Etcd::new([format!("http://{}", proxy.address())]);
    (proxy, client)
}

/// A client of all members that begins with this one.
fn beginning_with(etcd: &EtcdCluster, member: usize) -> Etcd {
    std::iter::repeat_with(|| etcd.client())
        .find(|client| client.member() == Some(etcd.url(member)))
        .expect("by chance")
}

/// Overwrites a record until that is done, and returns the revision.
async fn overwrite(engine: &Etcd, key: &str, last: Revision, value: &str) -> Revision {
    // A conflict: an attempt of unknown outcome was done.
    let _ = settle(engine, &[(key.to_owned(), Expect::At(last))], &[put(key, value)]).await;
    let read = within(engine.read(key), "a read").await.expect("the engine answers");
    assert_eq!(read.entries[0].value, value);
    read.entries[0].revision
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    conformance::all(&[etcd.client_of(0)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_of_three_keeps_the_contract() {
    let Some(etcd) = EtcdCluster::start(3).await else { return };
    conformance::all(&[etcd.client_of(0), etcd.client_of(1), etcd.client_of(2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_stay_right_when_the_leader_is_killed() {
    let Some(mut etcd) = EtcdCluster::start(3).await else { return };
    let load = Load::begin(&[etcd.client(), etcd.client(), etcd.client()], "/load/").await;
    sleep(SECOND).await;
    let leader = etcd.leader();
    etcd.kill(leader);
    sleep(SECOND * 5).await;
    etcd.restart(leader);
    sleep(SECOND * 2).await;
    let counted = load.end(&etcd.client_of(0)).await;
    println!("leader killed: {counted:?}");
    assert!(counted.done > 100 && counted.longest_gap < SECOND * 6, "{counted:?}");
}

/// A lease would be revoked here (etcd-io/etcd#15247). Conditions are not concerned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_stay_right_when_a_paused_leader_wakes() {
    let Some(etcd) = EtcdCluster::start(3).await else { return };
    let load = Load::begin(&[etcd.client(), etcd.client(), etcd.client()], "/load/").await;
    sleep(SECOND).await;
    let leader = etcd.leader();
    etcd.pause(leader);
    sleep(SECOND * 7).await;
    etcd.wake(leader);
    sleep(SECOND * 3).await;
    let counted = load.end(&etcd.client_of(0)).await;
    println!("leader paused and woken: {counted:?}");
    assert!(counted.done > 100 && counted.longest_gap < SECOND * 6, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_follower_is_left_for_another_member() {
    let Some(etcd) = EtcdCluster::start(3).await else { return };
    let follower = (etcd.leader() + 1) % 3;
    let (client, elsewhere) = (beginning_with(&etcd, follower), etcd.client_of(etcd.leader()));
    let start = done(&client, &[], &[put("/hung/a", "0")]).await;
    let mut watch = pin!(client.watch("/hung/", start));
    let first = done(&elsewhere, &[], &[put("/hung/a", "1")]).await;
    let change = within(watch.next(), "a change before the pause").await.expect("no end").expect("no error");
    assert_eq!(change.revision, first);
    etcd.pause(follower);
    let begun = Instant::now();
    let unknown = client.commit(&[("/hung/a".into(), Expect::At(start))], &[put("/hung/a", "x")]).await;
    assert!(matches!(unknown, Err(EngineError::Unknown(_))), "{unknown:?}");
    assert_ne!(client.member(), Some(etcd.url(follower)), "the member that hangs is asked again");
    let revision = overwrite(&client, "/hung/a", first, "2").await;
    let answered = begun.elapsed();
    let second = within(watch.next(), "a change from another member").await.expect("no end").expect("no error");
    println!("follower hung: commit after {answered:?}, watch after {:?}", begun.elapsed());
    assert_eq!((second.revision, second.ops), (revision, vec![put("/hung/a", "2")]));
    assert!(answered < SECOND * 2 && begun.elapsed() < SECOND * 4, "{answered:?}, {:?}", begun.elapsed());
    etcd.wake(follower);
    done(&client, &[], &[put("/hung/a", "3")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_stay_right_in_a_rolling_restart() {
    let Some(mut etcd) = EtcdCluster::start(3).await else { return };
    let load = Load::begin(&[etcd.client(), etcd.client(), etcd.client()], "/load/").await;
    for member in 0..3 {
        sleep(SECOND).await;
        etcd.kill(member);
        sleep(SECOND).await;
        etcd.restart(member);
        let client = etcd.client_of(member);
        let ready = async {
            while client.read("/ready").await.is_err() {
                sleep(SECOND / 20).await;
            }
        };
        within(ready, "a member that restarts").await;
    }
    let counted = load.end(&etcd.client_of(0)).await;
    println!("rolling restart: {counted:?}");
    assert!(counted.done > 100, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcome_of_a_cut_commit_is_unknown_and_never_wrong() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let (proxy, through) = proxied(&etcd, 0).await;
    let direct = etcd.client_of(0);
    done(&through, &[], &[put("/warm", "")]).await;
    let written = async |key: &str| !direct.read(key).await.expect("the engine answers").entries.is_empty();
    for (key, to_server, to_client, is_done) in [
        ("/answer-lost", Flow::Pass, Flow::Swallow, true),
        ("/request-lost", Flow::Swallow, Flow::Pass, false),
        ("/answer-held", Flow::Pass, Flow::Hold, true),
    ] {
        proxy.to_server(to_server);
        proxy.to_client(to_client);
        let when = [(key.to_owned(), Expect::Absent)];
        let unknown = within(through.commit(&when, &[put(key, "1")]), "an outcome").await;
        assert!(matches!(unknown, Err(EngineError::Unknown(_))), "{key}: {unknown:?}");
        assert_eq!(written(key).await, is_done, "{key}");
        proxy.both(Flow::Pass);
        proxy.reset();
        // A repetition decides, whatever has become of the first.
        let again = settle(&through, &when, &[put(key, "2")]).await;
        assert_eq!(matches!(again, Commit::Conflict), is_done, "{key}: {again:?}");
    }
    // Without an engine, whether the client has noticed the reset or not.
    proxy.refuse(true);
    proxy.reset();
    drop(etcd);
    let gone = within(through.commit(&[], &[put("/never", "1")]), "an outcome").await;
    assert!(matches!(gone, Err(EngineError::Unavailable(_) | EngineError::Unknown(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_stay_right_when_connections_are_reset() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let (proxy, through) = proxied(&etcd, 0).await;
    let load = Load::begin(&[through.clone(), through.clone(), etcd.client()], "/load/").await;
    for round in 0_u64..60 {
        sleep(Duration::from_millis(20 + (round * 7) % 50)).await;
        proxy.to_client(if round % 3 == 0 { Flow::Delay(Duration::from_millis(3)) } else { Flow::Pass });
        proxy.reset();
    }
    proxy.both(Flow::Pass);
    let counted = load.end(&etcd.client_of(0)).await;
    println!("60 resets, {} connections: {counted:?}", proxy.accepted());
    assert!(counted.unknown > 0 && counted.done > 50 && proxy.accepted() > 30, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_that_is_cut_at_every_event_misses_none() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let (proxy, through) = proxied(&etcd, 0).await;
    let direct = etcd.client_of(0);
    let start = done(&direct, &[], &[put("/cut/a", "start")]).await;
    let mut watch = pin!(through.watch("/cut/", start));
    let mut next = async |expected: Revision| {
        let change = within(watch.next(), "a change after a cut").await.expect("no end").expect("no error");
        assert_eq!(change.revision, expected);
    };
    for round in 0..30 {
        let op = if round % 3 == 2 { delete("/cut/a") } else { put("/cut/a", format!("{round}")) };
        match round % 2 {
            // With the commit behind the cut.
            0 => {
                proxy.refuse(true);
                proxy.reset();
                let revisions = [done(&direct, &[], &[op]).await, done(&direct, &[], &[put("/cut/b", "")]).await];
                proxy.refuse(false);
                for revision in revisions {
                    next(revision).await;
                }
            }
            // While it is on its way.
            _ => {
                let revision = done(&direct, &[], &[op]).await;
                proxy.reset();
                next(revision).await;
            }
        }
    }
    println!("{} connections", proxy.accepted());
    assert!(proxy.accepted() >= 15, "{} connections", proxy.accepted());
    // In the middle of an answer, too.
    let before = proxy.accepted();
    for bytes in [400, 450, 500, 600] {
        proxy.reset_after(bytes);
        for round in 0..10 {
            next(done(&direct, &[], &[put("/cut/a", format!("{bytes}-{round}"))]).await).await;
        }
    }
    println!("{} connections", proxy.accepted());
    assert!(proxy.accepted() >= before + 5, "{} connections", proxy.accepted());
}

#[tokio::test]
async fn compaction_under_a_watch_ends_it() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let (proxy, through) = proxied(&etcd, 0).await;
    let direct = etcd.client_of(0);
    let start = done(&direct, &[], &[put("/old/a", "0")]).await;
    let mut watch = pin!(through.watch("/old/", start));
    let first = done(&direct, &[], &[put("/old/a", "1")]).await;
    assert_eq!(within(watch.next(), "a change").await.expect("no end").expect("no error").revision, first);
    // A watch that follows is not concerned.
    direct.compact(first).await.expect("etcd compacts");
    let second = done(&direct, &[], &[put("/old/a", "2")]).await;
    assert_eq!(within(watch.next(), "a change").await.expect("no end").expect("no error").revision, second);
    proxy.refuse(true);
    proxy.reset();
    done(&direct, &[], &[delete("/old/a")]).await;
    let last = done(&direct, &[], &[put("/old/a", "3")]).await;
    direct.compact(last).await.expect("etcd compacts");
    proxy.refuse(false);
    assert_eq!(within(watch.next(), "the end").await, Some(Err(WatchError::Compacted { oldest: last })));
    assert_eq!(within(watch.next(), "the end").await, None);
}

#[tokio::test]
async fn silent_connection_is_noticed_by_the_watch() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let (proxy, through) = proxied(&etcd, 0).await;
    let direct = etcd.client_of(0);
    let start = done(&direct, &[], &[put("/silent/a", "0")]).await;
    let mut watch = pin!(through.watch("/silent/", start));
    // Quiet, but alive: the watch stays on its connection.
    assert!(tokio::time::timeout(SECOND * 3, watch.next()).await.is_err());
    assert_eq!(proxy.accepted(), 1, "a quiet watch changed its connection");
    proxy.to_client(Flow::Swallow);
    let first = done(&direct, &[], &[put("/silent/a", "1")]).await;
    assert!(tokio::time::timeout(SECOND * 2, watch.next()).await.is_err());
    assert!(proxy.accepted() > 1, "the silence was not noticed");
    proxy.to_client(Flow::Pass);
    assert_eq!(within(watch.next(), "a change").await.expect("no end").expect("no error").revision, first);
}

#[tokio::test]
async fn members_that_are_away_are_passed_over() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let hole = Proxy::to(etcd.address(0)).await;
    hole.both(Flow::Swallow);
    let closed = Proxy::to(etcd.address(0)).await.address();
    for _ in 0..6 {
        let urls = [format!("http://{closed}"), etcd.url(0), format!("http://{}", hole.address())];
        let client = Etcd::new(urls);
        assert!(matches!(settle(&client, &[], &[put("/away/a", "1")]).await, Commit::Done(_)));
        assert!(within(client.read("/away/"), "a read").await.is_ok());
        assert_eq!(client.member(), Some(etcd.url(0)));
    }
}

#[tokio::test]
async fn hung_member_is_left_by_callers_that_give_up() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let hole = Proxy::to(etcd.address(0)).await;
    hole.both(Flow::Swallow);
    let hole_url = format!("http://{}", hole.address());
    let hung = || Etcd::new([hole_url.clone(), etcd.url(0)]);
    let client =
        std::iter::repeat_with(hung).find(|client| client.member().as_ref() == Some(&hole_url)).expect("by chance");
    // A caller that goes at once says nothing of the member.
    assert!(tokio::time::timeout(SECOND / 20, client.read("/")).await.is_err());
    assert_eq!(client.member().as_ref(), Some(&hole_url));
    // One that waited for most of an attempt does.
    assert!(tokio::time::timeout(SECOND * 2 / 5, client.commit(&[], &[put("/a", "")])).await.is_err());
    assert_eq!(client.member(), Some(etcd.url(0)));
    done(&client, &[], &[put("/a", "")]).await;
}

#[tokio::test]
async fn restarted_member_is_reached_again() {
    let Some(mut etcd) = EtcdCluster::start(1).await else { return };
    let client = etcd.client();
    let start = done(&client, &[], &[put("/again/a", "1")]).await;
    let mut watch = pin!(client.watch("/again/", start));
    assert!(tokio::time::timeout(SECOND / 10, watch.next()).await.is_err());
    etcd.kill(0);
    let away = within(client.read("/again/"), "a read").await;
    assert!(matches!(away, Err(EngineError::Unavailable(_))), "{away:?}");
    let away = within(client.commit(&[], &[put("/again/a", "x")]), "a commit").await;
    assert!(matches!(away, Err(EngineError::Unavailable(_))), "nothing was sent: {away:?}");
    etcd.restart(0);
    let revision = overwrite(&client, "/again/a", start, "2").await;
    let change = within(watch.next(), "a change after the restart").await.expect("no end").expect("no error");
    assert_eq!(change.revision, revision);
}

#[tokio::test]
async fn what_is_not_allowed_is_refused() {
    let Some(etcd) = EtcdCluster::start_with(1, false, &["--bcrypt-cost", "4"]).await else { return };
    // Before authentication is on, a user is accepted, too.
    let chat = etcd.client_of(0).user("chat", "secret");
    done(&chat, &[], &[put("/chat/a", "1")]).await;
    etcd.turn_authentication_on();
    let revision = done(&chat, &[], &[put("/chat/a", "2")]).await;
    assert_eq!(chat.read("/chat/").await.expect("the role allows it").entries[0].revision, revision);
    chat.compact(revision).await.expect("etcd lets every user compact");
    for (client, at) in
        [(etcd.client_of(0), "/chat/"), (etcd.client_of(0).user("chat", "wrong"), "/chat/"), (chat.clone(), "/other/")]
    {
        let read = within(client.read(at), "a read").await;
        assert!(matches!(read, Err(EngineError::Refused(_))), "{at}: {read:?}");
        let commit = within(client.commit(&[], &[put(format!("{at}b"), "1")]), "a commit").await;
        assert!(matches!(commit, Err(EngineError::Refused(_))), "{at}: {commit:?}");
        let watch = within(pin!(client.watch(at, revision)).next(), "a watch").await;
        assert!(matches!(watch, Some(Err(WatchError::Refused(_)))), "{at}: {watch:?}");
    }
    let root = etcd.client_of(0).user("root", "root");
    assert_eq!(within(root.read("/other/"), "a read").await.expect("root may").entries, []);
    assert_eq!(within(root.read("/chat/"), "a read").await.expect("root may").entries.len(), 1);
}

/// A watch and requests go on while the tokens of a user expire.
async fn outlives_its_tokens(etcd: &mut EtcdCluster) {
    etcd.turn_authentication_on();
    let chat = etcd.client_of(0).user("chat", "secret");
    let start = done(&chat, &[], &[put("/chat/a", "1")]).await;
    let mut watch = pin!(chat.watch("/chat/", start));
    let mut last = start;
    for round in 0..3 {
        assert!(tokio::time::timeout(SECOND * 3, watch.next()).await.is_err(), "nothing was committed");
        // No request has renewed the token before this watch opens.
        let mut fresh = pin!(chat.watch("/chat/", Revision(start.0 - 1)));
        let change = within(fresh.next(), "a watch under an expired token").await.expect("no end").expect("no error");
        assert_eq!(change.revision, start);
        match round {
            // The revision of the users changes: tokens that name another are refused.
            1 => {
                etcd.ctl(&["--user", "root:root", "role", "add", "more"]);
            }
            2 => {
                etcd.kill(0);
                etcd.restart(0);
            }
            _ => {}
        }
        last = overwrite(&chat, "/chat/a", last, &format!("{round}")).await;
        let change = within(watch.next(), "a change under an expired token").await.expect("no end").expect("no error");
        assert_eq!(change.revision, last, "round {round}");
        assert!(within(chat.read("/chat/"), "a read").await.is_ok());
    }
}

#[tokio::test]
async fn expired_simple_tokens_are_renewed() {
    let more = ["--bcrypt-cost", "4", "--auth-token-ttl", "1"];
    let Some(mut etcd) = EtcdCluster::start_with(1, false, &more).await else { return };
    outlives_its_tokens(&mut etcd).await;
}

#[tokio::test]
async fn expired_signed_tokens_are_renewed() {
    let Some(mut etcd) = EtcdCluster::start_with(1, false, &["--bcrypt-cost", "4"]).await else { return };
    etcd.use_signed_tokens(SECOND * 2);
    outlives_its_tokens(&mut etcd).await;
}

#[tokio::test]
async fn members_and_clients_prove_themselves_by_tls() {
    let Some(etcd) = EtcdCluster::start_with_tls(1).await else { return };
    let client = etcd.client_of(0);
    let start = done(&client, &[], &[put("/tls/a", "1")]).await;
    let mut watch = pin!(client.watch("/tls/", start));
    let next = done(&client, &[], &[put("/tls/a", "2")]).await;
    assert_eq!(within(watch.next(), "a change").await.expect("no end").expect("no error").revision, next);
    let certificates = etcd.certificates();
    let (certificate, key) = &certificates.stranger;
    let stranger = EtcdTls::mutual(&certificates.authority, certificate, key).expect("the certificates are valid");
    let anonymous = EtcdTls::from_pem(&certificates.authority).expect("the certificate is valid");
    let trusts_another = EtcdTls::mutual(certificate, &certificates.client.0, &certificates.client.1).expect("valid");
    let (url, plain) = (etcd.url(0), etcd.url(0).replace("https", "http"));
    for (what, client) in [
        ("a stranger", Etcd::new([&url]).tls(stranger)),
        ("a client without a certificate", Etcd::new([&url]).tls(anonymous)),
        ("a client that trusts another", Etcd::new([&url]).tls(trusts_another)),
        ("a client without TLS", Etcd::new([&url])),
        ("a client that speaks plain text", Etcd::new([&plain])),
    ] {
        let read = within(client.read("/tls/"), "a read").await;
        println!("{what}: {read:?}");
        assert!(matches!(read, Err(EngineError::Unavailable(_))), "{what}: {read:?}");
        let commit = within(client.commit(&[], &[put("/tls/b", what)]), "a commit").await;
        assert!(commit.is_err(), "{what}: {commit:?}");
    }
    assert_eq!(client.read("/tls/").await.expect("the engine answers").entries.len(), 1);
}

#[tokio::test]
async fn wrong_addresses_are_named() {
    for (client, named) in [(Etcd::new(["10.0.0.1:2379"]), "10.0.0.1:2379"), (Etcd::new([""; 0]), "at least one")] {
        let refused = client.read("").await;
        assert!(matches!(&refused, Err(EngineError::Refused(why)) if why.contains(named)), "{refused:?}");
        let watch = within(pin!(client.watch("", Revision(0))).next(), "a watch").await;
        assert!(matches!(&watch, Some(Err(WatchError::Refused(why))) if why.contains(named)), "{watch:?}");
    }
}

#[tokio::test]
async fn etcd_with_keys_of_others_is_not_ours_to_compact() {
    let Some(etcd) = EtcdCluster::start(1).await else { return };
    let engine = etcd.client_of(0);
    done(&engine, &[], &[put("/chat/config", "ours")]).await;
    assert_eq!(engine.serves_others("/chat/").await, Ok(false));
    for foreign in ["/a", "/chau"] {
        done(&engine, &[], &[put(foreign, "theirs")]).await;
        assert_eq!(engine.serves_others("/chat/").await, Ok(true), "{foreign}");
        assert_eq!(engine.clone().compaction(Compaction::Ours).serves_others("/chat/").await, Ok(false));
        done(&engine, &[], &[delete(foreign)]).await;
    }
    assert_eq!(engine.clone().compaction(Compaction::Operators).serves_others("/chat/").await, Ok(true));
    // A role that may use the prefix only does not see whether there are others.
    etcd.turn_authentication_on();
    assert_eq!(engine.user("chat", "secret").serves_others("/chat/").await, Ok(true));
}
