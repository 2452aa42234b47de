//! Cuts cut, mending mends, and nothing is left of a harness that was killed.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use chaos_tests::cluster::{Namespace, Network, Quality, Wires};
use swarmer_testkit::{Capability, require};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PORT: u16 = 7000;
/// A connection that is not cut takes well under a millisecond; on a busy machine, longer.
const SOON: Duration = Duration::from_secs(20);
/// By then one that is cut would have come through, but for its cut.
const LONG: Duration = Duration::from_millis(300);

fn possible() -> bool {
    require(Capability::NetNamespaces) && require(Capability::Nftables)
}

async fn listen(network: &Network, node: usize) {
    let address = SocketAddr::from((Network::address(node), PORT));
    let bound = network.inside(node).handle().spawn(TcpListener::bind(address));
    let listener = bound.await.expect("the task ran").expect("the port is free");
    network.inside(node).handle().spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            drop(accepted);
        }
    });
}

async fn connects(network: &Network, from: usize, to: usize, within: Duration) -> bool {
    let address = SocketAddr::from((Network::address(to), PORT));
    let connect = async move { timeout(within, TcpStream::connect(address)).await };
    let connected = network.inside(from).handle().spawn(connect).await.expect("the task ran");
    connected.is_ok_and(|connection| connection.is_ok())
}

async fn reaches(network: &Network, from: usize, to: usize) -> bool {
    connects(network, from, to, SOON).await
}

async fn is_cut(network: &Network, from: usize, to: usize) -> bool {
    !connects(network, from, to, LONG).await
}

#[tokio::test]
async fn what_is_cut_does_not_come_through_until_it_is_mended() {
    if !possible() {
        return;
    }
    let network = Network::new(3).unwrap();
    for node in 0..3 {
        listen(&network, node).await;
    }
    assert!(reaches(&network, 0, 1).await && reaches(&network, 2, 1).await);
    network.cut(&BTreeSet::from([(0, 1)]), 0).unwrap();
    assert!(is_cut(&network, 0, 1).await, "what 0 sends does not arrive");
    assert!(is_cut(&network, 1, 0).await, "nor do answers of 0");
    assert!(reaches(&network, 0, 2).await && reaches(&network, 2, 1).await);
    network.cut(&BTreeSet::new(), 100).unwrap();
    assert!(is_cut(&network, 2, 1).await, "everything is lost");
    network.cut(&BTreeSet::new(), 0).unwrap();
    assert!(reaches(&network, 0, 1).await && reaches(&network, 1, 0).await);
}

#[tokio::test]
async fn our_own_switch_delivers_delays_and_is_cut_like_any_network() {
    if !possible() || !require(Capability::Tun) {
        return;
    }
    let network = Network::switched(3, Wires::new(1)).unwrap();
    for node in 0..3 {
        listen(&network, node).await;
    }
    assert!(reaches(&network, 0, 1).await && reaches(&network, 2, 0).await);
    let late = Quality { delay_ms: 200, ..Quality::default() };
    let id = network.wires().unwrap().lock().degrade(vec![(0, 1), (1, 0)], late);
    let began = std::time::Instant::now();
    assert!(reaches(&network, 0, 1).await);
    assert!(began.elapsed() >= Duration::from_millis(400), "there and back");
    network.wires().unwrap().lock().heal(id);
    network.cut(&BTreeSet::from([(0, 1)]), 0).unwrap();
    assert!(is_cut(&network, 0, 1).await && reaches(&network, 2, 1).await);
    network.cut(&BTreeSet::new(), 0).unwrap();
    assert!(reaches(&network, 0, 1).await);
}

/// Holds a namespace until it is killed.
#[test]
#[ignore = "child of a_killed_harness_leaves_no_namespace"]
fn child() {
    let namespace = Namespace::new().unwrap();
    println!("holder {}", namespace.pid());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_harness_leaves_no_namespace() {
    if !possible() {
        return;
    }
    let mut harness = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let holder = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("holder ")?.1.trim().to_owned()))
        .unwrap();
    let there = || {
        let stat = std::fs::read_to_string(format!("/proc/{holder}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().to_owned();
        !stat.is_empty() && !state.starts_with('Z')
    };
    assert!(there());
    harness.kill().unwrap();
    harness.wait().unwrap();
    let began = std::time::Instant::now();
    while there() {
        assert!(began.elapsed() < Duration::from_secs(10), "process {holder} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}
