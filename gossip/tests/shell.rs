//! The shell over a network in memory: handles, streams, the members file, farewell.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use swarmer_gossip::*;
use swarmer_model::{ClusterId, Coded, NodeId, wire};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What one way takes.
const WAY: Duration = Duration::from_millis(4);

/// Handles by address: what is sent is handed over after [`WAY`].
#[derive(Default)]
struct Net(Mutex<HashMap<SocketAddr, (NodeId, Handle)>>);

impl Net {
    fn at(&self, addr: SocketAddr) -> Option<(NodeId, Handle)> {
        self.0.lock().get(&addr).cloned()
    }
}

struct Port(Arc<Net>, NodeId, SocketAddr);

impl DatagramSender for Port {
    fn send(&self, to: SocketAddr, bytes: Bytes) {
        if let Some((_, handle)) = self.0.at(to) {
            let from = self.2;
            tokio::spawn(async move {
                tokio::time::sleep(WAY).await;
                handle.datagram(from, bytes);
            });
        }
    }
}

#[async_trait]
impl PushPull for Port {
    async fn exchange(
        &self,
        node: Option<NodeId>,
        addr: SocketAddr,
        request: Bytes,
    ) -> Result<Bytes, ExchangeError> {
        match self.0.at(addr) {
            Some((there, handle)) if node.is_none_or(|node| node == there) => handle
                .serve_push_pull(self.1, request)
                .await
                .map_err(|error| ExchangeError(error.to_string())),
            _ => Err(ExchangeError("nobody there".into())),
        }
    }
}

#[async_trait]
impl Liveness for Port {
    fn has_live_connection(&self, _: NodeId) -> bool {
        false
    }

    async fn confirm_alive(&self, node: NodeId, addr: SocketAddr) -> bool {
        self.0.at(addr).is_some_and(|(there, _)| there == node)
    }
}

struct Everyone;

impl Admission for Everyone {
    fn admitted(&self, node: NodeId) -> bool {
        node.0 < 100
    }
}

impl Signer for Everyone {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        vec![bytes.len() as u8; 8]
    }
}

impl Verifier for Everyone {
    fn verify(&self, _: NodeId, bytes: &[u8], signature: &[u8]) -> bool {
        signature == vec![bytes.len() as u8; 8]
    }
}

fn addr(n: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8], 7400))
}

fn config(n: u64, boot: u64) -> Config {
    Config {
        cluster: ClusterId(1),
        node: NodeId(n),
        boot,
        advertise: addr(n),
        seeds: vec![addr(1).to_string()],
        keyring: Keyring::new(1, Key([1; 32])),
        facts: Facts { name: format!("node-{n}"), ..Facts::default() },
        members_file: None,
        timing: Timing::default(),
    }
}

fn start(net: &Arc<Net>, config: Config) -> (Handle, CancellationToken, JoinHandle<()>) {
    let (node, addr) = (config.node, config.advertise);
    let port = Arc::new(Port(net.clone(), node, addr));
    let deps = Deps {
        sender: port.clone(),
        push_pull: port.clone(),
        liveness: port,
        admission: Arc::new(Everyone),
        signer: Arc::new(Everyone),
        verifier: Arc::new(Everyone),
    };
    let (gossip, handle) = Gossip::build(config, deps).unwrap();
    net.0.lock().insert(addr, (node, handle.clone()));
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(gossip.run(shutdown.clone()));
    (handle, shutdown, task)
}

/// Waits for the members to be like this; time is virtual, so only a bug takes long.
async fn wait(handle: &Handle, holds: impl Fn(&Members) -> bool) {
    let mut members = handle.subscribe();
    let waited =
        tokio::time::timeout(Duration::from_secs(60), members.wait_for(|m| holds(m))).await;
    assert!(waited.is_ok(), "{:#?}", handle.members());
}

fn alive(members: &Members) -> usize {
    members.iter().filter(|m| m.state == MemberState::Alive && m.record.is_some()).count()
}

#[tokio::test(start_paused = true)]
async fn members_meet_publish_and_leave() {
    let net = Arc::new(Net::default());
    let nodes: Vec<_> = (1..=3).map(|n| start(&net, config(n, 1))).collect();
    for (handle, _, _) in &nodes {
        wait(handle, |members| alive(members) == 3).await;
    }
    nodes[1].0.publish(RecordUpdate::Draining(true)).await.unwrap();
    let drains = |members: &Members| members.iter().any(|m| m.node == NodeId(2) && m.draining);
    wait(&nodes[0].0, drains).await;
    wait(&nodes[1].0, drains).await;

    let began = tokio::time::Instant::now();
    nodes[2].0.leave().await.unwrap();
    assert!(began.elapsed() >= LEAVE_LINGER, "the farewell needs its time");
    let left = |members: &Members| {
        members.iter().any(|m| m.node == NodeId(3) && m.state == MemberState::Left)
    };
    wait(&nodes[0].0, left).await;
    let refused = nodes[2].0.publish(RecordUpdate::Voter(true)).await.unwrap_err();
    assert_eq!(refused.code(), codes::STOPPED);

    let stats = nodes[0].0.stats();
    assert!(stats.datagrams_in > 0 && stats.push_pulls > 0 && stats.members_alive == 2);
    for (_, shutdown, task) in nodes {
        shutdown.cancel();
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_way_to_a_member_is_measured_and_then_estimated() {
    let net = Arc::new(Net::default());
    let with_distances = |n| {
        let mut config = config(n, 1);
        config.facts.wire_max = wire::DISTANCES.into();
        config
    };
    let nodes: Vec<_> = (1..=3).map(|n| start(&net, with_distances(n))).collect();
    let (first, last) = (&nodes[0].0, NodeId(3));
    assert_eq!(first.distance(last), None);
    for (handle, _, _) in &nodes {
        wait(handle, |members| alive(members) == 3).await;
        let knows = |members: &Members| {
            members.iter().all(|m| m.record.as_ref().is_some_and(|r| r.facts.coordinate.is_some()))
        };
        wait(handle, knows).await;
    }
    // Of the first minute the points say less.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let measured = first.distance(last).unwrap();
    assert!(measured >= WAY * 2 && measured < WAY * 2 + Duration::from_millis(3), "{measured:?}");
    assert_eq!(first.distance(NodeId(1)), Some(Duration::ZERO), "to itself");
    assert_eq!(first.distance(NodeId(9)), None, "who is no member");
    assert!(first.stats().round_trips > 50);
    // It is not there any more: what was measured says nothing after a while, what it told does.
    nodes[2].1.cancel();
    tokio::time::sleep(ROUND_TRIP_FRESH + Duration::from_secs(10)).await;
    let estimated = first.distance(last).unwrap();
    assert_ne!(estimated, measured);
    assert!(estimated > WAY && estimated < WAY * 3, "{estimated:?}");
    for (_, shutdown, task) in nodes {
        shutdown.cancel();
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_members_file_finds_the_cluster_without_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("members.json");
    let net = Arc::new(Net::default());
    let first = start(&net, config(1, 1));
    let with_file = |boot| Config { members_file: Some(file.clone()), ..config(2, boot) };
    let (handle, shutdown, task) = start(&net, with_file(1));
    wait(&handle, |members| alive(members) == 2).await;
    shutdown.cancel();
    task.await.unwrap();
    assert!(file.exists());

    let again = Config { seeds: Vec::new(), ..with_file(2) };
    let (handle, shutdown, task) = start(&net, again);
    wait(&handle, |members| alive(members) == 2).await;
    wait(&first.0, |members| members.iter().any(|m| m.node == NodeId(2) && m.boot == 2)).await;
    shutdown.cancel();
    task.await.unwrap();

    // A damaged file is no reason not to start.
    std::fs::write(&file, b"[{\"node\":").unwrap();
    let (handle, shutdown, task) = start(&net, with_file(3));
    wait(&handle, |members| alive(members) == 2).await;
    shutdown.cancel();
    task.await.unwrap();
    first.1.cancel();
    first.2.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_an_error_and_a_flood_is_dropped_and_counted() {
    let net = Arc::new(Net::default());
    let (handle, shutdown, task) = start(&net, config(1, 1));
    let code = |result: Result<(), GossipError>| result.unwrap_err().code();
    assert_eq!(code(handle.set_seeds(vec!["no-port".into()]).await), codes::CONFIG);
    let mut ring = Keyring::new(1, Key([1; 32]));
    assert_eq!(code(ring.set_primary(7)), codes::KEYRING);
    assert_eq!(code(ring.add(1, Key([2; 32]))), codes::KEYRING);
    ring.add(2, Key([2; 32])).unwrap();
    handle.set_keyring(ring).await.unwrap();
    let long = Facts { name: "x".repeat(MAX_TEXT_BYTES + 1), ..Facts::default() };
    assert_eq!(code(handle.publish(RecordUpdate::Facts(Box::new(long))).await), codes::RECORD);
    let stranger = handle.serve_push_pull(NodeId(100), Bytes::new()).await.unwrap_err();
    assert_eq!(stranger.code(), codes::NOT_ADMITTED);
    let garbage = handle.serve_push_pull(NodeId(2), Bytes::from_static(b"?")).await.unwrap_err();
    assert_eq!(garbage.code(), codes::MALFORMED);
    let huge = Bytes::from(vec![0; MAX_PUSH_PULL_BYTES + 1]);
    let huge = handle.serve_push_pull(NodeId(2), huge).await.unwrap_err();
    assert_eq!(huge.code(), codes::MALFORMED);

    // No await in between: the task cannot take any of them.
    for _ in 0..DATAGRAM_QUEUE + 10 {
        handle.datagram(addr(9), Bytes::from_static(b"garbage"));
    }
    assert_eq!(handle.stats().datagrams_dropped, 10);
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(code(handle.leave().await), codes::STOPPED);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_its_field() {
    let port = || Arc::new(Port(Arc::default(), NodeId(1), addr(1)));
    let deps = || Deps {
        sender: port(),
        push_pull: port(),
        liveness: port(),
        admission: Arc::new(Everyone),
        signer: Arc::new(Everyone),
        verifier: Arc::new(Everyone),
    };
    let good = || config(1, 1);
    let slow = Timing { probe_timeout: Duration::from_secs(1), ..Timing::default() };
    let hasty = Timing { suspicion_min: Duration::ZERO, ..Timing::default() };
    let late = Timing { probe_period: Duration::from_millis(400), ..Timing::default() };
    for (bad, field) in [
        (Config { node: NodeId(0), ..good() }, "node"),
        (Config { boot: 0, ..good() }, "boot"),
        (Config { advertise: "0.0.0.0:7400".parse().unwrap(), ..good() }, "advertise"),
        (Config { seeds: vec![":7400".into()], ..good() }, "seed"),
        (Config { seeds: vec!["a:1".into(); MAX_SEEDS + 1], ..good() }, "seeds"),
        (Config { timing: slow, ..good() }, "probe_timeout"),
        (Config { timing: hasty, ..good() }, "suspicion_min"),
        (Config { timing: late, ..good() }, "probe_period"),
    ] {
        let error = Gossip::build(bad, deps()).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), codes::CONFIG);
        assert!(error.to_string().contains(field), "{error}");
    }
    assert!(Gossip::build(good(), deps()).is_ok());
}
