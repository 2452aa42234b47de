//! Founding tokens where they are of no use, and seeds that lead back to the node itself.

use std::path::Path;

use crate::common::{Cluster, Node, get, until};

/// Every machine has the same seed list, as in the README's first hour: each finds itself in it,
/// under a name that is not its own address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_its_own_seed_by_name_raises_no_alarm() {
    let mut cluster = Cluster::prepare(3);
    cluster.seeds =
        cluster.nodes.iter().map(|node| format!("localhost:{}", node.listen.port())).collect();
    for i in 0..3 {
        cluster.start(i);
    }
    cluster.all_ready().await;
    for node in &cluster.nodes {
        let log = node.log_text();
        let alarm = |line: &str| line.contains("WARN") && line.contains("peer_refused");
        assert!(!log.contains("same node id") && !log.lines().any(alarm), "{log}");
    }
}

struct Stranger<'a> {
    name: String,
    token: &'a Path,
    expect: usize,
    /// None: it goes on waiting for the other founders.
    exit: Option<i32>,
    code: &'a str,
}

/// Starts it with one member as its seed; both logs must say why it gets nothing.
async fn turned_away(cluster: &Cluster, member: usize, stranger: &Stranger<'_>) {
    let Stranger { name, token, expect, exit, code } = stranger;
    let mut node = Node::new(cluster.base.path(), name);
    node.start(&cluster.seeds[member..=member], Some(token), *expect);
    match exit {
        Some(exit) => assert_eq!(node.wait().code(), Some(*exit), "{}", node.log_text()),
        None => {
            until("it says who told it", || async {
                let seed = &cluster.seeds[member];
                let log = node.log_text();
                log.lines().any(|line| line.contains(code) && line.contains(seed)).then_some(())
            })
            .await
        }
    }
    node.kill();
    let own = node.log_text();
    assert!(own.contains(code), "{name}: {own}");
    let log = cluster.nodes[member].log_text();
    let who = format!("peer={}", node.listen);
    let told = log.lines().any(|line| {
        line.contains("peer_refused")
            && line.contains(code)
            && line.contains(&who)
            && line.contains("swarmer token create")
    });
    assert!(told, "{name}: {who} with {code} is not in the member's log: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_or_foreign_token_founds_nothing_and_both_sides_say_why() {
    let mut cluster = Cluster::found(3).await;
    // One of the founders made the cluster and holds the secret still; the others do not.
    cluster.nodes[1].kill();
    let seeds = cluster.seeds.clone();
    cluster.nodes[1].start(&seeds, None, 1);
    cluster.all_ready().await;
    let mut other = Cluster::found(1).await;
    let foreign_join = other.join_token(&[]);
    for member in 0..3 {
        for expect in [1, 3] {
            let spent = Stranger {
                name: format!("spent-{member}-{expect}"),
                token: &cluster.token,
                expect,
                exit: Some(4),
                code: "SW-FOUND-ALREADY-FOUNDED",
            };
            turned_away(&cluster, member, &spent).await;
            let foreign = Stranger {
                name: format!("foreign-{member}-{expect}"),
                token: &other.token,
                expect,
                // Nothing proves what a member of another cluster says.
                exit: (expect == 1).then_some(5),
                code: "SW-FOUND-OTHER-CLUSTER",
            };
            turned_away(&cluster, member, &foreign).await;
        }
    }
    // The id of this cluster with another secret is told from a spent token, by all members.
    let text = std::fs::read_to_string(&cluster.token).unwrap();
    let foreign = std::fs::read_to_string(&other.token).unwrap();
    let (head, _) = text.trim().rsplit_once('.').unwrap();
    let (_, secret) = foreign.trim().rsplit_once('.').unwrap();
    let path = cluster.base.path().join("wrong.token");
    std::fs::write(&path, format!("{head}.{secret}")).unwrap();
    for member in 0..3 {
        let wrong = Stranger {
            name: format!("wrong-{member}"),
            token: &path,
            expect: 1,
            exit: Some(5),
            code: "SW-FOUND-WRONG-SECRET",
        };
        turned_away(&cluster, member, &wrong).await;
    }
    // A join token of another cluster pins another authority.
    let mut node = Node::new(cluster.base.path(), "foreign-join");
    node.start(&cluster.seeds[..1], Some(&foreign_join), 1);
    until("both sides say that the authority is another one", || async {
        let who = format!("peer={}", node.listen);
        let member = cluster.nodes[0].log_text();
        let told = |log: &str| log.lines().any(|line| line.contains("SW-MESH-"));
        let of_member = member.lines().any(|line| line.contains(&who) && told(line));
        (told(&node.log_text()) && of_member).then_some(())
    })
    .await;
    node.kill();
    other.nodes[0].kill();
    for node in &cluster.nodes {
        let members = get(&cluster.http, &node.api_url("/v1/members")).await.unwrap();
        assert_eq!(members.json()["items"].as_array().unwrap().len(), 3, "{}", members.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_cluster_among_the_seeds_stops_no_founding() {
    let other = Cluster::found(1).await;
    let mut cluster = Cluster::prepare(3);
    cluster.seeds.insert(0, other.seeds[0].clone());
    cluster.start(0);
    let code = "SW-FOUND-OTHER-CLUSTER";
    until("it says who told it, and goes on", || async {
        let url = cluster.nodes[0].api_url("/readyz");
        let stage = get(&cluster.http, &url).await.ok()?.text();
        let log = cluster.nodes[0].log_text();
        let told = log.lines().any(|l| l.contains(code) && l.contains(&other.seeds[0]));
        (told && stage.contains("waiting for 2 more founders") && stage.contains("at a seed"))
            .then_some(())
    })
    .await;
    cluster.start(1);
    cluster.start(2);
    cluster.all_ready().await;
}
