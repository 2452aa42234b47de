//! The key of gossip over time, on real nodes and under load: a removal brings another one, which the
//! removed node never gets; nobody is lost by it, and who slept comes back.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use swarmer_gossip::{Envelope, Key, Keyring};
use swarmer_model::NodeId;
use tokio::net::UdpSocket;

use crate::{
    common::{Cluster, get, request, until},
    keys::{Load, with_hello_on_all},
};

const UNKNOWN_KEY: &str = "swarmer_gossip_refused_total{reason=\"unknown-key\"}";
/// How often the removed one's datagram is sent.
const TIMES: u64 = 20;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn identity(cluster: &Cluster, i: usize) -> Value {
    json(&cluster.nodes[i].dir.join("identity.json"))
}

/// The keys that a node keeps: number and hexadecimal text.
fn kept(cluster: &Cluster, i: usize) -> Vec<(u64, String)> {
    let keys = identity(cluster, i)["gossip_keys"].as_array().unwrap().clone();
    let one = |key: &Value| (key["id"].as_u64().unwrap(), key["key"].as_str().unwrap().to_owned());
    keys.iter().map(one).collect()
}

/// Waits until these nodes seal with this key and hold no other, in memory and on disk.
pub(crate) async fn only(cluster: &Cluster, nodes: &[usize], key: u64) {
    for i in nodes {
        let name = &cluster.nodes[*i].name;
        until(&format!("{name} has key {key} alone"), || async {
            let seals = cluster.metric(*i, "swarmer_gossip_key_id").await;
            let held = cluster.metric(*i, "swarmer_gossip_keys").await;
            let stored = kept(cluster, *i);
            (seals == key && held == 1 && stored.len() == 1 && stored[0].0 == key).then_some(())
        })
        .await;
        assert_eq!(cluster.status(*i).await["gossipKey"], key, "{name}");
    }
}

/// Waits until each of these nodes takes all of them for alive.
pub(crate) async fn all_alive(cluster: &Cluster, nodes: &[usize]) {
    for i in nodes {
        until(&format!("{} sees all alive", cluster.nodes[*i].name), || async {
            let status = cluster.status(*i).await;
            let members = status["members"].as_array()?;
            let alive = |i: &usize| {
                let name = cluster.nodes[*i].name.as_str();
                members.iter().any(|m| m["name"] == name && m["state"] == "alive")
            };
            nodes.iter().all(alive).then_some(())
        })
        .await;
    }
}

/// The lines by which a node tells that it took another one for dead.
fn deaths(cluster: &Cluster, i: usize, but: &str) -> Vec<String> {
    let log = cluster.nodes[i].log_text();
    let lines = log.lines().filter(|line| {
        line.contains("swarmer::gossip::member")
            && line.contains("after=dead")
            && !line.contains(but)
    });
    lines.map(str::to_owned).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files below a folder that hold this text.
pub(crate) fn holding(dir: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        // One that goes away while this looks holds nothing.
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    files(dir).into_iter().filter(holds).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_brings_another_key_of_gossip_that_the_removed_node_never_gets() {
    remove_and_look("n4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_removed_never_gets_the_next_key_of_gossip_either() {
    remove_and_look("n3").await;
}

/// Removes one of four nodes under load: a follower, or a voter whose vote goes to the follower.
async fn remove_and_look(name: &str) {
    let mut cluster = Cluster::found(3).await;
    cluster.join("n4").await;
    with_hello_on_all(&cluster, "4").await;
    let removed = cluster.nodes.iter().position(|node| node.name == name).unwrap();
    let members: Vec<usize> = (0..4).filter(|i| *i != removed).collect();
    let (members, last) = (members.as_slice(), members[2]);
    let load = Load::on(&cluster, members);
    until("there is load everywhere", || async { (load.good() > 100).then_some(()) }).await;
    let (old, id) = (kept(&cluster, removed), {
        let meta = json(&cluster.nodes[removed].dir.join("node.json"));
        meta["node"].as_str().unwrap().to_owned()
    });
    assert_eq!((old.len(), old[0].0), (1, 1));

    cluster.nodes[0].cli_ok(&["delete", "node", name]);
    only(&cluster, members, 2).await;
    let new = kept(&cluster, 0)[0].1.clone();
    assert_ne!(new, old[0].1);
    for i in members.iter().copied() {
        assert_eq!(kept(&cluster, i)[0].1, new);
        assert_eq!(cluster.metric(i, UNKNOWN_KEY).await, 0, "every datagram could be opened");
        assert_eq!(deaths(&cluster, i, &id), Vec::<String>::new());
        let file = cluster.nodes[i].dir.join("identity.json");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let log = cluster.nodes[i].dir.join("raft");
        assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
    load.none_failed().await;

    // It runs on all the while, and never hears of the new key: in no file of it, where a member
    // has it in several.
    assert!(cluster.nodes[removed].is_running());
    assert_eq!(holding(&cluster.nodes[removed].dir, &new), Vec::<PathBuf>::new());
    assert!(holding(&cluster.nodes[0].dir, &new).len() > 1);
    // Whoever has its disk cannot speak as a member to a member.
    let mut key = [0; 32];
    hex::decode_to_slice(&old[0].1, &mut key).unwrap();
    let speaks_as = json(&cluster.nodes[1].dir.join("node.json"));
    let other: NodeId = speaks_as["node"].as_str().unwrap().parse().unwrap();
    let boot = speaks_as["boot"].as_u64().unwrap() + 1;
    let cluster_id = identity(&cluster, 0)["cluster"].as_str().unwrap().parse().unwrap();
    let mut envelope = Envelope::new(cluster_id, other, boot, Keyring::new(1, Key(key)), [7; 32]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to: SocketAddr = cluster.nodes[0].listen;
    for _ in 0..TIMES {
        socket.send_to(&envelope.seal(None, b"hello", false).unwrap(), to).await.unwrap();
    }
    until("they are refused by their key", || async {
        (cluster.metric(0, UNKNOWN_KEY).await == TIMES).then_some(())
    })
    .await;

    // A restart begins with the new key: nobody refuses what it sends.
    cluster.nodes[last].stop();
    cluster.start(last);
    cluster.nodes[last].ready(&cluster.http.clone()).await;
    all_alive(&cluster, members).await;
    assert_eq!(cluster.metric(1, UNKNOWN_KEY).await, 0);
    // And so does one that joins.
    let joined = cluster.join("n5").await;
    all_alive(&cluster, &[members, &[joined]].concat()).await;
    only(&cluster, &[joined], 2).await;
    assert_eq!(cluster.metric(1, UNKNOWN_KEY).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_slept_through_rotations_comes_back_and_no_key_is_ever_shown() {
    let mut cluster = Cluster::found(3).await;
    let follower = cluster.join("n4").await;
    with_hello_on_all(&cluster, "4").await;
    let load = Load::on(&cluster, &[0, 1]);
    until("there is load", || async { (load.good() > 50).then_some(()) }).await;
    let http = cluster.http.clone();

    // One that follows, and has no log, sleeps through two whole rotations.
    cluster.nodes[follower].stop();
    for key in [2, 3] {
        cluster.nodes[0].cli_ok(&["keys", "rotate"]);
        only(&cluster, &[0, 1, 2], key).await;
    }
    assert_eq!(kept(&cluster, follower)[0].0, 1);
    cluster.start(follower);
    cluster.nodes[follower].ready(&http).await;
    only(&cluster, &[follower], 3).await;
    all_alive(&cluster, &[0, 1, 2, follower]).await;

    // One that votes, likewise.
    cluster.nodes[2].stop();
    cluster.nodes[1].cli_ok(&["keys", "rotate"]);
    only(&cluster, &[0, 1, follower], 4).await;
    assert_eq!(kept(&cluster, 2)[0].0, 3);
    cluster.start(2);
    cluster.nodes[2].ready(&http).await;
    only(&cluster, &[0, 1, 2, follower], 4).await;
    all_alive(&cluster, &[0, 1, 2, follower]).await;
    load.none_failed().await;

    // The numbers are shown, the keys are not; who asked is in the audit log.
    let list: Value =
        serde_json::from_str(&cluster.nodes[0].cli_ok(&["keys", "list", "-o", "json"])).unwrap();
    let item = &list["items"][0];
    assert_eq!(item["name"], "gossip");
    assert_eq!((&item["key"], &item["phase"]), (&Value::from(4), &Value::from("settled")));
    let key = kept(&cluster, 0)[0].1.clone();
    let mut told = cluster.nodes[0].log_text();
    for path in ["/v1/audit", "/v1/backup", "/v1/status", "/v1/members", "/v1/keys", "/metrics"] {
        let answer = get(&http, &cluster.nodes[0].api_url(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        told += &answer.text();
    }
    assert!(!told.contains(&key));
    let audit = get(&http, &cluster.nodes[0].api_url("/v1/audit")).await.unwrap().text();
    assert!(audit.contains("keys/wanted"), "{audit}");
    // What the leader commits by itself is in no such log, and nobody reads it by a path.
    let url = cluster.nodes[0].api_url("/v1/keys/gossip");
    assert_eq!(request(&http, "GET", &url, "").await.unwrap().status, 404);
}
