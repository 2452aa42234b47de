//! Joining: a token is used once by one key, whichever member it is shown to.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_mesh::{
    founding::{JoinToken, Secret},
    identity::{Fingerprint, NodeKey},
    stream::{StreamKind, read_frame, write_frame},
    transport::{DialError, Handle, RefusedBy},
};
use swarmer_model::{
    ClusterId, Code, DEFAULT_REGION, Key, Node, NodeId, NodeSpec, Place, Resource as _, TokenKind,
    TokenRecord, Violations,
};
use swarmer_raft::{Expect, Txn, View};
use tokio::time::{Instant, sleep};

use crate::{
    agent::{
        Context, TxnExt as _,
        authority::Subject,
        context::now_ms,
        control::unchanged,
        identity::{Grant, PeerInfo},
        reach,
    },
    audit::{self, Who},
    codes,
    problem::{Outcome, Problem},
};

/// The largest join message.
pub(crate) const MAX_JOIN_BYTES: usize = 64 << 10;
/// How long one attempt at one seed may take.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// Pauses between rounds over all seeds.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a node that wants to join may take to answer where it says that it is.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// The longest name of a node that asks to join, in the log.
const MAX_NAME_CHARS: usize = 63;
/// How often it is tried: once to find that the node may join and is where it says, and again after
/// each lost race for a token.
const MAX_RACES: usize = 6;

/// What a node says when it wants to join.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) cluster: ClusterId,
    #[serde(with = "hex::serde")]
    pub(crate) secret: [u8; 32],
    pub(crate) node: NodeId,
    #[serde(with = "hex::serde")]
    pub(crate) spki: Vec<u8>,
    /// The node's key over cluster, id and secret: whoever joins holds the key.
    #[serde(with = "hex::serde")]
    pub(crate) proof: Vec<u8>,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Where the node says that it stands.
    pub(crate) claim: Place,
    /// The member that it asked reaches it at its address. Not the joiner's word.
    #[serde(default)]
    pub(crate) reached: bool,
    /// Where it does not reach the voters, none of them, though it was admitted: they would not notice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreached: Vec<SocketAddr>,
}

/// What the member answers.
#[derive(Serialize, Deserialize)]
pub(crate) enum JoinReply {
    Granted(Box<Grant>),
    /// Trying again, here or elsewhere, is of no use unless `retry`.
    Refused {
        code: String,
        detail: String,
        retry: bool,
    },
}

fn proof_text(cluster: ClusterId, node: NodeId, secret: &[u8; 32]) -> Vec<u8> {
    let hash = Secret::from_bytes(*secret).hash();
    format!("swarmer join {cluster} {node} {}", hex::encode(hash)).into_bytes()
}

impl JoinRequest {
    pub(crate) fn new(
        token: &JoinToken,
        key: &NodeKey,
        node: NodeId,
        config: &crate::config::NodeConfig,
        address: SocketAddr,
    ) -> Self {
        let secret = *token.secret.expose();
        Self {
            cluster: token.cluster,
            secret,
            node,
            spki: key.spki(),
            proof: key.sign(&proof_text(token.cluster, node, &secret)),
            name: config.name.clone(),
            address,
            claim: config.place.clone(),
            reached: false,
            unreached: Vec::new(),
        }
    }
}

/// Asks the seeds, one after another and for ever, until one admits this node and a voter is where it
/// says that it is, or one says that none will.
pub(crate) async fn join(
    transport: &Handle,
    token: &JoinToken,
    request: &JoinRequest,
    seeds: &[String],
    stage: impl Fn(String),
) -> Outcome<Grant> {
    if seeds.is_empty() {
        let why = "a join token needs --join with the address of at least one member";
        return Err(Problem::new(codes::CONFIG, why));
    }
    let mut backoff = BACKOFF_MIN;
    let mut request = request.clone();
    loop {
        for seed in seeds {
            if request.unreached.is_empty() {
                stage(format!("joining by way of {seed}"));
            }
            match ask(transport, token, &request, seed).await {
                Ok(JoinReply::Granted(grant)) => {
                    let Err(why) = reach_one(transport, &grant.peers).await else {
                        return Ok(*grant);
                    };
                    tracing::warn!(target: "swarmer::join", seed, code = codes::ADVERTISE.name, why,
                        remedy = codes::ADVERTISE.remedy, "no voter is where it says");
                    stage(format!("{seed} admits this node, but {why}"));
                    request.unreached = grant.peers.iter().map(|peer| peer.address).collect();
                }
                Ok(JoinReply::Refused { code, detail, retry: false }) => {
                    tracing::error!(target: "swarmer::join", seed, code, detail, "refused");
                    return Err(Problem::new(known_code(&code), format!("{seed}: {detail}")));
                }
                Ok(JoinReply::Refused { code, detail, retry: true }) => {
                    tracing::warn!(target: "swarmer::join", seed, code, detail, "not now");
                    stage(format!("{seed} cannot admit this node yet: {detail}"));
                }
                Err(why) => {
                    tracing::warn!(target: "swarmer::join", seed, why, "the seed does not admit");
                    stage(format!("{seed}: {why}"));
                }
            }
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Whether one of the voters is where it says: with none of them a node cannot begin, whichever member
/// admitted it.
async fn reach_one(transport: &Handle, voters: &[PeerInfo]) -> Result<(), String> {
    let mut whys = Vec::new();
    for voter in voters {
        let found = transport.key_at(voter.address, Instant::now() + LOOK_DEADLINE).await;
        // It is there, and of a build that does not say who it is to whoever asks.
        if matches!(found, Err(DialError::Refused { by: RefusedBy::Peer, .. })) {
            return Ok(());
        }
        match reach::judge(voter.address, &voter.spki, found) {
            Ok(()) => return Ok(()),
            Err(why) => whys.push(format!("{}: {why}", voter.name)),
        }
    }
    Err(whys.join("; "))
}

fn known_code(name: &str) -> Code {
    codes::by_name(name).unwrap_or(codes::JOIN_REFUSED)
}

async fn ask(
    transport: &Handle,
    token: &JoinToken,
    request: &JoinRequest,
    seed: &str,
) -> Result<JoinReply, String> {
    let deadline = Instant::now() + ATTEMPT_DEADLINE;
    let name = seed.to_owned();
    let resolving = tokio::task::spawn_blocking(move || name.to_socket_addrs());
    let addresses: Vec<SocketAddr> = match tokio::time::timeout_at(deadline, resolving).await {
        Ok(Ok(Ok(addresses))) => addresses.collect(),
        Ok(Ok(Err(error))) => return Err(format!("the name does not resolve: {error}")),
        _ => return Err("the name does not resolve in time".to_owned()),
    };
    let pin = Fingerprint(token.ca_fingerprint);
    let mut last = "the name has no address".to_owned();
    let mut dialled = None;
    // A name may stand for addresses of which only some are reached from here.
    for address in addresses {
        match transport.dial_join(address, pin, deadline).await {
            Ok(stream) => {
                dialled = Some(stream);
                break;
            }
            Err(error) => last = crate::problem::chain(&error),
        }
    }
    let Some(mut stream) = dialled else { return Err(last) };
    let exchange = async {
        let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        write_frame(&mut stream.send, Bytes::from(body)).await.map_err(|e| e.to_string())?;
        let _ = stream.send.finish();
        let answer =
            read_frame(&mut stream.recv, MAX_JOIN_BYTES).await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    };
    match tokio::time::timeout_at(deadline, exchange).await {
        Ok(reply) => reply,
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Decides about a node that wants to join; on a node without the authority, by asking a voter.
pub(crate) async fn admit(
    context: &Arc<Context>,
    request: &JoinRequest,
    may_forward: bool,
) -> JoinReply {
    let outcome = match (context.authority.get(), may_forward) {
        (Some(_), _) => {
            audit::WHO.scope(Who::Joiner(request.node), admit_here(context, request)).await
        }
        (None, true) => return forward(context, request).await,
        (None, false) => {
            Err(Problem::new(codes::JOIN_REFUSED, "this node is no voter").retry_after(1))
        }
    };
    match outcome {
        Ok(grant) => {
            tracing::info!(target: "swarmer::join", node = %request.node, name = request.name,
                "a node was admitted");
            JoinReply::Granted(Box::new(grant))
        }
        Err(problem) => {
            let retry = problem.code.status >= 500;
            JoinReply::Refused { code: problem.code.name.to_owned(), detail: problem.detail, retry }
        }
    }
}

/// Logs, for the operator of this side, that a node was not admitted: who, why, what to do.
pub(crate) fn log_refusal(
    context: &Context,
    remote: SocketAddr,
    request: &JoinRequest,
    reply: &JoinReply,
) {
    let JoinReply::Refused { code, detail, .. } = reply else { return };
    let code = known_code(code);
    // A stranger's text is quoted, and no longer than a name may be.
    let name: String = request.name.chars().take(MAX_NAME_CHARS).collect();
    let why = format!("name={name:?} (node {}): {detail}. {}", request.node, code.remedy);
    context.transport.turned_away(code, remote, "join", &why);
}

async fn forward(context: &Arc<Context>, request: &JoinRequest) -> JoinReply {
    let status = context.control.status();
    let body = match serde_json::to_vec(request) {
        Ok(body) => Bytes::from(body),
        Err(error) => return refused(error.to_string(), false),
    };
    let mut last = "no voter is known".to_owned();
    // The leader first: the others would have to ask it.
    let others = status.voters.iter().copied().filter(|voter| Some(*voter) != status.leader);
    for voter in status.leader.into_iter().chain(others) {
        let deadline = Instant::now() + Duration::from_secs(6);
        let asked = context.transport.request(voter, StreamKind::Admin, body.clone(), deadline);
        match asked.await.map(|answer| serde_json::from_slice::<JoinReply>(&answer)) {
            // What lets datagrams in only from where others went out takes this node's, which was
            // dialled, and not yet a voter's.
            Ok(Ok(JoinReply::Refused { code, .. }))
                if code == codes::ADVERTISE.name
                    && !request.reached
                    && look_there(context, request).await.is_ok() =>
            {
                let request = JoinRequest { reached: true, ..request.clone() };
                return Box::pin(forward(context, &request)).await;
            }
            Ok(Ok(reply)) => return reply,
            Ok(Err(error)) => last = error.to_string(),
            Err(error) => last = crate::problem::chain(&error),
        }
    }
    refused(format!("no voter can be asked: {last}"), true)
}

fn refused(detail: String, retry: bool) -> JoinReply {
    JoinReply::Refused { code: codes::JOIN_REFUSED.name.to_owned(), detail, retry }
}

async fn admit_here(context: &Context, request: &JoinRequest) -> Outcome<Grant> {
    if request.cluster != context.cluster {
        let detail =
            format!("the token is for cluster {}, this is {}", request.cluster, context.cluster);
        return Err(Problem::new(codes::TOKEN, detail));
    }
    let text = proof_text(request.cluster, request.node, &request.secret);
    if !NodeKey::verify(&request.spki, &text, &request.proof) {
        return Err(Problem::new(
            codes::JOIN_REFUSED,
            "the node does not hold the key that it shows",
        ));
    }
    let mut reached = request.reached;
    for _ in 0..MAX_RACES {
        if let Some(grant) = try_admit(context, request, &mut reached).await? {
            tell_unreached(context, request);
            return Ok(grant);
        }
    }
    Err(Problem::new(codes::BUSY, "too many nodes join at once; try again").retry_after(1))
}

/// For the operator of this side: this node may be the one with the wrong address.
fn tell_unreached(context: &Context, request: &JoinRequest) {
    if request.unreached.contains(&context.advertise) {
        let node = context.node_name(request.node);
        tracing::warn!(target: "swarmer::join", code = codes::ADVERTISE.name, node,
            advertise = %context.advertise, remedy = codes::ADVERTISE.remedy,
            "a node that was admitted does not reach this one where it advertises that it is");
    }
}

/// A node does not say by itself where it stands: the token does. It may repeat it.
fn check_claim(claim: &Place, admitted: &Place, by: &str) -> Outcome<()> {
    // Before it is repeated to anybody.
    let mut violations = Violations::default();
    claim.check(&mut violations);
    violations.finish()?;
    let beyond = admitted.beyond(claim);
    if beyond.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the node claims {beyond}; {by} {admitted}; start it without that claim, or with a token \
         of `swarmer token create {}`",
        admitted.with(claim).flags()
    );
    Err(Problem::new(codes::CLAIM, why))
}

/// A node that the others do not reach is of no use to them. Only whoever shows a good token has anybody
/// dialled.
async fn look_there(context: &Context, request: &JoinRequest) -> Outcome<()> {
    let found = context.reach(request.address, &request.spki, LOOK_DEADLINE).await;
    found.map_err(|why| Problem::new(codes::ADVERTISE, why).retry_after(1))
}

/// The voters of now, for a node to begin with: there is one at least, or it could begin nowhere.
///
/// Read from the state itself, which has what was just committed; what is derived from it may not.
fn voters(context: &Context, view: &View) -> Outcome<Vec<PeerInfo>> {
    let info = |node: NodeId| {
        let entry = view.get(Key::node(node).as_str())?;
        let node: Node = serde_json::from_slice(&entry.value).ok()?;
        Some(PeerInfo {
            node: node.spec.id,
            spki: node.spec.spki()?,
            name: node.metadata.name,
            address: node.spec.address,
            region: node.spec.region,
            zone: node.spec.zone,
            labels: node.spec.labels,
        })
    };
    let voters: Vec<_> = context.control.status().voters.into_iter().filter_map(info).collect();
    if voters.is_empty() {
        let detail = "this node knows no voter yet that a new one could begin with; try again";
        return Err(Problem::new(codes::NOT_READY, detail).retry_after(1));
    }
    Ok(voters)
}

/// One compare-and-set, keyed by token and node key: a retry after a lost answer finds the node
/// admitted and succeeds; `None` if another node was faster, or the node was first to be reached.
async fn try_admit(
    context: &Context,
    request: &JoinRequest,
    reached: &mut bool,
) -> Outcome<Option<Grant>> {
    context.control.barrier(Duration::from_secs(3)).await?;
    let view = context.control.view();
    let hash = hex::encode(Secret::from_bytes(request.secret).hash());
    let token_key = Key::token(&hash);
    let node_key = Key::node(request.node);
    let now = now_ms();
    let authority = context.authority.get().ok_or_else(|| {
        Problem::new(codes::JOIN_REFUSED, "this node does not hold the cluster's authority")
    })?;
    let subject = Subject {
        node: request.node,
        spki: &request.spki,
        name: &request.name,
        address: request.address,
    };
    let voters = voters(context, &view)?;
    let grant = || authority.grant_for(&subject, voters, &view, SystemTime::now());
    if let Some(entry) = view.get(node_key.as_str()) {
        let known: Node = serde_json::from_slice(&entry.value)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        let same = known.spec.spki().as_deref() == Some(&request.spki[..])
            && known.spec.token.as_deref() == Some(hash.as_str());
        if same {
            check_claim(&request.claim, &known.spec.place(), "it was admitted to")?;
            return grant().map(Some);
        }
        return Err(Problem::new(
            codes::JOIN_REFUSED,
            format!("node {} is a member already", request.node),
        ));
    }
    let entry = view.get(token_key.as_str());
    let record: Option<TokenRecord> =
        entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
    let refuse = |why: &str| Err(Problem::new(codes::TOKEN, why.to_owned()));
    let Some(mut record) = record else {
        return refuse("no such token: wrong, revoked or used up");
    };
    if record.expired(now) {
        return refuse("the token has expired");
    }
    let TokenKind::Join { uses_left, place } = &mut record.kind else {
        return refuse("this token is for the API, not for joining");
    };
    if *uses_left == 0 {
        return refuse("the token is used up");
    }
    *uses_left -= 1;
    check_claim(&request.claim, place, "its token admits")?;
    let place = place.clone();
    let node = Node::new(
        &request.name,
        NodeSpec {
            id: request.node,
            public_key: hex::encode(&request.spki),
            address: request.address,
            region: place.region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            zone: place.zone.unwrap_or_default(),
            labels: place.labels,
            draining: false,
            token: Some(hash),
        },
    );
    node.validate()?;
    let name_key = Key::cluster(&format!("names/{}", request.name));
    if let Some(holder) = view.get(name_key.as_str()) {
        let holder = String::from_utf8_lossy(&holder.value).into_owned();
        let why = format!("the name {:?} belongs to node {holder}", request.name);
        return Err(Problem::new(codes::NAME_TAKEN, why));
    }
    if !*reached {
        look_there(context, request).await?;
        *reached = true;
        // Others may have joined meanwhile: the next try finds what they left.
        return Ok(None);
    }
    let json = |value: serde_json::Result<Vec<u8>>| {
        value.map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))
    };
    let txn = Txn::new()
        .check(token_key.as_str(), unchanged(entry.as_ref()))
        .check(node_key.as_str(), Expect::Absent)
        .check(name_key.as_str(), Expect::Absent)
        .put(token_key.as_str(), json(serde_json::to_vec(&record))?)
        .put(node_key.as_str(), json(serde_json::to_vec(&node))?)
        .put(name_key.as_str(), request.node.to_string());
    match context.control.write(txn).await?.committed("admitting a node") {
        Ok(_) => grant().map(Some),
        Err(problem) if problem.code == codes::CONFLICT => Ok(None),
        Err(problem) => Err(problem),
    }
}
