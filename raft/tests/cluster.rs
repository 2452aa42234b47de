//! Three and more voters in one process, on real disks, with a network that is cut.

mod common;

use std::{
    collections::BTreeSet,
    future::Future as _,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Cluster, Form, SOON, until};
use futures::StreamExt as _;
use swarmer_model::{Coded, NodeId, wire};
use swarmer_raft::{Expect, Outcome, RaftError, Role, Txn, codes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_through_any_node_and_conflicts_are_told() {
    let mut cluster = Cluster::start(3).await;
    for node in 1..=3 {
        cluster.put(node, &format!("a/{node}"), "x").await;
    }
    cluster.settle(3).await;
    let revision = cluster.handle(2).read_index(SOON).await.unwrap();
    assert_eq!(revision, 3);
    let entry = cluster.handle(2).view().get("a/1").unwrap();
    assert_eq!((entry.revision, entry.created), (1, 1));
    let txn = Txn::new().check("a/1", Expect::At(2)).put("a/1", "y");
    let outcome = cluster.handle(3).write(txn, SOON).await.unwrap();
    let conflict = Outcome::Conflict { key: "a/1".to_owned(), found: Some(1), revision: 3 };
    assert_eq!(outcome, conflict);
    let bad = Txn::new().put("a/1", vec![0; 9000]);
    assert_eq!(cluster.handle(3).write(bad, SOON).await.unwrap_err().code(), codes::INVALID);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_lost_answer_is_applied_once() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = (1..=3).find(|id| NodeId(*id) != leader).unwrap();
    cluster.net.lose_answers(2);
    let revision = cluster.put(other, "k", "v").await;
    assert_eq!(revision, 1);
    cluster.put(other, "l", "v").await;
    cluster.settle(2).await;
    let txn = Txn::new().put("m", "v");
    let first = cluster.handle(1).write(txn.clone(), SOON).await.unwrap();
    let again = cluster.handle(2).write(txn, SOON).await.unwrap();
    assert_eq!(first, again);
    cluster.settle(3).await;
    cluster.stop_all().await;
}

/// So many writes at once through one node; each must be committed, each under a revision of its own.
async fn write_at_once(cluster: &Cluster, node: u64, round: &str, count: usize) {
    let handle = cluster.handle(node);
    let puts = (0..count).map(|i| {
        let txn = Txn::new().put(format!("{round}/{i}"), "v");
        handle.write(txn, SOON)
    });
    let mut revisions = BTreeSet::new();
    for outcome in futures::future::join_all(puts).await {
        let Ok(Outcome::Committed { revision }) = outcome else { panic!("{round}: {outcome:?}") };
        assert!(revisions.insert(revision), "{round}: {revision} twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_to_an_older_leader_alone_and_to_a_newer_one_together() {
    let (mut cluster, leader) = steady().await;
    let other = (1..=3).find(|id| NodeId(*id) != leader).unwrap();
    let old = wire::MANY_WRITES - 1;
    cluster.net.speaks(leader, old);
    write_at_once(&cluster, other, "leader", 20).await;
    assert_eq!(cluster.net.writes_to(leader), [Form::Alone; 20]);
    cluster.net.speaks(leader, wire::NEWEST);
    write_at_once(&cluster, other, "none", 20).await;
    let forms = cluster.net.writes_to(leader);
    assert!(forms.len() < 20 && forms.iter().all(|form| *form == Form::Together), "{forms:?}");
    cluster.net.speaks(NodeId(other), old);
    write_at_once(&cluster, other, "follower", 20).await;
    assert_eq!(cluster.net.writes_to(leader), [Form::Alone; 20]);
    cluster.settle(61).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_older_than_it_was_loses_no_write_and_gets_none_twice() {
    let (mut cluster, leader) = steady().await;
    let other = (1..=3).find(|id| NodeId(*id) != leader).unwrap();
    cluster.net.speaks(leader, wire::MANY_WRITES - 1);
    cluster.net.overrate(leader);
    write_at_once(&cluster, other, "older", 20).await;
    let forms = cluster.net.writes_to(leader);
    assert!(forms.len() >= 20 && forms.iter().all(|form| *form == Form::Alone), "{forms:?}");
    cluster.settle(21).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_leader_and_the_old_one_refuses() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        cluster.put(1, &format!("before/{i}"), "x").await;
    }
    let old = cluster.leader().await;
    let rest: Vec<NodeId> = cluster.nodes.keys().copied().filter(|n| *n != old).collect();
    cluster.net.isolate(old);
    for i in 0..20 {
        cluster.put(rest[i % 2].0, &format!("after/{i}"), "x").await;
    }
    let short = Duration::from_millis(1200);
    let refused = cluster.handle(old.0).read_index(short).await.unwrap_err();
    assert_eq!(refused.code(), codes::NO_QUORUM, "{refused}");
    let refused = cluster.handle(old.0).write(Txn::new().put("lost", "x"), short).await;
    assert_eq!(refused.unwrap_err().code(), codes::NO_QUORUM);
    cluster.net.heal();
    cluster.settle(40).await;
    let revision = cluster.handle(old.0).read_index(SOON).await.unwrap();
    assert_eq!(revision, 40);
    assert_eq!(cluster.handle(old.0).view().list("after/").1.len(), 20);
    assert_eq!(cluster.handle(old.0).view().get("lost"), None);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_before_a_first_answer_knows_that_it_has_no_quorum() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "k", "v").await;
    let old = cluster.leader().await;
    let rest: Vec<NodeId> = cluster.nodes.keys().copied().filter(|n| *n != old).collect();
    cluster.net.refuse_channels();
    cluster.net.isolate(old);
    let leads = |id: &NodeId| cluster.handle(id.0).status().role == Role::Leader;
    until("another one is elected", || rest.iter().any(leads)).await;
    cluster.net.cut(rest[0], rest[1]);
    let has_quorum = |id: &NodeId| cluster.handle(id.0).status().quorum_ok;
    until("nobody says that there is a quorum", || !rest.iter().any(has_quorum)).await;
    cluster.net.heal();
    cluster.put(1, "k", "w").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_partition_leaves_a_leader_to_the_connected_majority() {
    let mut cluster = Cluster::start(5).await;
    let old = cluster.leader().await;
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|n| *n != old).collect();
    // The old leader reaches the bridge only; the bridge and two others are a majority.
    let bridge = others[0];
    let majority = [bridge, others[1], others[2]];
    cluster.net.isolate(old);
    cluster.net.isolate(others[3]);
    {
        cluster.net.heal();
        for node in &others[1..] {
            cluster.net.cut(old, *node);
        }
        for node in [old, bridge, others[1], others[2]] {
            cluster.net.cut(others[3], node);
        }
    }
    let leader = cluster.leader_of(&majority).await;
    assert!(majority.contains(&leader));
    cluster.put(others[1].0, "k", "v").await;
    cluster.net.heal();
    cluster.settle(1).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_come_back_from_disk_with_and_without_their_keyspace() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..50 {
        cluster.put(1, &format!("k/{i}"), "x").await;
    }
    cluster.settle(50).await;
    let (_, before) = cluster.handle(1).view().position();
    cluster.handle(2).snapshot_now(SOON).await.unwrap();
    cluster.put(1, "k/last", "x").await;
    cluster.settle(51).await;
    let (_, chain) = cluster.handle(1).view().position();
    assert_ne!(before, chain);
    cluster.stop_all().await;
    assert!(cluster.path(NodeId(1)).join("applied/CLEAN").exists());
    // One loses its keyspace, one its marker, one keeps all.
    std::fs::remove_dir_all(cluster.path(NodeId(2)).join("applied")).unwrap();
    std::fs::remove_file(cluster.path(NodeId(3)).join("applied/CLEAN")).unwrap();
    for id in 1..=3 {
        cluster.open(NodeId(id)).await;
        let (revision, found) = cluster.handle(id).view().position();
        assert_eq!((id, revision, found), (id, 51, chain));
        assert!(!cluster.path(NodeId(id)).join("applied/CLEAN").exists());
    }
    assert_eq!(cluster.put(3, "more", "x").await, 52);
    cluster.settle(52).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_node_gets_a_snapshot_and_the_log_is_purged() {
    let mut cluster = Cluster::tuned(3, |config| {
        config.log_keep_entries = 5;
        config.snapshot_log_bytes = 64 * 1024;
    })
    .await;
    let leader = cluster.leader().await;
    let lagging = (1..=3).find(|id| NodeId(*id) != leader).unwrap();
    let handle = cluster.handle(lagging);
    let mut watch = handle.view().watch(None, "").unwrap();
    cluster.net.isolate(NodeId(lagging));
    let value = "v".repeat(4000);
    for i in 0..130 {
        cluster.put(leader.0, &format!("k/{}", i % 40), &value).await;
    }
    let txn = Txn::new().put("once", "1");
    let first = cluster.handle(leader.0).write(txn.clone(), SOON).await.unwrap();
    cluster.handle(leader.0).snapshot_now(SOON).await.unwrap();
    let purged = async {
        while cluster.handle(leader.0).purged_index() < Some(60) {
            let mut leadership = cluster.handle(leader.0).subscribe_leadership();
            let _ = tokio::time::timeout(Duration::from_millis(50), leadership.changed()).await;
        }
    };
    tokio::time::timeout(SOON, purged).await.expect("purged");
    cluster.net.heal();
    cluster.settle(131).await;
    assert_eq!(handle.view().list("k/").1.len(), 40);
    assert!(matches!(watch.next().await, Err(swarmer_raft::WatchEnd::Compacted { .. })));
    // De-duplication came with the snapshot.
    cluster.handle(lagging).transfer_leader(NodeId(lagging), Duration::from_millis(50)).await.ok();
    assert_eq!(handle.write(txn, SOON).await.unwrap(), first);
    cluster.settle(131).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_join_voters_change_and_leadership_moves() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "k", "v").await;
    cluster.open(NodeId(4)).await;
    let leader = cluster.leader_of(&[1, 2, 3].map(NodeId)).await;
    let other = (1..=3).find(|id| NodeId(*id) != leader).unwrap();
    let refused = cluster.handle(other).add_learner(NodeId(4), SOON).await.unwrap_err();
    assert_eq!(refused, RaftError::NotLeader { leader: Some(leader) });
    let voters = [leader, NodeId(other), NodeId(4)].into_iter().collect();
    cluster.handle(leader.0).change_voters(voters, SOON).await.unwrap();
    let status = cluster.handle(leader.0).status();
    assert_eq!(status.voters, [leader, NodeId(other), NodeId(4)].into_iter().collect());
    assert!(status.quorum_ok);
    cluster.handle(leader.0).transfer_leader(NodeId(4), SOON).await.unwrap();
    cluster.handle(4).view().wait_for(1, SOON).await.unwrap();
    assert_eq!(cluster.put(4, "l", "v").await, 2);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_ordered_complete_and_without_duplicates_across_leaders() {
    let mut cluster = Cluster::start(3).await;
    let mut watches: Vec<_> =
        (1..=3).map(|id| cluster.handle(id).view().watch(Some(0), "k/").unwrap()).collect();
    for i in 0..10 {
        cluster.put(1, &format!("k/{i}"), "x").await;
        cluster.put(1, &format!("other/{i}"), "x").await;
    }
    let old = cluster.leader().await;
    cluster.net.isolate(old);
    let live = (1..=3).find(|id| NodeId(*id) != old).unwrap();
    for i in 10..20 {
        cluster.put(live, &format!("k/{i}"), "x").await;
    }
    cluster.net.heal();
    for watch in &mut watches {
        for i in 0..20 {
            let item = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap();
            assert_eq!(item.events.len(), 1);
            assert_eq!(item.events[0].key, format!("k/{i}"));
        }
        assert_eq!(watch.seen(), 30);
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_others_or_of_nonsense_are_refused() {
    let mut cluster = Cluster::start(1).await;
    for body in [&b""[..], &[9, 1, 2], &[2, 0xff, 0xff], &[2, 1, 200]] {
        let error =
            cluster.handle(1).handle_message(NodeId(9), wire::NEWEST, body.to_vec().into()).await;
        assert_eq!(error.unwrap_err().code(), codes::BAD_MESSAGE);
    }
    let wrong = vec![2, 7, 5, 5].into();
    let wrong = cluster.handle(1).handle_message(NodeId(9), wire::NEWEST, wrong).await;
    let expected = RaftError::WrongNode { intended: NodeId(7), actual: NodeId(1) };
    assert_eq!(wrong.unwrap_err(), expected);
    // An empty AppendEntries: to whom, the leader's term, id and committed mark, and three
    // times nothing. Sent for the right node by its leader it is answered.
    let append = |to, leader| Bytes::from(vec![2, to, 1, leader, 1, 0, 0, 0]);
    let serve = async |messages: Vec<Bytes>| -> Vec<_> {
        let messages = futures::stream::iter(messages);
        cluster.handle(1).serve_appends(NodeId(9), messages).collect().await
    };
    let answers = serve(vec![append(1, 9)]).await;
    assert!(matches!(&answers[..], [Ok(_)]), "{answers:?}");
    let answers = serve(vec![append(7, 9), append(1, 9)]).await;
    assert_eq!(answers, [Err(expected)]);
    let answers = serve(vec![append(1, 8), append(1, 9)]).await;
    let [Err(forged)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(forged.code(), codes::BAD_MESSAGE);
    // Many writes, none of them here, in a message: not by a stream of a version that has no such thing.
    for (version, is_taken) in [(wire::OLDEST, false), (wire::MANY_WRITES, true)] {
        let many = Bytes::from_static(&[2, 1, 6, 0]);
        let answer = cluster.handle(1).handle_message(NodeId(9), version, many).await;
        assert_eq!(answer.is_ok(), is_taken, "{version}: {answer:?}");
    }
    let answers = serve(vec![Bytes::from_static(&[2, 1, 200])]).await;
    assert!(matches!(&answers[..], [Err(RaftError::BadMessage(_))]), "{answers:?}");
    cluster.stop_all().await;
}

/// Voters that a busy machine does not drive to an election: the test is of what lasts.
async fn steady() -> (Cluster, NodeId) {
    let cluster = Cluster::tuned(3, |config| {
        config.timing.election_min *= 10;
        config.timing.election_max *= 10;
    })
    .await;
    let leader = cluster.leader().await;
    let revision = cluster.put(leader.0, "a", "x").await;
    cluster.settle(revision).await;
    (cluster, leader)
}

/// Waits until every voter has answered the leader so often: heartbeats, if there is nothing else.
async fn answers(cluster: &Cluster, leader: NodeId, count: u64) {
    let answered = || -> Vec<u64> {
        let all = cluster.handle(leader.0).append_latencies();
        all.iter().map(|(_, latency)| latency.buckets.iter().sum()).collect()
    };
    let before = answered();
    until("each voter answered", || {
        answered().iter().zip(&before).all(|(now, before)| now - before >= count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_one_channel_for_heartbeats_and_one_for_entries_to_each_voter() {
    let (mut cluster, leader) = steady().await;
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|n| *n != leader).collect();
    let both = || others.iter().all(|voter| cluster.net.open_now(leader, *voter) == 2);
    until("both channels to each voter are open", both).await;
    let opened = cluster.net.opened();
    let mut revision = 0;
    for i in 0..20 {
        revision = cluster.put(leader.0, &format!("k/{i}"), "x").await;
    }
    cluster.settle(revision).await;
    // From here on there is nothing to send but heartbeats.
    answers(&cluster, leader, 8).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.net.opened(), opened, "a channel was not kept");
    assert!(both());
    cluster.stop_all().await;
}

/// Whether it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_no_news_of_who_leads() {
    let (mut cluster, leader) = steady().await;
    let mut told = Vec::new();
    for node in 1..=3 {
        let mut leadership = cluster.handle(node).subscribe_leadership();
        told.push(tokio::spawn(async move {
            let mut before = leadership.borrow_and_update().clone();
            let mut same = 0;
            while leadership.changed().await.is_ok() {
                let now = leadership.borrow_and_update().clone();
                same += u64::from(now == before);
                before = now;
            }
            same
        }));
    }
    // For longer than a node goes without a look at who leads.
    let begin = Instant::now();
    let mut count = 0;
    while count < 50 || begin.elapsed() < Duration::from_millis(500) {
        count += 1;
        cluster.put(leader.0, "k", &count.to_string()).await;
    }
    cluster.stop_all().await;
    drop(cluster);
    for told in told {
        let same = tokio::time::timeout(SOON, told).await.unwrap().unwrap();
        assert_eq!(same, 0, "woken for what stayed as it was");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_end_or_for_news_is_not_woken_by_heartbeats() {
    let (mut cluster, leader) = steady().await;
    // Each engine tells all that it knows before it answers the next heartbeats.
    answers(&cluster, leader, 3).await;
    for node in 1..=3 {
        let handle = cluster.handle(node);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let (mut fatal, mut leadership) = (pin!(handle.fatal()), handle.subscribe_leadership());
        // What happened before is news once.
        let settled = leadership.wait_for(|now| now.quorum_ok && now.leader.is_some());
        drop(tokio::time::timeout(SOON, settled).await.unwrap().unwrap());
        let mut news = pin!(leadership.changed());
        assert!(fatal.as_mut().poll(&mut context).is_pending());
        assert!(news.as_mut().poll(&mut context).is_pending());
        answers(&cluster, leader, 4).await;
        assert!(!woken.0.load(Ordering::SeqCst), "node {node} woke who had nothing to do");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_channel_is_opened_again_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    let failed = || {
        let all = cluster.handle(leader.0).append_latencies();
        all.iter().find(|(node, _)| *node == other).map(|(_, latency)| latency.unanswered)
    };
    for round in 0..5 {
        cluster.put(leader.0, &format!("before/{round}"), "x").await;
        let (opened, before) = (cluster.net.opened(), failed());
        cluster.net.cut(leader, other);
        // A majority is still there.
        let revision = cluster.put(leader.0, &format!("cut/{round}"), "x").await;
        until("the cut is noticed", || failed() != before).await;
        cluster.net.heal();
        cluster.settle(revision).await;
        // What was missed may have come by a channel that stood.
        until("a channel is opened again", || cluster.net.opened() > opened).await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handle_of_a_stopped_voter_says_so_at_once() {
    for count in [1, 3] {
        let mut cluster = Cluster::start(count).await;
        cluster.put(1, "a", "x").await;
        let handle = cluster.nodes.remove(&NodeId(1)).unwrap().handle();
        handle.shutdown().await.unwrap();
        // Far more than any wait inside; far less than the deadline.
        let long = Duration::from_secs(600);
        let write = tokio::time::timeout(SOON, handle.write(Txn::new().put("b", "x"), long)).await;
        assert_eq!(write.expect("at once"), Err(RaftError::ShutDown), "{count} voters");
        let read = tokio::time::timeout(SOON, handle.read_index(long)).await;
        assert_eq!(read.expect("at once"), Err(RaftError::ShutDown), "{count} voters");
        let client = handle.client();
        let write = tokio::time::timeout(SOON, client.write(Txn::new().put("b", "x"), long)).await;
        assert_eq!(write.expect("at once"), Err(RaftError::ShutDown), "{count} voters");
    }
}
