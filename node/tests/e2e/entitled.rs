//! A node speaks only for functions that are placed on it or that it is a candidate for.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use quinn::{RecvStream, SendStream};
use serde_json::Value;
use swarmer_mesh::{
    call::{self, CallError, CallHead, Destination},
    identity::{
        Admission, Identity, Membership, NodeCertificate, NodeKey, SystemClock, TrustBundle,
        Verdict, Workload,
    },
    stream::{Class, StreamKind},
    transport::{
        AddressBook, Config, Dependencies, Entry, Handle, JoinHandler, Peer, StreamHandler,
        Transport,
    },
};
use swarmer_model::{ClusterId, Digest, NodeId};
use swarmer_runtime::fixtures;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::common::{Cluster, Node, get, until};

/// Believes every node, knows where one is, and serves nothing.
struct Alone(SocketAddr);

impl Admission for Alone {
    fn check(&self, _: NodeId, _: &[u8]) -> Verdict {
        Verdict::Admitted
    }

    fn voter(&self, _: NodeId) -> bool {
        false
    }
}

impl AddressBook for Alone {
    fn address(&self, _: NodeId) -> Option<SocketAddr> {
        Some(self.0)
    }
}

#[async_trait]
impl StreamHandler for Alone {
    async fn handle(&self, _: Peer, _: StreamKind, _: SendStream, _: RecvStream) {}
}

#[async_trait]
impl JoinHandler for Alone {
    async fn join(&self, _: SocketAddr, _: Entry, _: [u8; 32], _: SendStream, _: RecvStream) {}
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn node_id(dir: &Path) -> NodeId {
    json(&dir.join("node.json"))["node"].as_str().unwrap().parse().unwrap()
}

/// The transport of a stopped node, with its key and certificate, in the hands of this test.
fn impersonate(dir: &Path, peer: SocketAddr, shutdown: &CancellationToken) -> (ClusterId, Handle) {
    let grant = json(&dir.join("identity.json"));
    let cluster: ClusterId = grant["cluster"].as_str().unwrap().parse().unwrap();
    let key = NodeKey::load(&dir.join("node.key")).unwrap();
    let certificate = NodeCertificate::from_der(bytes(&grant["certificate"])).unwrap();
    let bundle = TrustBundle::new([bytes(&grant["ca"])]).unwrap();
    let membership = Membership { cluster, certificate, bundle };
    let identity = Identity::member(node_id(dir), key, membership);
    let config = Config::new(([127, 0, 0, 1], 0).into(), tokio::runtime::Handle::current());
    let alone = Arc::new(Alone(peer));
    let dependencies = Dependencies {
        admission: Arc::clone(&alone) as Arc<dyn Admission>,
        addresses: Arc::clone(&alone) as Arc<dyn AddressBook>,
        clock: Arc::new(SystemClock),
    };
    let (transport, handle, _) = Transport::build(config, identity, dependencies).unwrap();
    tokio::spawn(transport.run(Arc::clone(&alone) as Arc<_>, alone, shutdown.clone()));
    (cluster, handle)
}

/// Calls `target` on the node as this workload; its status, or the error.
async fn call_as(
    handle: &Handle,
    peer: NodeId,
    source: Option<Workload>,
) -> Result<u16, CallError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let opened = handle.open(peer, Class::Data, StreamKind::Call, deadline).await;
    let (send, recv) = opened.map_err(CallError::unreachable)?;
    let destination =
        Destination { namespace: "default".into(), name: "target".into(), version: Some(1) };
    let mut head = CallHead::new(http::Method::GET, "/target", destination);
    head.authority = "target.internal".into();
    head.source = source;
    let response = call::send_call(send, recv, head, call::empty(), deadline).await?;
    Ok(response.status().as_u16())
}

async fn refused(cluster: &Cluster) -> u64 {
    let metrics = get(&cluster.http, &cluster.nodes[0].api_url("/metrics")).await.unwrap().text();
    let name = "swarmer_dispatch_not_entitled_total{claim=\"source\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_speaks_for_a_function_of_others_is_refused() {
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].extra = vec!["--region".into(), "eu".into()];
    cluster.start(0);
    cluster.all_ready().await;
    let token = cluster.join_token(&["--region", "us"]);
    let mut other = Node::new(cluster.base.path(), "other");
    other.start(&cluster.seeds, Some(&token), 1);
    other.ready(&cluster.http).await;
    cluster.nodes.push(other);

    let dir = cluster.base.path().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hello.wasm"), fixtures::hello_p2()).unwrap();
    std::fs::write(dir.join("caller.wasm"), fixtures::caller()).unwrap();
    // `caller` sends a request to what its path names.
    let function = |name: &str, component: &str, route: &str, region: &str| {
        format!(
            "[[function]]\nname = \"{name}\"\ncomponent = \"{component}.wasm\"\n\
             route = \"{route}\"\nregions = [\"{region}\"]\n"
        )
    };
    let manifest = [
        "name = \"app\"\n".to_owned(),
        function("target", "hello", "/target", "eu"),
        function("front", "caller", "/front", "eu"),
        function("own", "caller", "/", "us"),
    ];
    std::fs::write(dir.join("swarmer.toml"), manifest.concat()).unwrap();
    cluster.nodes[0].cli_ok(&["deploy", dir.to_str().unwrap()]);
    // A function on the one node calls one on the other: every claim is true, and it works.
    let url = cluster.nodes[1].url("/target.internal/target");
    until("a call from node to node", || async {
        get(&cluster.http, &url).await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(refused(&cluster).await, 0);

    // The same node with the same key, as somebody who took it over would use it.
    cluster.nodes[1].stop();
    let shutdown = CancellationToken::new();
    let (id, handle) = impersonate(&cluster.nodes[1].dir, cluster.nodes[0].listen, &shutdown);
    let peer = node_id(&cluster.nodes[0].dir);
    let caller = Digest::of(&fixtures::caller());
    let workload = |cluster, name: &str, component| {
        let (namespace, name) = ("default".into(), name.into());
        Some(Workload { cluster, namespace, name, component })
    };
    let foreign = ClusterId(id.0 ^ 1);
    assert_eq!(call_as(&handle, peer, None).await, Ok(200), "from outside, through that node");
    assert_eq!(call_as(&handle, peer, workload(id, "own", caller)).await, Ok(200), "its own");
    for (what, source) in [
        ("a function of the other node", workload(id, "front", caller)),
        ("no function", workload(id, "nobody", caller)),
        ("its own, with other code", workload(id, "own", Digest::of(b"other code"))),
        ("its own, of another cluster", workload(foreign, "own", caller)),
    ] {
        assert_eq!(call_as(&handle, peer, source).await, Err(CallError::NotEntitled), "{what}");
    }
    assert_eq!(refused(&cluster).await, 4);
    let log = cluster.nodes[0].log_text();
    let line = log.lines().find(|line| line.contains("SW-MESH-NOT-ENTITLED"));
    let line = line.unwrap_or_else(|| panic!("it is not in the log: {log}"));
    assert!(line.contains("other") && line.contains("/ns/default/fn/front"), "{line}");
    shutdown.cancel();
}
