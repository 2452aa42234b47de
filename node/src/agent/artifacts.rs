//! Artifacts between nodes: fetched where they are wanted, copied to three nodes before anything
//! names them.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use swarmer_mesh::{
    bulk::{self, BulkError},
    stream::{ResetCode, StreamKind},
    transport::{Class, Handle},
};
use swarmer_model::{Digest, NodeId};
use tokio::{sync::watch, time::Instant};

use crate::{
    agent::link::{Link, LinkError},
    artifacts::{ArtifactStore, Incoming},
    codes,
    functions::FetchArtifact,
    problem::{Outcome, Problem, chain},
};

/// On how many nodes an artifact is durable before it is named.
const COPIES: usize = 3;
/// How long the other side may take to read why it was refused.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);
/// How long one node may take to give or take an artifact.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(60);
/// Senders of artifacts that are remembered: those of the last deploys.
const MAX_ORIGINS: usize = 256;

#[derive(Serialize, Deserialize)]
enum Ask {
    Fetch { digest: Digest },
    Push { digest: Digest, bytes: u64 },
}

#[derive(Serialize, Deserialize)]
enum Reply {
    /// The bytes follow.
    Bytes {
        bytes: u64,
    },
    Missing,
    /// Send the bytes.
    GoOn,
    /// It is here and durable.
    Held,
    Refused {
        code: String,
        detail: String,
    },
}

/// Copies artifacts between nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Replicator {
    node: NodeId,
    store: ArtifactStore,
    transport: Handle,
    budget: bulk::Budget,
    members: Arc<OnceLock<watch::Receiver<Arc<swarmer_gossip::Members>>>>,
    /// Who sent artifacts here, the last ones: who takes a component in has compiled it too.
    origins: Arc<Mutex<VecDeque<(Digest, NodeId)>>>,
}

impl Replicator {
    pub(crate) fn new(node: NodeId, store: ArtifactStore, transport: Handle) -> Self {
        Self {
            node,
            store,
            transport,
            budget: bulk::Budget::default(),
            members: Arc::default(),
            origins: Arc::default(),
        }
    }

    /// What may be on its way to a node in bulk, artifacts or images.
    pub(crate) fn window(&self, node: NodeId) -> bulk::Window {
        self.budget.of(node)
    }

    /// From now on members are known.
    pub(crate) fn set_members(&self, members: watch::Receiver<Arc<swarmer_gossip::Members>>) {
        let _ = self.members.set(members);
    }

    /// The other living members.
    pub(crate) fn living(&self) -> Vec<NodeId> {
        let Some(members) = self.members.get() else { return Vec::new() };
        let members = members.borrow();
        let alive = members.iter().filter(|m| m.state.is_active() && m.node != self.node);
        alive.map(|member| member.node).collect()
    }

    /// Which node sent this artifact here a while ago, if one did.
    pub(crate) fn origin(&self, digest: &Digest) -> Option<NodeId> {
        let origins = self.origins.lock();
        origins.iter().find(|(sent, _)| sent == digest).map(|(_, node)| *node)
    }

    fn note_origin(&self, digest: Digest, node: NodeId) {
        let mut origins = self.origins.lock();
        origins.retain(|(sent, _)| *sent != digest);
        origins.truncate(MAX_ORIGINS - 1);
        origins.push_front((digest, node));
    }

    /// The other living members in the order in which they hold this artifact.
    pub(crate) fn holders(&self, digest: &Digest) -> Vec<NodeId> {
        let key = digest.hex();
        let mut nodes = self.living();
        nodes.sort_by_key(|node| std::cmp::Reverse(swarmer_scheduler::score(&key, *node)));
        nodes
    }

    /// Makes the artifact durable on three nodes, this one included, or on all if there are
    /// fewer. Returns who holds it.
    pub(crate) async fn replicate(&self, digest: Digest) -> Outcome<Vec<NodeId>> {
        let mut held = vec![self.node];
        let candidates = self.holders(&digest);
        let wanted = COPIES.min(candidates.len() + 1);
        let mut last = None;
        let mut rest = candidates.into_iter();
        while held.len() < wanted {
            let batch: Vec<NodeId> = rest.by_ref().take(wanted - held.len()).collect();
            if batch.is_empty() {
                break;
            }
            let pushes = batch.iter().map(|node| self.push(*node, digest));
            for (node, outcome) in batch.iter().zip(futures::future::join_all(pushes).await) {
                match outcome {
                    Ok(()) => held.push(*node),
                    Err(problem) => last = Some(problem),
                }
            }
        }
        match last {
            // One copy beside this node's own is the least that survives a disk.
            Some(problem) if held.len() < 2 && wanted > 1 => {
                Err(problem.while_doing("no second node holds the artifact"))
            }
            _ => Ok(held),
        }
    }

    async fn push(&self, node: NodeId, digest: Digest) -> Outcome<()> {
        let work = async {
            let (mut file, bytes) = self.store.open_file(&digest).await?.ok_or_else(missing)?;
            let mut link = self.open(node).await?;
            link.write(&Ask::Push { digest, bytes }).await?;
            match link.read().await? {
                Reply::Held => return Ok(()),
                Reply::GoOn => {}
                Reply::Refused { code, detail } => return Err(refused(&code, detail)),
                _ => return Err(broken("an unexpected reply")),
            }
            let given = link.give(&self.budget.of(node), &mut file, bytes).await;
            given.map_err(not_given)?;
            match link.read().await? {
                Reply::Held => Ok(()),
                Reply::Refused { code, detail } => Err(refused(&code, detail)),
                _ => Err(broken("an unexpected reply")),
            }
        };
        within(work).await
    }

    async fn pull(&self, node: NodeId, digest: Digest) -> Outcome<bool> {
        let work = async {
            let mut link = self.open(node).await?;
            link.write(&Ask::Fetch { digest }).await?;
            match link.read().await? {
                Reply::Missing => Ok(false),
                Reply::Bytes { bytes } => {
                    let incoming = self.store.begin(digest, Some(bytes)).await?;
                    Self::take(&mut link, incoming, bytes).await?;
                    Ok(true)
                }
                Reply::Refused { code, detail } => Err(refused(&code, detail)),
                _ => Err(broken("an unexpected reply")),
            }
        };
        within(work).await
    }

    /// Takes the bytes of an artifact that the other side gives; durable when it returns.
    async fn take(link: &mut Link, mut incoming: Incoming, bytes: u64) -> Outcome<()> {
        let mut receiver = link.take(bytes);
        while let Some(chunk) = receiver.next().await.map_err(|e| broken(&chain(&e)))? {
            incoming.write(&chunk).await?;
        }
        incoming.finish().await?;
        Ok(())
    }

    async fn open(&self, node: NodeId) -> Outcome<Link> {
        let deadline = Instant::now() + TRANSFER_DEADLINE;
        let opened = self.transport.open(node, Class::Data, StreamKind::Artifact, deadline).await;
        let opened = opened.map_err(|error| Problem::of(&error, "transferring an artifact"));
        opened.map(|(send, recv)| Link::new(send, recv))
    }

    /// Serves one transfer that another node began.
    pub(crate) async fn serve(&self, peer: NodeId, send: SendStream, recv: RecvStream) {
        let mut link = Link::new(send, recv);
        let served = tokio::time::timeout(TRANSFER_DEADLINE, self.answer(peer, &mut link)).await;
        let problem = match served {
            Ok(Ok(())) => return link.finish(),
            Ok(Err(problem)) => problem,
            Err(_) => broken("the transfer took too long"),
        };
        tracing::warn!(target: "swarmer::artifact", code = problem.code.name,
            detail = %problem.detail, "a transfer failed");
        let refused = Reply::Refused { code: problem.code.name.to_owned(), detail: problem.detail };
        let told = tokio::time::timeout(REFUSAL_DEADLINE, link.write(&refused)).await;
        if matches!(told, Ok(Ok(()))) {
            link.finish();
        } else {
            link.reset(ResetCode::INTERNAL);
        }
    }

    async fn answer(&self, peer: NodeId, link: &mut Link) -> Outcome<()> {
        match link.read().await? {
            Ask::Fetch { digest } => {
                let Some((mut file, bytes)) = self.store.open_file(&digest).await? else {
                    return Ok(link.write(&Reply::Missing).await?);
                };
                link.write(&Reply::Bytes { bytes }).await?;
                link.give(&self.budget.of(peer), &mut file, bytes).await.map_err(not_given)
            }
            Ask::Push { digest, bytes } => {
                self.note_origin(digest, peer);
                if self.store.hold(&digest).await {
                    return Ok(link.write(&Reply::Held).await?);
                }
                let incoming = self.store.begin(digest, Some(bytes)).await?;
                link.write(&Reply::GoOn).await?;
                Self::take(link, incoming, bytes).await?;
                Ok(link.write(&Reply::Held).await?)
            }
        }
    }
}

#[async_trait]
impl FetchArtifact for Replicator {
    async fn fetch(&self, digest: Digest) -> Outcome<()> {
        if self.store.has(&digest).await {
            return Ok(());
        }
        let mut last = missing();
        for node in self.holders(&digest) {
            match self.pull(node, digest).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(problem) => last = problem,
            }
        }
        Err(last.while_doing(&format!("fetching {}", digest.short())))
    }
}

async fn within<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout(TRANSFER_DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(broken("the transfer took too long")))
}

fn missing() -> Problem {
    Problem::new(codes::ARTIFACT_MISSING, "no living member holds it")
}

fn broken(why: &str) -> Problem {
    Problem::new(codes::ARTIFACT_COPY, why)
}

fn refused(code: &str, detail: String) -> Problem {
    Problem::new(codes::by_name(code).unwrap_or(codes::STORAGE), detail)
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        broken(&chain(&error))
    }
}

/// Why the bytes of an artifact did not go.
fn not_given(error: BulkError) -> Problem {
    match error {
        BulkError::Source(error) => {
            Problem::new(codes::STORAGE, format!("reading an artifact: {error}"))
        }
        BulkError::Refused(frame) => match postcard::from_bytes(&frame) {
            Ok(Reply::Refused { code, detail }) => refused(&code, detail),
            Ok(_) | Err(_) => broken("an unexpected reply"),
        },
        error => broken(&chain(&error)),
    }
}
