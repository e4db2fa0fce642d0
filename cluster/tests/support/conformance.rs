//! What every engine must do. Each case is one rule of the contract, or one sentence of the documentation of `Engine`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use futures_util::{StreamExt, future};
use gen_registry_cluster::Revision;
use gen_registry_cluster::engine::{Change, Commit, Engine, EngineError, Expect, Op, WatchError};

use crate::support::{delete, done, put, within};

/// Runs all cases against clients of one engine. Where an engine has several members, each client should use another one.
pub async fn all<E: Engine + Clone>(clients: &[E]) {
    let (one, other) = (&clients[0], &clients[clients.len() - 1]);
    read_returns_the_prefix_in_order(one, "/prefix/").await;
    commit_holds_to_its_conditions(one, "/conditions/").await;
    commit_does_all_or_nothing(one, "/all/").await;
    revisions_grow_with_each_change(one, "/revisions/").await;
    bad_commits_are_refused(one, "/bad/").await;
    full_commit_is_done(one, "/full/").await;
    bytes_are_kept(one, "/bytes/").await;
    acknowledged_commit_is_read_elsewhere(clients, "/elsewhere/").await;
    watch_yields_commits_whole_and_in_order(one, "/watch/").await;
    watch_resumes_from_every_revision(other, "/resume/").await;
    watch_yields_what_is_large(other, "/large/").await;
    watch_from_a_snapshot_misses_nothing(clients, "/snapshot/").await;
    increments_are_never_lost(clients, "/increments/").await;
    dropped_commits_are_done_once_or_never(clients, "/dropped/").await;
    // The last one: it forgets the history of all prefixes.
    compaction_ends_older_watches_only(one, "/compaction/").await;
}

fn begin(case: &str) {
    println!("  {case}");
}

async fn contents(engine: &impl Engine, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let snapshot = within(engine.read(prefix), "the answer to a read").await.expect("the engine answers");
    snapshot.entries.into_iter().map(|entry| (entry.key, entry.value.to_vec())).collect()
}

/// The next changes of a watch.
async fn changes(engine: &impl Engine, prefix: &str, from: Revision, count: usize) -> Vec<Change> {
    let watch = engine.watch(prefix, from).take(count).map(|change| change.expect("the watch goes on"));
    within(watch.collect(), &format!("{count} changes under {prefix} after {from:?}")).await
}

fn apply(records: &mut BTreeMap<String, Vec<u8>>, change: &Change) {
    for op in &change.ops {
        match op {
            Op::Put(key, value) => drop(records.insert(key.clone(), value.to_vec())),
            Op::Delete(key) => drop(records.remove(key)),
        }
    }
}

async fn read_returns_the_prefix_in_order(engine: &impl Engine, at: &str) {
    begin("read_returns_the_prefix_in_order");
    let key = |name: &str| format!("{at}{name}");
    let none = within(engine.read(&key("p/")), "the answer to a read").await.expect("the engine answers");
    assert_eq!(none.entries, []);
    let first =
        done(engine, &[], &[put(key("p/b"), "2"), put(key("p/"), "0"), put(key("p0"), "-"), put(key("o"), "-")]).await;
    let second = done(engine, &[], &[put(key("p/a"), "1")]).await;
    let read = within(engine.read(&key("p/")), "the answer to a read").await.expect("the engine answers");
    let entries: Vec<_> = read.entries.iter().map(|entry| (&*entry.key, &*entry.value, entry.revision)).collect();
    let (none, a, b) = (key("p/"), key("p/a"), key("p/b"));
    assert_eq!(entries, [(&*none, &b"0"[..], first), (&*a, b"1", second), (&*b, b"2", first)]);
    assert!(read.revision >= second && none.len() > at.len());
}

async fn commit_holds_to_its_conditions(engine: &impl Engine, at: &str) {
    begin("commit_holds_to_its_conditions");
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    let first = done(engine, &[(a.clone(), Expect::Absent)], &[put(&a, "1")]).await;
    let later = Revision(first.0 + 1);
    for (expect, value) in [(Expect::Absent, "x"), (Expect::At(later), "y"), (Expect::At(Revision(first.0 - 1)), "z")] {
        let refused = engine.commit(&[(a.clone(), expect)], &[put(&a, value)]).await;
        assert_eq!(refused, Ok(Commit::Conflict), "{expect:?}");
    }
    let both = [(a.clone(), Expect::At(first)), (b.clone(), Expect::Absent)];
    let second = done(engine, &both, &[put(&a, "2")]).await;
    assert!(second > first);
    // The same conditions never hold again.
    assert_eq!(engine.commit(&both, &[put(&a, "3")]).await, Ok(Commit::Conflict));
    assert_eq!(engine.commit(&[(b.clone(), Expect::At(second))], &[put(&a, "3")]).await, Ok(Commit::Conflict));
    done(engine, &[(a.clone(), Expect::At(second))], &[delete(&a)]).await;
    assert_eq!(engine.commit(&[(a.clone(), Expect::At(second))], &[put(&a, "4")]).await, Ok(Commit::Conflict));
    done(engine, &[(a.clone(), Expect::Absent)], &[]).await;
}

async fn commit_does_all_or_nothing(engine: &impl Engine, at: &str) {
    begin("commit_does_all_or_nothing");
    let (a, b, c) = (format!("{at}a"), format!("{at}b"), format!("{at}c"));
    let first = done(engine, &[], &[put(&a, "1"), put(&b, "1")]).await;
    let before = contents(engine, at).await;
    let when = [(a.clone(), Expect::At(first)), (c.clone(), Expect::At(first))];
    let outcome = engine.commit(&when, &[put(&a, "2"), delete(&b), put(&c, "2")]).await;
    assert_eq!(outcome, Ok(Commit::Conflict));
    assert_eq!(contents(engine, at).await, before);
    let second = done(engine, &when[..1], &[put(&a, "2"), delete(&b), put(&c, "2")]).await;
    let read = within(engine.read(at), "the answer to a read").await.expect("the engine answers");
    let entries: Vec<_> = read.entries.iter().map(|entry| (&*entry.key, entry.revision)).collect();
    assert_eq!(entries, [(&*a, second), (&*c, second)]);
}

async fn revisions_grow_with_each_change(engine: &impl Engine, at: &str) {
    begin("revisions_grow_with_each_change");
    let key = format!("{at}a");
    let first = done(engine, &[], &[put(&key, "same")]).await;
    let second = done(engine, &[], &[put(&key, "same")]).await;
    assert!(second > first, "a put of the same value is a change");
    // To delete what is absent changes nothing.
    assert!(done(engine, &[], &[delete(format!("{at}absent"))]).await <= second);
    assert!(done(engine, &[], &[]).await <= second);
    let third = done(engine, &[], &[delete(&key), delete(format!("{at}absent"))]).await;
    assert!(third > second);
    let watched = changes(engine, at, first, 2).await;
    let expected = [(second, vec![put(&key, "same")]), (third, vec![delete(&key)])];
    assert_eq!(watched, expected.map(|(revision, ops)| Change { revision, ops }));
}

async fn bad_commits_are_refused(engine: &impl Engine, at: &str) {
    begin("bad_commits_are_refused");
    let key = |number: usize| format!("{at}{number}");
    let most = engine.most_ops();
    let too_many: Vec<_> = (0..=most).map(|number| put(key(number), "")).collect();
    let conditions: Vec<_> = (0..=most).map(|number| (key(number), Expect::Absent)).collect();
    let twice = [put(key(0), "1"), delete(key(0))];
    for (when, then) in [(&[][..], &too_many[..]), (&conditions, &[]), (&[], &twice)] {
        let refused = within(engine.commit(when, then), "the refusal").await;
        assert!(matches!(refused, Err(EngineError::Refused(_))), "{refused:?}");
    }
    assert_eq!(contents(engine, at).await, BTreeMap::new());
}

async fn full_commit_is_done(engine: &impl Engine, at: &str) {
    begin("full_commit_is_done");
    let most = engine.most_ops();
    assert!(most >= 8);
    let keys: Vec<_> = (0..most).map(|number| format!("{at}{number:04}")).collect();
    let when: Vec<_> = keys.iter().map(|key| (key.clone(), Expect::Absent)).collect();
    let then: Vec<_> = keys.iter().map(|key| put(key, [b'v'; 100])).collect();
    let revision = done(engine, &when, &then).await;
    let read = within(engine.read(at), "the answer to a read").await.expect("the engine answers");
    assert_eq!(read.entries.len(), most);
    assert!(read.entries.iter().all(|entry| entry.revision == revision));
}

async fn bytes_are_kept(engine: &impl Engine, at: &str) {
    begin("bytes_are_kept");
    let all: Vec<u8> = (0..=255).collect();
    let revision = done(engine, &[], &[put(format!("{at}ключ"), &all), put(format!("{at}empty"), "")]).await;
    let expected = [(format!("{at}ключ"), all.clone()), (format!("{at}empty"), Vec::new())];
    assert_eq!(contents(engine, at).await, expected.clone().into());
    let mut watched = BTreeMap::new();
    apply(&mut watched, &changes(engine, at, Revision(revision.0 - 1), 1).await[0]);
    assert_eq!(watched, expected.into());
}

async fn acknowledged_commit_is_read_elsewhere<E: Engine>(clients: &[E], at: &str) {
    begin("acknowledged_commit_is_read_elsewhere");
    for round in 0..50 {
        let value = format!("{round}");
        let revision = done(&clients[round % clients.len()], &[], &[put(format!("{at}a"), &value)]).await;
        for client in clients {
            let read = within(client.read(at), "the answer to a read").await.expect("the engine answers");
            assert_eq!((&*read.entries[0].value, read.entries[0].revision), (value.as_bytes(), revision));
            assert!(read.revision >= revision);
        }
    }
}

async fn watch_yields_commits_whole_and_in_order(engine: &impl Engine, at: &str) {
    begin("watch_yields_commits_whole_and_in_order");
    let key = |name: &str| format!("{at}w/{name}");
    let outside = || put(format!("{at}outside"), "");
    let start = done(engine, &[], &[outside()]).await;
    let inside = key("");
    let mut watch = pin!(engine.watch(&inside, start));
    let mut expected = Vec::new();
    for round in 0..20 {
        let ops = match round % 4 {
            0 => vec![put(key("a"), "1"), put(key("b"), "1")],
            1 => vec![put(key("a"), "2")],
            2 => vec![delete(key("a")), put(key("c"), "1")],
            _ => vec![delete(key("b")), delete(key("c"))],
        };
        done(engine, &[], &[outside()]).await;
        let then: Vec<_> = ops.iter().cloned().chain([outside()]).collect();
        let revision = done(engine, &[], &then).await;
        expected.push(Change { revision, ops });
        if round % 3 == 0 {
            // Both while the watch waits and while it lags.
            for expected in expected.drain(..) {
                let mut change = within(watch.next(), "a change").await.expect("no end").expect("no error");
                change.ops.sort_by(|one, other| one.key().cmp(other.key()));
                assert_eq!(change, expected);
            }
        }
    }
}

async fn watch_resumes_from_every_revision(engine: &impl Engine, at: &str) {
    begin("watch_resumes_from_every_revision");
    let start = within(engine.read(at), "the answer to a read").await.expect("the engine answers").revision;
    for round in 0..12 {
        let op = if round % 3 == 2 { delete(format!("{at}a")) } else { put(format!("{at}a"), format!("{round}")) };
        done(engine, &[], &[op]).await;
    }
    let whole = changes(engine, at, start, 12).await;
    for (index, change) in whole.iter().enumerate().take(11) {
        assert_eq!(changes(engine, at, change.revision, 11 - index).await, whole[index + 1..]);
    }
}

async fn watch_yields_what_is_large(engine: &impl Engine, at: &str) {
    begin("watch_yields_what_is_large");
    let most = engine.most_ops();
    let start = within(engine.read(at), "the answer to a read").await.expect("the engine answers").revision;
    let mut expected = BTreeMap::new();
    for round in 0..4_u8 {
        // Just below the size of a request that etcd accepts: 1.5 MiB.
        let then: Vec<_> =
            (0..most).map(|number| put(format!("{at}{round}-{number:03}"), vec![round; 15_000])).collect();
        done(engine, &[], &then).await;
        expected.extend(then.into_iter().map(|op| match op {
            Op::Put(key, value) => (key, value.to_vec()),
            Op::Delete(_) => unreachable!("only puts"),
        }));
    }
    assert!(contents(engine, at).await == expected, "the read lost a part of 6 MB");
    let mut watched = BTreeMap::new();
    for change in changes(engine, at, start, 4).await {
        assert_eq!(change.ops.len(), most, "a commit was split");
        apply(&mut watched, &change);
    }
    assert!(watched == expected, "the watch lost a part of 6 MB");
}

async fn watch_from_a_snapshot_misses_nothing<E: Engine + Clone>(clients: &[E], at: &str) {
    begin("watch_from_a_snapshot_misses_nothing");
    let writers = clients.iter().cycle().take(4).cloned().enumerate().map(|(writer, engine)| {
        let at = at.to_owned();
        tokio::spawn(async move {
            for round in 0..50 {
                let key = format!("{at}{}", (writer * 7 + round) % 10);
                let op = if round % 5 == 4 { delete(key) } else { put(key, format!("{writer}-{round}")) };
                done(&engine, &[], &[op, put(format!("{at}last-{writer}"), format!("{round}"))]).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let ends: Vec<_> = (0..4).map(|writer| format!("{at}last-{writer}")).collect();
    let watchers = (0..8).map(|watcher| {
        let engine = clients[watcher % clients.len()].clone();
        let (at, ends) = (at.to_owned(), ends.clone());
        tokio::spawn(async move {
            let snapshot = within(engine.read(&at), "a snapshot").await.expect("the engine answers");
            let mut records: BTreeMap<_, _> =
                snapshot.entries.into_iter().map(|entry| (entry.key, entry.value.to_vec())).collect();
            let mut watch = pin!(engine.watch(&at, snapshot.revision));
            let mut last = snapshot.revision;
            while !ends.iter().all(|end| records.get(end).is_some_and(|value| value == b"49")) {
                let change = within(watch.next(), "the end of the writers").await.expect("no end").expect("no error");
                assert!(change.revision > last, "{:?} after {last:?}", change.revision);
                last = change.revision;
                apply(&mut records, &change);
            }
            records
        })
    });
    let watchers: Vec<_> = watchers.collect();
    for writer in writers {
        within(writer, "a writer").await.expect("the writer succeeds");
    }
    let end = contents(&clients[0], at).await;
    for watcher in watchers {
        assert_eq!(within(watcher, "a watcher").await.expect("the watcher succeeds"), end);
    }
}

/// Increments the number of a key on the condition that it is the one that was read.
async fn increment(engine: &impl Engine, key: &str) -> Result<Option<Revision>, EngineError> {
    let read = engine.read(key).await?;
    let (when, number) = match read.entries.first() {
        None => (Expect::Absent, 0),
        Some(entry) => (
            Expect::At(entry.revision),
            std::str::from_utf8(&entry.value).expect("text").parse::<u64>().expect("a number"),
        ),
    };
    let outcome = engine.commit(&[(key.to_owned(), when)], &[put(key, (number + 1).to_string())]).await?;
    Ok(match outcome {
        Commit::Done(revision) => Some(revision),
        Commit::Conflict => None,
    })
}

async fn number(engine: &impl Engine, key: &str) -> usize {
    let records = contents(engine, key).await;
    records.get(key).map_or(0, |value| std::str::from_utf8(value).expect("text").parse().expect("a number"))
}

async fn increments_are_never_lost<E: Engine + Clone>(clients: &[E], at: &str) {
    begin("increments_are_never_lost");
    let key = format!("{at}n");
    let tasks = clients.iter().cycle().take(6).cloned().map(|engine| {
        let key = key.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for _ in 0..30 {
                revisions.extend(increment(&engine, &key).await.expect("the engine answers"));
            }
            revisions
        })
    });
    let mut revisions = Vec::new();
    for done in future::join_all(tasks.collect::<Vec<_>>()).await {
        revisions.extend(done.expect("the task succeeds"));
    }
    assert_eq!(number(&clients[0], &key).await, revisions.len());
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(number(&clients[0], &key).await, revisions.len(), "two commits have one revision");
}

async fn dropped_commits_are_done_once_or_never<E: Engine + Clone>(clients: &[E], at: &str) {
    begin("dropped_commits_are_done_once_or_never");
    let engine = &clients[0];
    let key = |number: usize| format!("{at}{number:03}");
    for number in 0..100 {
        let then = [put(key(number), "1")];
        let when = [(key(number), Expect::Absent)];
        let mut commit = Box::pin(engine.commit(&when, &then));
        for _ in 0..number % 7 {
            if commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // A commit that is still on its way meets a condition that does not hold any more.
    let mut dones = 0;
    for number in 0..100 {
        let repeated = engine.commit(&[(key(number), Expect::Absent)], &[put(key(number), "2")]).await;
        dones += usize::from(matches!(repeated, Ok(Commit::Done(_))));
    }
    assert!(dones >= 15, "a commit that was never polled is not done");
    let records = contents(engine, at).await;
    assert_eq!(records.values().filter(|value| *value == b"2").count(), dones);
    assert_eq!(records.len(), 100);
}

async fn compaction_ends_older_watches_only(engine: &impl Engine, at: &str) {
    begin("compaction_ends_older_watches_only");
    let key = format!("{at}a");
    let mut revisions = Vec::new();
    for round in 0..9 {
        let op = if round % 3 == 2 { delete(&key) } else { put(&key, format!("{round}")) };
        revisions.push(done(engine, &[], &[op]).await);
    }
    let whole = changes(engine, at, revisions[0], 8).await;
    // Before a put, and before a delete.
    for (compacted, &before) in revisions.iter().enumerate().skip(3).take(4) {
        within(engine.compact(before), "a compaction").await.expect("the engine compacts");
        within(engine.compact(before), "a compaction").await.expect("the same again has no effect");
        within(engine.compact(revisions[0]), "a compaction").await.expect("an older one has no effect");
        assert_eq!(changes(engine, at, before, 8 - compacted).await, whole[compacted..]);
        for &older in &revisions[..compacted] {
            let mut watch = pin!(engine.watch(at, older));
            let ended = within(watch.next(), "the end of a watch").await;
            assert_eq!(ended, Some(Err(WatchError::Compacted { oldest: before })));
            assert_eq!(within(watch.next(), "the end of a watch").await, None);
        }
    }
    let end = within(engine.read(at), "the answer to a read").await.expect("the engine answers").revision;
    let future = within(engine.compact(Revision(end.0 + 1_000)), "a compaction").await;
    assert!(matches!(future, Err(EngineError::Refused(_))), "{future:?}");
    assert_eq!(contents(engine, at).await.len(), 0);
}
