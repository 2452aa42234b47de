//! Links that are not the plain one of a test: IPv6, small packets, and addresses that are not what a
//! socket is bound to and that change under way.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::Command,
    sync::Arc,
};

use serde_json::Value;
use swarmer_testkit::{Capability, require};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use crate::{
    common::{Cluster, get, until},
    keys::{Load, with_hello_on_all},
};

/// The smallest packet that every IPv6 link must carry (RFC 8200, 5).
const LEAST_MTU: &str = "1280";
/// How often the translator forgets where everybody came from.
const REBINDS: usize = 8;
const LARGEST_DATAGRAM: usize = 65_535;

/// The same port of `::1`.
fn six(address: SocketAddr) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_ipv6_addresses_founds_serves_and_survives_a_death() {
    if !require(Capability::Ipv6) {
        return;
    }
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        for address in [&mut node.listen, &mut node.http, &mut node.api] {
            *address = six(*address);
            assert!(TcpListener::bind(*address).is_ok(), "{address} is free there too");
        }
    }
    cluster.seeds = cluster.nodes.iter().map(|node| node.listen.to_string()).collect();
    for i in 0..3 {
        cluster.start(i);
    }
    cluster.all_ready().await;
    with_hello_on_all(&cluster, "1").await;
    let members: Value =
        serde_json::from_str(&cluster.nodes[1].cli_ok(&["members", "-o", "json"])).unwrap();
    let address = members["items"][0]["address"].as_str().unwrap();
    assert!(address.starts_with("[::1]:"), "{address}");
    let url = cluster.nodes[0].url("/hello");
    let serving = get(&cluster.http, &url).await.unwrap();
    let name = serving.header("x-swarmer-node").to_owned();
    let victim = cluster.nodes.iter().position(|node| node.name == name).unwrap();
    cluster.nodes[victim].kill();
    let others: Vec<usize> = (0..3).filter(|i| *i != victim).collect();
    cluster.serves(&others, "/hello").await;
}

/// The test above once more, in a network of its own whose packets are small.
#[test]
fn packets_of_1280_bytes_are_enough() {
    if !require(Capability::NetNamespaces) || !require(Capability::Ipv6) {
        return;
    }
    let script = format!("ip link set lo up mtu {LEAST_MTU} && exec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "links::a_cluster_of_ipv6_addresses_founds_serves_and_survives_a_death"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// An address at which a node is reached, and which is not its own: datagrams that come to it go on
/// from a port for each sender.
struct Translator {
    address: SocketAddr,
    rebind: mpsc::Sender<()>,
    _task: JoinSet<()>,
}

impl Translator {
    async fn of(node: SocketAddr) -> Self {
        let outside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = outside.local_addr().unwrap();
        let (rebind, rebinds) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(translate(outside, node, rebinds));
        Self { address, rebind, _task: task }
    }
}

async fn translate(outside: Arc<UdpSocket>, node: SocketAddr, mut rebinds: mpsc::Receiver<()>) {
    let mut ports: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        tokio::select! {
            // What was on its way back is lost with the port, as with a real one.
            Some(()) = rebinds.recv() => {
                answers.abort_all();
                ports.clear();
            }
            received = outside.recv_from(&mut datagram) => {
                let Ok((length, sender)) = received else { continue };
                let port = match ports.entry(sender) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(free) => {
                        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                        port.connect(node).await.unwrap();
                        let port = free.insert(Arc::new(port));
                        answers.spawn(pass_back(port.clone(), outside.clone(), sender));
                        port
                    }
                };
                // Nobody may be there yet.
                let _ = port.send(&datagram[..length]).await;
            }
        }
    }
}

async fn pass_back(port: Arc<UdpSocket>, outside: Arc<UdpSocket>, sender: SocketAddr) {
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        if let Ok(length) = port.recv(&mut datagram).await {
            let _ = outside.send_to(&datagram[..length], sender).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_behind_translators_that_rebind_lose_no_request_and_no_member() {
    let mut cluster = Cluster::prepare(3);
    let mut translators = Vec::new();
    for node in &mut cluster.nodes {
        let translator = Translator::of(node.listen).await;
        node.extra = vec!["--advertise".into(), translator.address.to_string()];
        translators.push(translator);
    }
    cluster.seeds = translators.iter().map(|one| one.address.to_string()).collect();
    for i in 0..3 {
        cluster.start(i);
    }
    cluster.all_ready().await;
    // Two of three nodes pass their requests on.
    with_hello_on_all(&cluster, "1").await;
    let term = cluster.status(0).await["term"].clone();
    let load = Load::on(&cluster, &[0, 1, 2]);
    for round in 0..REBINDS {
        let before = load.good();
        until("requests are answered", || async { (load.good() > before + 40).then_some(()) })
            .await;
        translators[round % 3].rebind.send(()).await.unwrap();
    }
    let before = load.good();
    until("requests are answered", || async { (load.good() > before + 40).then_some(()) }).await;
    load.none_failed().await;
    assert_eq!(cluster.status(0).await["term"], term, "the leader was not lost");
    for node in &cluster.nodes {
        let log = node.log_text();
        assert!(!log.contains("after=down"), "{log}");
    }
}
