//! What is bounded: writes under way, the disk under a long history, what a broken snapshot costs.

mod common;

use std::time::Duration;

use common::{Cluster, SOON, bytes_below, until};
use futures::future::join_all;
use swarmer_model::{Coded as _, NodeId};
use swarmer_raft::{RaftError, Txn, codes};

/// More writes at once than a node lets in.
const TOO_MANY: usize = 4200;
const LET_IN: usize = 4096;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_beyond_the_bound_are_sent_away_at_once_and_the_rest_is_as_before() {
    let mut cluster = Cluster::tuned(3, |config| {
        // The leader that is cut off goes on to believe in its quorum for the while.
        config.timing.election_min *= 10;
        config.timing.election_max *= 10;
    })
    .await;
    let leader = cluster.leader().await;
    cluster.put(leader.0, "before", "x").await;
    cluster.net.isolate(leader);
    let handle = cluster.handle(leader.0);
    let writes = (0..TOO_MANY).map(|i| {
        let txn = Txn::new().put(format!("k/{i}"), "x");
        handle.write(txn, Duration::from_secs(1))
    });
    let outcomes = join_all(writes).await;
    let busy = outcomes.iter().filter(|outcome| **outcome == Err(RaftError::Busy)).count();
    assert_eq!(busy, TOO_MANY - LET_IN);
    // Those that came first were let in.
    assert!(outcomes[..LET_IN].iter().all(|outcome| *outcome != Err(RaftError::Busy)));
    assert!(outcomes.iter().all(Result::is_err), "none could be acknowledged");
    assert_eq!(RaftError::Busy.code(), codes::BUSY);
    assert_eq!(handle.refused_writes(), busy as u64);
    cluster.net.heal();
    cluster.put(leader.0, "after", "x").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_the_same_time_share_barriers_and_see_what_was_acknowledged() {
    const READERS: usize = 500;
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = cluster.nodes.keys().copied().find(|node| *node != leader).unwrap();
    for round in 0..3 {
        let acknowledged = cluster.put(leader.0, &format!("k/{round}"), "x").await;
        let before = cluster.net.barriers();
        let reads = (0..READERS).map(|_| async {
            let handle = cluster.handle(other.0);
            let revision = handle.read_index(SOON).await.unwrap();
            assert!(revision >= acknowledged);
            assert!(handle.view().get(&format!("k/{round}")).is_some(), "not seen yet");
        });
        join_all(reads).await;
        let barriers = cluster.net.barriers() - before;
        assert!((1..READERS / 10).contains(&barriers), "{barriers} barriers for {READERS} readers");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_keeps_the_disk_bounded_by_bytes() {
    const SNAPSHOT_BYTES: u64 = 1 << 20;
    const KEEP_BYTES: u64 = 1 << 20;
    const SEGMENT: u64 = 4 << 20;
    /// What is between two snapshots and what stays below one, in whole segments, with the one
    /// that is written to, the one that comes next and one that is being removed.
    const BOUND: u64 = SNAPSHOT_BYTES + KEEP_BYTES + 4 * SEGMENT;
    let mut cluster = Cluster::tuned(1, |config| {
        config.applied_dir = None;
        config.snapshot_log_bytes = SNAPSHOT_BYTES;
        config.log_keep_bytes = KEEP_BYTES;
        // By their number none of the entries would ever go.
        config.log_keep_entries = 1_000_000;
    })
    .await;
    let log = cluster.path(NodeId(1)).join("log");
    let mut written = 0;
    let mut most = 0;
    while written < 3 * BOUND {
        let mut txn = Txn::new();
        for key in 0..25 {
            txn = txn.put(format!("k/{key}"), vec![written as u8; 8000]);
            written += 8000;
        }
        cluster.handle(1).write(txn, SOON).await.unwrap();
        most = most.max(bytes_below(&log));
    }
    until("the last entries are dropped", || bytes_below(&log) <= BOUND).await;
    println!("{written} bytes were written, at most {most} were on the disk");
    assert!(most <= 2 * BOUND, "{most} bytes of a log that is bounded by {BOUND}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_due_while_another_is_made_is_made_too() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(1);
    for i in 0..40 {
        let mut txn = Txn::new();
        for key in 0..25 {
            txn = txn.put(format!("k/{i}/{key}"), vec![i as u8; 8000]);
        }
        handle.write(txn, SOON).await.unwrap();
    }
    for round in 0..5 {
        let late = async {
            handle.write(Txn::new().put("late", format!("{round}")), SOON).await.unwrap();
            handle.snapshot_now(SOON).await
        };
        let (first, late) = futures::join!(handle.snapshot_now(SOON), late);
        assert_eq!((first, late), (Ok(()), Ok(())), "round {round}");
        handle.write(Txn::new().put("between", format!("{round}")), SOON).await.unwrap();
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_broke_off_goes_on_where_it_stopped() {
    const MIB: usize = 1 << 20;
    let mut cluster = Cluster::tuned(3, |config| config.log_keep_entries = 5).await;
    let leader = cluster.leader().await;
    let lagging = cluster.nodes.keys().copied().find(|node| *node != leader).unwrap();
    cluster.net.isolate(lagging);
    let mut revision = 0;
    for i in 0..110 {
        let mut txn = Txn::new().put(format!("k/{i}"), "x");
        // Enough bytes, and then enough entries for the log to be purged.
        for key in 0..if i < 40 { 25 } else { 0 } {
            txn = txn.put(format!("k/{i}/{key}"), vec![i as u8; 8000]);
        }
        let outcome = cluster.handle(leader.0).write(txn, SOON).await.unwrap();
        assert!(matches!(outcome, swarmer_raft::Outcome::Committed { .. }));
        revision += 1;
    }
    cluster.handle(leader.0).snapshot_now(SOON).await.unwrap();
    let purged = || cluster.handle(leader.0).purged_index() > Some(60);
    until("the log is purged", purged).await;
    cluster.net.break_snapshot_after(6 * MIB);
    cluster.net.heal();
    cluster.settle(revision).await;
    assert!(cluster.net.snapshot_broke(), "nothing was broken off");
    // Eight mebibytes of state; from zero it would have been six more.
    let sent = cluster.net.snapshot_bytes();
    assert!((7 * MIB..10 * MIB).contains(&sent), "{sent} bytes were sent");
    cluster.stop_all().await;
}
