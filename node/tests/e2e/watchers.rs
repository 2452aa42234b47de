//! Many watchers, one of which never reads.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    bad_input::problem,
    common::{Cluster, Http, PATIENCE, request, until},
};

/// As many as a node takes.
const WATCHERS: usize = 1000;
const RENEWALS: usize = 40;
/// What one note of a lease may hold, and how many notes make a lease nearly as large as it may be.
const NOTE_BYTES: usize = 1000;
const NOTES: usize = 7;
/// Renewals of such leases: more than the history of 16 MiB and the buffers of a socket hold. Not
/// many more, and many at once: a client that takes nothing for half a minute is cut off, and they
/// are to be over by then, however busy the machine is.
const LARGE_RENEWALS: usize = 3200;
const LARGE_LEASES: usize = 32;
/// What a watcher has room for that it did not read yet.
const ROOM_BYTES: u32 = 1 << 16;

async fn watch(cluster: &Cluster, node: usize) -> TcpStream {
    let address = cluster.nodes[node].api;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(ROOM_BYTES).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = format!("GET /v1/watch?prefix=leases/ HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Reads a watch until this text has come.
async fn read_until(stream: &mut TcpStream, last: &str) -> String {
    let mut text = Vec::new();
    let mut searched = 0;
    while !text[searched..].windows(last.len()).any(|bytes| bytes == last.as_bytes()) {
        searched = text.len().saturating_sub(last.len());
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut text)).await;
        assert!(read.unwrap().unwrap() > 0, "the watch ended without {last}");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The revisions in the order in which they came.
fn revisions(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
}

/// Changes a lease; its token, and the revision of the change.
async fn lease(http: &Http, url: &str, body: Value) -> (u64, u64) {
    let answer = request(http, "POST", url, body.to_string()).await.unwrap();
    assert!(answer.status < 300, "{}", answer.text());
    let lease = answer.json();
    let number = |at: &str| lease.pointer(at).and_then(Value::as_u64).unwrap();
    (number("/status/token"), number("/metadata/revision"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_of_which_one_never_reads_hold_up_nobody() {
    let cluster = Cluster::found(3).await;
    let leader = cluster.leader(0).await;
    let mut deaf = watch(&cluster, leader).await;
    let mut streams = Vec::new();
    for _ in 1..WATCHERS {
        streams.push(watch(&cluster, leader).await);
    }
    let watches = async |count: usize| {
        until(&format!("{count} watch"), || async {
            let open = cluster.metric(leader, "swarmer_api_watches").await;
            (open == count as u64).then_some(())
        })
        .await;
    };
    watches(WATCHERS).await;
    // No further one is let in.
    let url = cluster.nodes[leader].api_url("/v1/watch");
    let refused = request(&cluster.http, "GET", &url, "").await.unwrap();
    problem(&refused, 503, "SW-API-BUSY", &["watches"]);
    assert_eq!(refused.header("retry-after"), "5");

    let base = cluster.nodes[leader].api_url("/v1/namespaces/default/leases");
    let wanted = json!({ "holder": "a", "ttl": "1h" });
    let (token, acquired) =
        lease(&cluster.http, &format!("{base}/l/acquire"), wanted.clone()).await;
    let mut written = vec![acquired];
    let last = format!("renewal-{}", RENEWALS - 1);
    let mut readers = JoinSet::new();
    for mut stream in streams {
        let last = last.clone();
        readers.spawn(async move { revisions(&read_until(&mut stream, &last).await) });
    }
    let mut slowest = Duration::ZERO;
    for i in 0..RENEWALS {
        let start = Instant::now();
        let note = json!({ "n": format!("renewal-{i}") });
        let renewal = json!({ "token": token, "annotations": note });
        written.push(lease(&cluster.http, &format!("{base}/l/renew"), renewal).await.1);
        slowest = slowest.max(start.elapsed());
    }
    println!("the slowest of {RENEWALS} renewals beside {WATCHERS} watchers took {slowest:?}");
    while let Some(revisions) = readers.join_next().await {
        assert_eq!(revisions.unwrap(), written, "every change, each once, in order");
    }
    watches(1).await;

    // The one that does not read falls behind all that is kept for it.
    let mut writers = JoinSet::new();
    for i in 0..LARGE_LEASES {
        let (http, base, wanted) = (cluster.http.clone(), base.clone(), wanted.clone());
        writers.spawn(async move {
            let notes = (0..NOTES).map(|n| (format!("n{n}"), "x".repeat(NOTE_BYTES)));
            let notes: BTreeMap<String, String> = notes.collect();
            let (token, acquired) =
                lease(&http, &format!("{base}/large-{i}/acquire"), wanted).await;
            let mut written = vec![acquired];
            for _ in 0..LARGE_RENEWALS / LARGE_LEASES {
                let renewal = json!({ "token": token, "annotations": &notes });
                written.push(lease(&http, &format!("{base}/large-{i}/renew"), renewal).await.1);
            }
            written
        });
    }
    while let Some(writer) = writers.join_next().await {
        written.extend(writer.unwrap());
    }
    written.sort_unstable();
    // It has the beginning, in order and whole, and then the word that it must list again.
    let text = read_until(&mut deaf, "event: compacted").await;
    let got = revisions(&text);
    assert!(got.len() > RENEWALS, "it was given no more than all others: {}", got.len());
    assert!(written.starts_with(&got), "a hole before the end");
    assert!(got.len() < LARGE_RENEWALS, "it was given all: {}", got.len());
    assert_eq!(cluster.metric(leader, "swarmer_api_watches_behind_total").await, 1);
    watches(0).await;
}
