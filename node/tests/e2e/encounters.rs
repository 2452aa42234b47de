//! Members that meet whom they should not: members of other clusters, copies of themselves, and those
//! that they do not know yet.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::common::{Cluster, Node, get, until};

/// Whether some line of a log has all these words.
fn told(log: &str, words: &[&str]) -> bool {
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_cluster_and_the_seed_that_it_has_here_both_say_why() {
    let cluster = Cluster::found(1).await;
    let ours = cluster.status(0).await["cluster"].as_str().unwrap().to_owned();
    let mut foreign = Cluster::found(1).await;
    let theirs = foreign.status(0).await["cluster"].as_str().unwrap().to_owned();
    // Founded with the same token, each for itself: one cluster id, two authorities.
    let mut again = Cluster::prepare(1);
    again.token.clone_from(&cluster.token);
    again.start(0);
    again.all_ready().await;
    for (other, code, why) in [
        (&mut foreign, "SW-MESH-OTHER-CLUSTER", theirs.as_str()),
        (&mut again, "SW-MESH-FOREIGN-CA", "another authority"),
    ] {
        let node = &mut other.nodes[0];
        node.kill();
        node.start(&cluster.seeds, None, 1);
        let (seed, peer) = (format!("seed={}", cluster.seeds[0]), format!("peer={}", node.listen));
        until("both sides say why", || async {
            let own = told(&node.log_text(), &[code, "foreign_seed", &seed, "--join"]);
            let member = cluster.nodes[0].log_text();
            (own && told(&member, &[code, "peer_refused", &peer, why])).then_some(())
        })
        .await;
        node.kill();
    }
    assert!(told(&foreign.nodes[0].log_text(), &["SW-MESH-OTHER-CLUSTER", &ours]));
    assert!(!cluster.nodes[0].log_text().contains("foreign_seed"), "its own seeds are its own");
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_data_directory_is_told_by_both_processes() {
    let mut cluster = Cluster::found(1).await;
    let fourth = cluster.join("n4").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut twin = Node::new(elsewhere.path(), "n4");
    // As a disk would be cloned while the machine stands.
    cluster.nodes[fourth].signal("-STOP");
    copy(&cluster.nodes[fourth].dir, &twin.dir);
    cluster.nodes[fourth].signal("-CONT");
    // Twice, so that its starts have a higher number than the next one of the original.
    twin.start(&cluster.seeds, None, 1);
    twin.ready(&cluster.http).await;
    twin.kill();
    twin.start(&cluster.seeds, None, 1);
    let words = ["SW-MESH-TWIN", "Stop one of the two"];
    until("both say that there is another one", || async {
        let original = cluster.nodes[fourth].log_text();
        (told(&original, &words) && told(&twin.log_text(), &words)).then_some(())
    })
    .await;
    assert!(!cluster.nodes[0].log_text().contains("SW-MESH-TWIN"), "it has no twin");

    // The copy is stopped: the original is a member again from its next start on.
    twin.kill();
    cluster.nodes[fourth].kill();
    let seeds = cluster.seeds.clone();
    cluster.nodes[fourth].start(&seeds, None, 1);
    cluster.all_ready().await;
    until("the others have it alive", || async {
        let members = cluster.nodes[0].cli_ok(&["members", "-o", "json"]);
        let members: Value = serde_json::from_str(&members).unwrap();
        let members = members["items"].as_array()?;
        let here = cluster.nodes[fourth].listen.to_string();
        let is_it = |m: &Value| m["address"] == *here && m["state"] == "alive";
        members.iter().any(is_it).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_not_called_a_stranger_by_one_that_has_just_started() {
    let mut cluster = Cluster::found(3).await;
    // The third one is away while a fourth is admitted, and has nobody to hear of it.
    cluster.nodes[2].kill();
    let fourth = cluster.join("n4").await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let before: Vec<usize> = cluster.nodes.iter().map(|node| node.log_text().len()).collect();
    let seeds = cluster.seeds.clone();
    cluster.start(2);
    cluster.nodes[fourth].start(&seeds, None, 1);
    until("the third one meets the fourth", || async {
        let (third, fourth) = (cluster.nodes[2].log_text(), cluster.nodes[fourth].log_text());
        let code = "SW-MESH-STARTING";
        (told(&third, &[code, "by=\"us\""]) && told(&fourth, &[code])).then_some(())
    })
    .await;
    cluster.start(0);
    cluster.start(1);
    cluster.all_ready().await;
    for (node, from) in cluster.nodes.iter().zip(before) {
        let log = node.log_text();
        let log = &log[from..];
        assert!(!log.contains("NOT-ADMITTED") && !log.contains("not-admitted"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_once_another_member_answers_and_stays_so_without_a_quorum() {
    let mut cluster = Cluster::found(3).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.start(0);
    let url = cluster.nodes[0].api_url("/readyz");
    let ready = async || get(&cluster.http, &url).await.ok();
    until("it waits for somebody to answer", || async {
        let answer = ready().await?;
        assert_ne!(answer.status, 200, "it is ready, and alone: {}", answer.text());
        answer.text().contains("waiting for another member to answer").then_some(())
    })
    .await;
    cluster.start(1);
    let http = cluster.http.clone();
    cluster.nodes[0].ready(&http).await;
    cluster.nodes[1].ready(&http).await;
    cluster.nodes[1].kill();
    until("the quorum is lost", || async {
        (cluster.status(0).await["quorum"] == false).then_some(())
    })
    .await;
    let answer = get(&http, &url).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_where_it_says_is_told_so_and_joins_once_it_is() {
    let cluster = Cluster::found(1).await;
    let token = cluster.join_token(&[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut node = Node::new(elsewhere.path(), "n2");
    // Held and never read: nobody answers there.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let wrong = nobody.local_addr().unwrap().to_string();
    node.extra = vec!["--advertise".into(), wrong.clone()];
    node.start(&cluster.seeds, Some(&token), 1);
    let words = ["SW-NODE-ADVERTISE", wrong.as_str()];
    until("both sides say where it was not reached", || async {
        let (member, joiner) = (cluster.nodes[0].log_text(), node.log_text());
        (told(&member, &words) && told(&joiner, &words)).then_some(())
    })
    .await;
    let answer = get(&cluster.http, &node.api_url("/readyz")).await.unwrap();
    assert!(answer.text().contains(&wrong), "{}", answer.text());
    node.kill();

    // Where another node is, it is not either.
    let taken = cluster.seeds[0].clone();
    node.extra = vec!["--advertise".into(), taken.clone()];
    node.start(&cluster.seeds, Some(&token), 1);
    until("the joiner is told that it is somebody else's", || async {
        told(&node.log_text(), &["SW-NODE-ADVERTISE", "another node answers", &taken]).then_some(())
    })
    .await;
    node.kill();

    // The token is as good as before.
    node.extra.clear();
    node.start(&cluster.seeds, Some(&token), 1);
    node.ready(&cluster.http).await;
}

/// Nobody but who wants to join can tell a founder that it is alone with its address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_not_where_it_says_is_told_by_who_joins_and_that_one_waits_for_it() {
    let mut cluster = Cluster::prepare(1);
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let wrong = nobody.local_addr().unwrap().to_string();
    cluster.nodes[0].extra = vec!["--advertise".into(), wrong.clone()];
    cluster.start(0);
    cluster.all_ready().await;
    let token = cluster.join_token(&[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut node = Node::new(elsewhere.path(), "n2");
    node.start(&cluster.seeds, Some(&token), 1);
    let words = ["SW-NODE-ADVERTISE", wrong.as_str()];
    until("both sides say where the founder is not reached", || async {
        let (founder, joiner) = (cluster.nodes[0].log_text(), node.log_text());
        (told(&founder, &words) && told(&joiner, &words)).then_some(())
    })
    .await;
    let answer = get(&cluster.http, &node.api_url("/readyz")).await.unwrap();
    assert!(answer.text().contains(&wrong), "{}", answer.text());

    // Once it is where it says, the other is in: with the same token, which it has used.
    cluster.nodes[0].kill();
    cluster.nodes[0].extra.clear();
    cluster.start(0);
    node.ready(&cluster.http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_again_where_nobody_reaches_it_is_told_and_keeps_its_good_address() {
    let mut cluster = Cluster::found(1).await;
    let second = cluster.join("n2").await;
    let written = cluster.nodes[0].api_url("/v1/nodes/n2");
    let here = cluster.nodes[second].listen.to_string();
    let address = |answer: Value| answer["spec"]["address"].as_str().unwrap().to_owned();
    assert_eq!(address(get(&cluster.http, &written).await.unwrap().json()), here);

    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let wrong = nobody.local_addr().unwrap().to_string();
    let node = &mut cluster.nodes[second];
    node.kill();
    node.extra = vec!["--advertise".into(), wrong.clone()];
    node.start(&cluster.seeds, None, 1);
    let words = ["SW-NODE-ADVERTISE", wrong.as_str()];
    until("both sides say where it was not reached", || async {
        let (member, own) = (cluster.nodes[0].log_text(), cluster.nodes[second].log_text());
        (told(&member, &words) && told(&own, &words)).then_some(())
    })
    .await;
    assert_eq!(address(get(&cluster.http, &written).await.unwrap().json()), here);

    // Where it is reached it may be anywhere.
    let node = &mut cluster.nodes[second];
    node.kill();
    node.extra.clear();
    node.listen = crate::common::free();
    let moved = node.listen.to_string();
    node.start(&cluster.seeds, None, 1);
    until("the new address is written down", || async {
        let answer = get(&cluster.http, &written).await.ok()?;
        (address(answer.json()) == moved).then_some(())
    })
    .await;
}
