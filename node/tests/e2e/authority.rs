//! The authority over time, on real nodes and under load: another one takes its place and nothing is left
//! of the old one; nobody is lost by it, and who slept comes back.

use std::path::PathBuf;

use serde_json::Value;
use swarmer_mesh::identity::{NodeCertificate, TrustBundle};

use crate::{
    common::{Cluster, Node, get, until},
    keys::{Load, with_hello_on_all},
    rotation::{all_alive, holding, identity, only},
};

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The numbers of the authorities that a node believes, by its own file.
fn believed(identity: &Value) -> Vec<u64> {
    match identity["authorities"]["believed"].as_array() {
        Some(all) => all.iter().map(|one| one["id"].as_u64().unwrap()).collect(),
        None => vec![1],
    }
}

/// Whether the certificate that a node keeps is of the authority that issues, by its own file.
fn is_current(identity: &Value) -> bool {
    let certificate = NodeCertificate::from_der(bytes(&identity["certificate"])).unwrap();
    let issuing = TrustBundle::new([bytes(&identity["ca"])]).unwrap();
    issuing.issuer_of(&certificate).is_some()
}

/// Waits until these nodes believe this authority alone and have their certificates of it; gives its
/// certificate in hex.
async fn only_authority(cluster: &Cluster, nodes: &[usize], number: u64) -> String {
    for i in nodes {
        until(&format!("{} has authority {number} alone", cluster.nodes[*i].name), || async {
            let kept = identity(cluster, *i);
            (believed(&kept) == [number] && is_current(&kept)).then_some(())
        })
        .await;
    }
    let ca = identity(cluster, nodes[0])["ca"].as_str().unwrap().to_owned();
    for i in nodes {
        assert_eq!(identity(cluster, *i)["ca"], ca.as_str(), "{}", cluster.nodes[*i].name);
    }
    ca
}

/// Whether a node holds the key of the authority that issues.
fn holds_key(cluster: &Cluster, i: usize) -> bool {
    identity(cluster, i)["ca_key_pem"].is_string()
}

/// Enough of the authority's key, as a node keeps it, to know it again.
fn some_of_key(cluster: &Cluster, i: usize) -> String {
    let pem = identity(cluster, i)["ca_key_pem"].as_str().unwrap().to_owned();
    pem.lines().nth(2).unwrap().to_owned()
}

fn list(cluster: &Cluster, i: usize, name: &str) -> Value {
    let list = cluster.nodes[i].cli_ok(&["keys", "list", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let items = list["items"].as_array().unwrap();
    items.iter().find(|item| item["name"] == name).unwrap().clone()
}

/// Nobody gave up on a member, and nobody was taken for a stranger.
fn nobody_was_lost(cluster: &Cluster, nodes: &[usize]) {
    for i in nodes {
        let log = cluster.nodes[*i].log_text();
        for word in ["SW-MESH-OUTDATED-CA", "SW-MESH-FOREIGN-CA", "SW-MESH-EXPIRED", "after=dead"] {
            let line = log.lines().find(|line| line.contains(word));
            assert_eq!(line, None, "{}", cluster.nodes[*i].name);
        }
    }
}

/// Three founders that replace no voter that is away.
async fn patient() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    for i in 0..3 {
        cluster.nodes[i].extra = ["--voter-grace-ms", "600000"].map(str::to_owned).to_vec();
        cluster.start(i);
    }
    cluster.all_ready().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_takes_its_place_without_a_failed_request_and_nothing_is_left_of_the_old()
{
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.extra = ["--certificate-ttl", "30s"].map(str::to_owned).to_vec();
    }
    for i in 0..3 {
        cluster.start(i);
    }
    cluster.all_ready().await;
    let follower = cluster.join("n4").await;
    with_hello_on_all(&cluster, "2").await;
    let all = [0, 1, 2, follower];
    let old = identity(&cluster, 0)["ca"].as_str().unwrap().to_owned();
    let old_key = some_of_key(&cluster, 0);
    assert!(!holding(&cluster.nodes[1].dir, &old_key).is_empty(), "it would be found");
    let before = list(&cluster, 0, "authority");
    assert_eq!((&before["key"], &before["phase"]), (&Value::from(1), &Value::from("settled")));
    let old_token = cluster.join_token(&[]);
    let load = Load::on(&cluster, &all);
    until("there is load everywhere", || async { (load.good() > 100).then_some(()) }).await;

    cluster.nodes[follower].cli_ok(&["keys", "rotate", "--authority"]);
    let new = only_authority(&cluster, &all, 2).await;
    assert_ne!(new, old);
    all_alive(&cluster, &all).await;
    // Certificates go on being renewed by it.
    let renewals = |i: usize| cluster.nodes[i].log_text().matches("was renewed").count();
    let renewed: Vec<usize> = all.map(renewals).to_vec();
    until("all have renewed again", || async {
        all.iter().zip(&renewed).all(|(i, before)| renewals(*i) > *before).then_some(())
    })
    .await;
    load.none_failed().await;
    nobody_was_lost(&cluster, &all);

    for i in all {
        let (dir, name) = (&cluster.nodes[i].dir, &cluster.nodes[i].name);
        assert!(!identity(&cluster, i).to_string().contains(&format!("\"{old}\"")), "{name}");
        assert_eq!(holding(dir, &old_key), Vec::<PathBuf>::new(), "{name}");
        for file in ["made.json", "founding.bin"] {
            assert!(i == follower || !dir.join(file).exists(), "{name}: {file}");
        }
        assert_eq!(holds_key(&cluster, i), i != follower, "{name}");
        let pem = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
        assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 1, "{name}");
    }
    let after = list(&cluster, 1, "authority");
    assert_eq!((&after["key"], &after["held"]), (&Value::from(2), &Value::from(vec![2])));
    assert_ne!(after["fingerprint"], before["fingerprint"]);
    let told = get(&cluster.http, &cluster.nodes[follower].api_url("/v1/audit")).await.unwrap();
    assert!(told.text().contains("keys/authority-wanted"), "{}", told.text());

    // A token that pins the old one is of no use any more, and says why; a new one is.
    let mut late = Node::new(cluster.base.path(), "n5");
    late.start(&cluster.seeds, Some(&old_token), 1);
    until("it is told why its token is of no use", || async {
        let log = late.log_text();
        (log.contains("SW-MESH-WRONG-PIN") && log.contains("older than a change")).then_some(())
    })
    .await;
    late.kill();
    let joined = cluster.join("n6").await;
    only_authority(&cluster, &[joined], 2).await;
    all_alive(&cluster, &[0, joined]).await;
    cluster.serves(&[joined], "/hello").await;
    assert_eq!(list(&cluster, joined, "authority")["key"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_removal_of_one_that_had_the_authoritys_key_brings_another_authority() {
    let mut cluster = Cluster::found(3).await;
    let spare = cluster.join("n4").await;
    cluster.join("n5").await;
    with_hello_on_all(&cluster, "5").await;
    let stay = [0, 1, spare];
    let load = Load::on(&cluster, &stay);
    until("there is load everywhere", || async { (load.good() > 100).then_some(()) }).await;
    // One that never had it takes nothing with it but the key of gossip.
    cluster.nodes[0].cli_ok(&["delete", "node", "n5"]);
    only(&cluster, &[0, 1, 2, spare], 2).await;
    let authority = list(&cluster, 0, "authority");
    assert_eq!((&authority["key"], &authority["wanted"]), (&Value::from(1), &Value::from(false)));

    cluster.nodes[0].cli_ok(&["delete", "node", "n3"]);
    let new = only_authority(&cluster, &stay, 2).await;
    only(&cluster, &stay, 3).await;
    all_alive(&cluster, &stay).await;
    load.none_failed().await;
    for i in stay {
        until("all of them vote", || async { holds_key(&cluster, i).then_some(()) }).await;
    }
    // The removed one runs on, and hears of nothing.
    assert!(cluster.nodes[2].is_running());
    assert!(!holding(&cluster.nodes[0].dir, &new).is_empty());
    assert_eq!(holding(&cluster.nodes[2].dir, &new), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_slept_through_changes_of_the_authority_comes_back_by_itself_and_serves() {
    let mut cluster = patient().await;
    let follower = cluster.join("n4").await;
    with_hello_on_all(&cluster, "2").await;
    let load = Load::on(&cluster, &[0, 1]);
    until("there is load", || async { (load.good() > 50).then_some(()) }).await;

    // One that follows sleeps through two of them; nobody's certificate is one that it believes.
    cluster.nodes[follower].stop();
    for number in [2, 3] {
        cluster.nodes[0].cli_ok(&["keys", "rotate", "--authority"]);
        only_authority(&cluster, &[0, 1, 2], number).await;
    }
    comes_back(&mut cluster, follower, 3).await;
    // One that votes, likewise; it has to get the authority's key too.
    cluster.nodes[2].stop();
    cluster.nodes[1].cli_ok(&["keys", "rotate", "--authority"]);
    only_authority(&cluster, &[0, 1, follower], 4).await;
    let old_key = some_of_key(&cluster, 2);
    comes_back(&mut cluster, 2, 4).await;
    until("it has the key of the new one", || async { holds_key(&cluster, 2).then_some(()) }).await;
    assert_eq!(holding(&cluster.nodes[2].dir, &old_key), Vec::<PathBuf>::new());
    load.none_failed().await;
    // A whole member: the cluster goes on with it when another voter is away.
    cluster.nodes[0].stop();
    until("the others have a leader", || async {
        let status = cluster.status(2).await;
        (status["quorum"] == true && status["leader"].is_object()).then_some(())
    })
    .await;
    cluster.nodes[2].cli_ok(&["token", "create"]);
    comes_back(&mut cluster, 0, 4).await;
}

/// Starts a node that was away; the others are there.
async fn comes_back(cluster: &mut Cluster, i: usize, number: u64) {
    cluster.start(i);
    let http = cluster.http.clone();
    cluster.nodes[i].ready(&http).await;
    // Ready is ready: nothing is asked again.
    let answer = get(&http, &cluster.nodes[i].url("/hello")).await.unwrap();
    let logs: Vec<String> = cluster.nodes.iter().map(Node::log_text).collect();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), logs.join("\n"));
    only_authority(cluster, &[i], number).await;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    all_alive(cluster, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_in_the_middle_of_it_keeps_nobody_from_another_authority() {
    let mut cluster = patient().await;
    let follower = cluster.join("n4").await;
    with_hello_on_all(&cluster, "4").await;
    let leader = cluster.leader(follower).await;
    let others: Vec<usize> = (0..4).filter(|i| *i != leader).collect();
    let load = Load::on(&cluster, &others);
    until("there is load everywhere", || async { (load.good() > 100).then_some(()) }).await;
    let old = identity(&cluster, 0)["ca"].clone();

    cluster.nodes[follower].cli_ok(&["keys", "rotate", "--authority"]);
    // The first step stands for two seconds at least, so that this comes in the middle.
    let url = cluster.nodes[follower].api_url("/v1/keys");
    until("it has begun", || async {
        let keys = get(&cluster.http, &url).await.ok()?.json();
        let items = keys["items"].as_array()?.clone();
        items
            .iter()
            .any(|item| item["name"] == "authority" && item["phase"] == "spreading")
            .then_some(())
    })
    .await;
    cluster.nodes[leader].kill();
    // By the next leader, with the key of the one that died or with another.
    let number = until("the rotation is over", || async {
        let item = get(&cluster.http, &url).await.ok()?.json()["items"][1].clone();
        let over = item["phase"] == "settled" && item["key"].as_u64()? > 1;
        over.then_some(item["key"].as_u64()?)
    })
    .await;
    let new = only_authority(&cluster, &others, number).await;
    assert_ne!(old, new.as_str());
    load.none_failed().await;
    comes_back(&mut cluster, leader, number).await;
    for i in 0..3 {
        until("every voter has the key", || async { holds_key(&cluster, i).then_some(()) }).await;
        assert_eq!(identity(&cluster, i)["next_ca"], Value::Null);
    }
}
