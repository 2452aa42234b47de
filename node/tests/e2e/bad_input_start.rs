//! Ports and data directories that a node cannot have: it says so and ends at once, and whoever
//! has them goes on.

use std::time::Duration;

use serde_json::Value;

use crate::{
    bad_input::{Neighbour, refused, with_hello},
    common::{Cluster, Node, until},
};

/// How long a node may take to find out that it cannot start.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_with_its_flag() {
    let cluster = Cluster::found(1).await;
    with_hello(&cluster).await;
    let running = &cluster.nodes[0];
    let neighbour = Neighbour::of(&cluster.http, running);
    type Set = fn(&mut Node, std::net::SocketAddr);
    let cases: [(&str, std::net::SocketAddr, Set); 3] = [
        ("--listen", running.listen, |node, address| node.listen = address),
        ("--http", running.http, |node, address| node.http = address),
        ("--api", running.api, |node, address| node.api = address),
    ];
    for (flag, address, set) in cases {
        let mut node = Node::new(cluster.base.path(), &flag[2..]);
        set(&mut node, address);
        let output = node.fails(&[], Some(&cluster.token), 1, SOON);
        refused(&output, 1, "SW-NODE-PORT-IN-USE", &[&format!("{flag} {address}")]);
    }
    // The same node starts once the port is another.
    let token = cluster.join_token(&[]);
    let mut node = Node::new(cluster.base.path(), "api");
    node.start(&cluster.seeds, Some(&token), 1);
    node.ready(&cluster.http).await;
    neighbour.fine().await;
}

fn edit(path: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_node_cluster_or_version_is_refused() {
    let cluster = Cluster::found(1).await;
    with_hello(&cluster).await;
    let running = &cluster.nodes[0];
    let neighbour = Neighbour::of(&cluster.http, running);
    let base = cluster.base.path();
    let refuse = |node: &Node, token: Option<&std::path::Path>, code: &str, words: &[&str]| {
        refused(&node.fails(&cluster.seeds, token, 1, SOON), 1, code, words);
    };
    // Of a node that lives.
    let mut locked = Node::new(base, "n1");
    locked.dir.clone_from(&running.dir);
    let path = running.dir.to_str().unwrap().to_owned();
    refuse(&locked, Some(&cluster.token), "SW-NODE-DATA-DIR-LOCKED", &[&path]);

    // A member of another cluster, which has stopped.
    let mut other = Cluster::found(1).await;
    other.nodes[0].stop();
    let foreign = &other.nodes[0];
    let dir = foreign.dir.to_str().unwrap().to_owned();
    let mut taken = Node::new(base, "thief");
    taken.dir.clone_from(&foreign.dir);
    refuse(&taken, None, "SW-NODE-DATA-DIR-FOREIGN", &[&dir, "\"n1\"", "\"thief\""]);
    // It keeps its name, but shall join this cluster, or found it.
    let mut moved = Node::new(base, "n1");
    moved.dir.clone_from(&foreign.dir);
    let join = cluster.join_token(&[]);
    let ids = [&cluster, &other].map(|cluster| {
        let text = std::fs::read_to_string(cluster.nodes[0].dir.join("node.json")).unwrap();
        let meta: Value = serde_json::from_str(&text).unwrap();
        meta["cluster"].as_str().unwrap().to_owned()
    });
    for token in [&join, &cluster.token] {
        refuse(&moved, Some(token), "SW-NODE-DATA-DIR-FOREIGN", &[&dir, &ids[0], &ids[1]]);
    }
    // Files of two directories in one: the membership of another node.
    let node_json = foreign.dir.join("node.json");
    let kept = std::fs::read(&node_json).unwrap();
    edit(&node_json, |meta| meta["node"] = "00000000000000aa".into());
    refuse(&moved, None, "SW-NODE-DATA-DIR-FOREIGN", &["identity.json"]);
    std::fs::write(&node_json, &kept).unwrap();
    edit(&node_json, |meta| meta["cluster"] = ids[0].clone().into());
    refuse(&moved, None, "SW-NODE-DATA-DIR-FOREIGN", &[&ids[0], &ids[1]]);
    // Of a newer version: its own files, and its log.
    std::fs::write(&node_json, &kept).unwrap();
    edit(&node_json, |meta| meta["format"] = 99.into());
    refuse(&moved, None, "SW-NODE-DATA-DIR-FOREIGN", &["newer version", "99"]);
    // Not a node's directory at all.
    let mut photos = Node::new(base, "photos");
    photos.dir = base.join("pictures");
    std::fs::create_dir(&photos.dir).unwrap();
    std::fs::write(photos.dir.join("cat.jpg"), "meow").unwrap();
    refuse(&photos, Some(&join), "SW-NODE-DATA-DIR-FOREIGN", &["cat.jpg"]);
    std::fs::remove_dir_all(&photos.dir).unwrap();
    std::fs::write(&photos.dir, "a file").unwrap();
    refuse(&photos, Some(&join), "SW-NODE-DATA-DIR", &["pictures"]);

    // None of this harmed it: back with its own files it is what it was.
    std::fs::write(&node_json, &kept).unwrap();
    other.start(0);
    other.all_ready().await;
    until("the hijacked one is itself again", || async {
        (other.status(0).await["cluster"] == ids[1].as_str()).then_some(())
    })
    .await;
    neighbour.fine().await;
}
