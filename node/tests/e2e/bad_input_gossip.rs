//! A member gone bad: it holds the cluster's gossip key and a key of its own, replays, and speaks
//! for others. It changes nothing, and the log says what came.

use std::{net::SocketAddr, path::Path};

use serde::Serialize;
use serde_json::Value;
use swarmer_gossip::{Envelope, Facts, Key, Keyring, Record, SignedRecord, Signer};
use swarmer_mesh::identity::NodeKey;
use swarmer_model::{ClusterId, NodeId};
use tokio::net::UdpSocket;

use crate::{
    bad_input::{Neighbour, with_hello},
    common::{Cluster, Node, get, until},
};

/// How often each is sent.
const TIMES: u64 = 50;

/// The one message of gossip that carries records, as it is on the wire: the fourth of its kind.
#[derive(Serialize)]
enum Message {
    #[expect(dead_code, reason = "takes the place of what is not sent here")]
    Swim,
    #[expect(dead_code, reason = "takes the place of what is not sent here")]
    Join,
    #[expect(dead_code, reason = "takes the place of what is not sent here")]
    Welcome,
    Records {
        hot: bool,
        records: Vec<SignedRecord>,
    },
}

struct By(NodeKey);

impl Signer for By {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes)
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Who a node is: its id and its count of starts.
fn who(node: &Node) -> (NodeId, u64) {
    let meta = json(&node.dir.join("node.json"));
    (meta["node"].as_str().unwrap().parse().unwrap(), meta["boot"].as_u64().unwrap())
}

/// A counter of what the node refused.
async fn refusals(cluster: &Cluster, reason: &str) -> u64 {
    let name = format!("swarmer_gossip_refused_total{{reason=\"{reason}\"}}");
    cluster.metric(0, &name).await
}

/// What the first node thinks of the second one.
async fn opinion(cluster: &Cluster) -> Value {
    let url = cluster.nodes[0].api_url("/v1/members");
    let members = get(&cluster.http, &url).await.unwrap().json();
    let items = members["items"].as_array().unwrap();
    let member = items.iter().find(|member| member["name"] == "n2").unwrap();
    ["name", "id", "address", "state", "region", "zone", "voter", "version"]
        .iter()
        .map(|field| ((*field).to_owned(), member[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_datagrams_and_forged_records_change_nothing_and_are_told() {
    let mut cluster = Cluster::found(3).await;
    with_hello(&cluster).await;
    // The third one dies; from now on this test speaks in its name.
    cluster.nodes[2].kill();
    let evil_dir = cluster.nodes[2].dir.clone();
    let identity = json(&evil_dir.join("identity.json"));
    let gossip_key = &identity["gossip_keys"][0];
    let mut key = [0; 32];
    hex::decode_to_slice(gossip_key["key"].as_str().unwrap(), &mut key).unwrap();
    let keyring = Keyring::new(gossip_key["id"].as_u64().unwrap().try_into().unwrap(), Key(key));
    let id: ClusterId = identity["cluster"].as_str().unwrap().parse().unwrap();
    let signer = By(NodeKey::load(&evil_dir.join("node.key")).unwrap());
    let (victim, victim_boot) = who(&cluster.nodes[0]);
    let (other, other_boot) = who(&cluster.nodes[1]);
    let (evil, evil_boot) = who(&cluster.nodes[2]);
    let mut envelope = Envelope::new(id, evil, evil_boot + 1, keyring, [7; 32]);
    let mut seal = |record: &Record| {
        let records = vec![record.sign(id, &signer).unwrap()];
        let message = postcard::to_stdvec(&Message::Records { hot: true, records }).unwrap();
        envelope.seal(Some((victim, victim_boot)), &message, true).unwrap()
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to: SocketAddr = cluster.nodes[0].listen;
    let neighbour = Neighbour::of(&cluster.http, &cluster.nodes[0]);
    let before = opinion(&cluster).await;
    assert_eq!(before["state"], "alive", "{before}");

    // What it says of itself is heard once. The very same bytes again are not, from wherever.
    let own = Record {
        node: evil,
        boot: evil_boot + 1,
        version: 1,
        left: false,
        facts: Facts { name: "n3".into(), addresses: vec![to], ..Facts::default() },
    };
    let good = seal(&own);
    assert_eq!(refusals(&cluster, "replayed").await, 0);
    for _ in 0..=TIMES {
        socket.send_to(&good, to).await.unwrap();
    }
    until("replays are refused and counted", || async {
        (refusals(&cluster, "replayed").await == TIMES).then_some(())
    })
    .await;
    assert_eq!(refusals(&cluster, "forged-record").await, 0, "the record itself was good");

    // In the name of another member, newer than anything that it said: that it left, that it is
    // somewhere else.
    for version in 0..TIMES {
        let forged = Record {
            node: other,
            boot: other_boot + 1 + version,
            version: 1,
            left: version % 2 == 0,
            facts: Facts { name: "n2".into(), addresses: vec![to], ..Facts::default() },
        };
        socket.send_to(&seal(&forged), to).await.unwrap();
    }
    until("forgeries are refused and counted", || async {
        (refusals(&cluster, "forged-record").await == TIMES).then_some(())
    })
    .await;
    // Bytes that nobody sealed, below the bit that marks QUIC.
    for i in 0..TIMES {
        let noise: Vec<u8> = (0..200).map(|at| if at == 0 { 1 } else { (i + at) as u8 }).collect();
        socket.send_to(&noise, to).await.unwrap();
    }
    until("noise is refused and counted", || async {
        (refusals(&cluster, "foreign-cluster").await == TIMES).then_some(())
    })
    .await;

    assert_eq!(opinion(&cluster).await, before);
    neighbour.fine().await;
    cluster.serves(&[0, 1], "/hello").await;
    let log = cluster.nodes[0].log_text();
    for reason in ["replayed", "forged-record", "foreign-cluster"] {
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(&format!("reason={reason}")))
            .inspect(|line| assert!(line.contains("SW-GOSSIP-REFUSED"), "{line}"))
            .collect();
        assert!(!lines.is_empty(), "{reason} is not in the log");
        assert!(lines.len() < 10, "a flood of {reason} is one of log lines: {}", lines.len());
        let from = format!("from={}", socket.local_addr().unwrap());
        assert!(lines[0].contains(&from), "it does not say who: {}", lines[0]);
    }
}
