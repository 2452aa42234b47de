//! A node speaks only for functions that are placed on it or that it is a candidate for, and only
//! such a node may answer as a function.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use serde_json::Value;
use swarmer_mesh::{
    call::{self, CallError, CallHead, Destination, Served},
    identity::{
        Admission, Identity, Membership, NodeCertificate, NodeKey, SystemClock, TrustBundle,
        Verdict, Workload,
    },
    stream::{Class, StreamKind, read_frame, write_frame},
    transport::{
        AddressBook, Config, Dependencies, Entry, Handle, JoinHandler, Peer, StreamHandler,
        Transport,
    },
};
use swarmer_model::{ClusterId, Digest, NodeId};
use swarmer_runtime::fixtures;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    bad_input::problem,
    common::{Cluster, Node, get, until},
};

/// Believes every node, knows where one is, and says of every call what it is told to say.
struct Impostor {
    peer: SocketAddr,
    served: Arc<Mutex<Served>>,
}

impl Admission for Impostor {
    fn check(&self, _: NodeId, _: &[u8]) -> Verdict {
        Verdict::Admitted
    }

    fn voter(&self, _: NodeId) -> bool {
        false
    }
}

impl AddressBook for Impostor {
    fn address(&self, _: NodeId) -> Option<SocketAddr> {
        Some(self.peer)
    }
}

#[async_trait]
impl StreamHandler for Impostor {
    async fn handle(&self, _: Peer, kind: StreamKind, mut send: SendStream, mut recv: RecvStream) {
        match kind {
            StreamKind::Call => {
                let Ok(call) = call::receive_call(send, recv).await else { return };
                let answer = http::Response::new(call::full("so I say"));
                let served = *self.served.lock();
                let _ = call.responder.respond(answer, served).await;
            }
            // It lives: nobody is to look for another node.
            StreamKind::Ping => {
                if let Ok(body) = read_frame(&mut recv, 1024).await
                    && write_frame(&mut send, body).await.is_ok()
                {
                    let _ = send.finish();
                }
            }
            _ => {}
        }
    }
}

#[async_trait]
impl JoinHandler for Impostor {
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

/// The transport of a node that is gone, with its address, key and certificate, in the hands of
/// this test.
struct Taken {
    cluster: ClusterId,
    /// The one that goes on.
    peer: NodeId,
    handle: Handle,
    /// Who serves the calls that come in, by its own word.
    served: Arc<Mutex<Served>>,
    shutdown: CancellationToken,
}

impl Taken {
    /// Takes over from the second node.
    fn over(cluster: &Cluster) -> Self {
        let [peer, gone] = &cluster.nodes[..] else { panic!("a cluster of two") };
        let grant = json(&gone.dir.join("identity.json"));
        let cluster: ClusterId = grant["cluster"].as_str().unwrap().parse().unwrap();
        let key = NodeKey::load(&gone.dir.join("node.key")).unwrap();
        let certificate = NodeCertificate::from_der(bytes(&grant["certificate"])).unwrap();
        let bundle = TrustBundle::new([bytes(&grant["ca"])]).unwrap();
        let membership = Membership { cluster, certificate, bundle };
        let node = node_id(&gone.dir);
        let identity = Identity::member(node, key, membership);
        let config = Config::new(gone.listen, tokio::runtime::Handle::current());
        let served = Arc::new(Mutex::new(Served { node, version: Some(1), revision: 1 }));
        let impostor = Arc::new(Impostor { peer: peer.listen, served: served.clone() });
        let dependencies = Dependencies {
            admission: Arc::clone(&impostor) as Arc<dyn Admission>,
            addresses: Arc::clone(&impostor) as Arc<dyn AddressBook>,
            clock: Arc::new(SystemClock),
        };
        let (transport, handle, _) = Transport::build(config, identity, dependencies).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(transport.run(Arc::clone(&impostor) as Arc<_>, impostor, shutdown.clone()));
        Self { cluster, peer: node_id(&peer.dir), handle, served, shutdown }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
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

/// How often the first node refused this claim.
async fn refused(cluster: &Cluster, claim: &str) -> u64 {
    let name = format!("swarmer_dispatch_not_entitled_total{{claim=\"{claim}\"}}");
    cluster.metric(0, &name).await
}

/// Two nodes in two regions. `target` and `front` are functions of the first, `own` of the second;
/// it has all paths that no other has.
async fn two_regions() -> Cluster {
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
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_speaks_for_a_function_of_others_is_refused() {
    let mut cluster = two_regions().await;
    assert_eq!(refused(&cluster, "source").await, 0);

    // The same node with the same key, as somebody who took it over would use it.
    cluster.nodes[1].stop();
    let taken = Taken::over(&cluster);
    let (id, handle, peer) = (taken.cluster, &taken.handle, taken.peer);
    let caller = Digest::of(&fixtures::caller());
    let workload = |cluster, name: &str, component| {
        let (namespace, name) = ("default".into(), name.into());
        Some(Workload { cluster, namespace, name, component })
    };
    let foreign = ClusterId(id.0 ^ 1);
    assert_eq!(call_as(handle, peer, None).await, Ok(200), "from outside, through that node");
    assert_eq!(call_as(handle, peer, workload(id, "own", caller)).await, Ok(200), "its own");
    for (what, source) in [
        ("a function of the other node", workload(id, "front", caller)),
        ("no function", workload(id, "nobody", caller)),
        ("its own, with other code", workload(id, "own", Digest::of(b"other code"))),
        ("its own, of another cluster", workload(foreign, "own", caller)),
    ] {
        assert_eq!(call_as(handle, peer, source).await, Err(CallError::NotEntitled), "{what}");
    }
    assert_eq!(refused(&cluster, "source").await, 4);
    let log = cluster.nodes[0].log_text();
    let line = log.lines().find(|line| line.contains("SW-MESH-NOT-ENTITLED"));
    let line = line.unwrap_or_else(|| panic!("it is not in the log: {log}"));
    assert!(line.contains("other") && line.contains("/ns/default/fn/front"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_from_one_that_may_not_give_it_is_not_passed_on() {
    let mut cluster = two_regions().await;
    let own = cluster.nodes[0].url("/own");
    // Killed, and at once somebody else has its address and its key: to the cluster it lives.
    cluster.nodes[1].kill();
    let taken = Taken::over(&cluster);
    let soon = Instant::now() + Duration::from_secs(20);
    let pong = taken.handle.request(taken.peer, StreamKind::Ping, Bytes::new(), soon).await;
    assert_eq!(pong.unwrap(), Bytes::new());
    let honest = *taken.served.lock();
    for (lie, word) in [
        (Served { node: NodeId(7), ..honest }, "0000000000000007"),
        // It is a member, but not where this function may run.
        (Served { node: taken.peer, ..honest }, "says that node n1 ("),
        (Served { version: Some(2), ..honest }, "version 2"),
    ] {
        *taken.served.lock() = honest;
        until("what it may answer is passed on", || async {
            get(&cluster.http, &own).await.ok().filter(|answer| answer.text() == "so I say")
        })
        .await;
        *taken.served.lock() = lie;
        let before = refused(&cluster, "server").await;
        let answer = get(&cluster.http, &own).await.unwrap();
        problem(&answer, 403, "SW-MESH-NOT-ENTITLED", &["node other (", word]);
        assert_eq!(refused(&cluster, "server").await, before + 1);
    }
}
