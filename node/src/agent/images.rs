//! Compiled images between nodes: each component is compiled once, where it is needed first.
//!
//! An image is code that runs with all rights of the node. So it is taken only from nodes that
//! the committed state names as members, over connections on which they proved their keys; no
//! user and no node outside of the cluster can hand one in. A node of another architecture or
//! version runs other images, and compiles for itself.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use swarmer_mesh::{
    stream::{ResetCode, StreamKind},
    transport::Handle,
};
use swarmer_model::{Digest, NodeId};
use swarmer_runtime::{ImageSource, ImageSum, NewImage};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    agent::{Replicator, link::Link},
    desired::DesiredStore,
    functions::{FunctionManager, before, makers},
    problem::chain,
};

/// Why an image did not come or go: for the log alone, since the next way is tried then.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long a node waits for images that others make, in all, before it compiles for itself. A
/// node that dies is noticed within seconds; this is for one that is just slow: a large component
/// takes 20 s of CPU.
const MAKE_DEADLINE: Duration = Duration::from_secs(120);
/// How many nodes are waited for, one after another.
const MAX_WAITED_FOR: usize = 3;
/// How many nodes are asked whether they happen to have it, at once.
const MAX_ASKED: usize = 8;
/// How long they have to answer: they only look at their disk.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// After so long only those are waited for with which a connection stands: from the others nothing
/// was heard for a second. A dead node must not delay a deploy.
const DEAF_AFTER: Duration = Duration::from_secs(1);
/// How often that is looked at.
const DEAF_CHECK: Duration = Duration::from_millis(100);
/// How long the bytes of one image may take.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a maker waits to see the function because of which it is asked.
const SEEN_DEADLINE: Duration = Duration::from_secs(2);
/// Images that are sent at once: each holds a file open and a buffer.
const MAX_SENDING: usize = 16;

#[derive(Serialize, Deserialize)]
struct Ask {
    digest: Digest,
    compatibility: String,
    want: Want,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Want {
    /// Only whether it is there.
    Word,
    /// The image, if it is there.
    Image,
    /// The image, made if it is not there.
    Made,
}

#[derive(Serialize, Deserialize)]
enum Reply {
    /// It is here; the bytes follow unless only a word was asked for.
    Here(ImageSum),
    /// Not here, but that node should have it.
    At(NodeId),
    Missing,
}

/// What comes to be later than the runtime, which needs the images.
struct Parts {
    functions: FunctionManager,
    runtime: swarmer_runtime::Handle,
    desired: DesiredStore,
}

/// Takes images from other nodes and gives them images of this one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    transport: Handle,
    replicator: Replicator,
    parts: OnceLock<Parts>,
    /// Whom this node waits for, by component: that one must not wait for this node.
    waiting_for: Mutex<HashMap<Digest, NodeId>>,
    sending: Semaphore,
}

impl Images {
    pub(crate) fn new(node: NodeId, transport: Handle, replicator: Replicator) -> Self {
        let inner = Inner {
            node,
            transport,
            replicator,
            parts: OnceLock::new(),
            waiting_for: Mutex::default(),
            sending: Semaphore::new(MAX_SENDING),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on images come and go.
    pub(crate) fn set_parts(
        &self,
        functions: FunctionManager,
        runtime: swarmer_runtime::Handle,
        desired: DesiredStore,
    ) {
        let _ = self.inner.parts.set(Parts { functions, runtime, desired });
    }

    /// Takes the image from one node, which must begin to answer before the deadline. False if it
    /// does not have it.
    async fn take(
        &self,
        from: NodeId,
        ask: &Ask,
        deadline: Instant,
        image: &mut NewImage,
    ) -> Result<bool, Failure> {
        let (reply, mut link) = self.ask(from, ask, deadline).await?;
        let Reply::Here(sum) = reply else { return Ok(false) };
        let copying = async {
            image.begin(sum).await?;
            let mut bytes = link.take(sum.bytes);
            while let Some(chunk) = bytes.next().await? {
                image.write(&chunk).await?;
            }
            Ok(image.finish().await?)
        };
        in_time(copying).await.map(|()| true)
    }

    async fn ask(
        &self,
        node: NodeId,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<(Reply, Link), Failure> {
        let kind = StreamKind::Image;
        let opened = self.inner.transport.open(node, kind.class(), kind, deadline).await;
        let (send, recv) = opened?;
        let mut link = Link::new(send, recv);
        let talk = async {
            link.write(ask).await?;
            link.read().await
        };
        let reply = timeout_at(deadline, talk).await.map_err(|_| "it did not answer in time")?;
        Ok((reply?, link))
    }

    /// Asks these nodes at once, and where they point; the first that has it.
    async fn who_has(&self, nodes: Vec<NodeId>, ask: &Ask) -> Option<NodeId> {
        let mut asked = nodes.clone();
        let one = |node: NodeId| async move {
            tokio::select! {
                answer = self.ask(node, ask, Instant::now() + ASK_DEADLINE) => (node, answer),
                () = self.deaf(node) => (node, Err("nothing was heard of it".into())),
            }
        };
        let mut asking: FuturesUnordered<_> = nodes.into_iter().map(one).collect();
        while let Some((node, answer)) = asking.next().await {
            match answer {
                Ok((Reply::Here(_), _)) => return Some(node),
                Ok((Reply::At(other), _))
                    if asked.len() < 2 * MAX_ASKED && !asked.contains(&other) =>
                {
                    asked.push(other);
                    if self.is_member(other) {
                        asking.push(one(other));
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Ends when a node that was asked is not to be waited for any more.
    async fn deaf(&self, node: NodeId) {
        tokio::time::sleep(DEAF_AFTER).await;
        while self.inner.transport.has_live_connection(node) {
            tokio::time::sleep(DEAF_CHECK).await;
        }
    }

    /// Whether the committed state names the node as a member, and it is not this one.
    fn is_member(&self, node: NodeId) -> bool {
        let desired = self.inner.parts.get().map(|parts| parts.desired.current());
        node != self.inner.node && desired.is_some_and(|desired| desired.nodes.contains_key(&node))
    }

    /// Serves one stream that a member opened.
    pub(crate) async fn serve(&self, peer: NodeId, send: SendStream, recv: RecvStream) {
        let mut link = Link::new(send, recv);
        let Ok(Ok(ask)) = timeout(ASK_DEADLINE, link.read::<Ask>()).await else {
            return link.reset(ResetCode::MALFORMED);
        };
        match self.answer(peer, &ask, &mut link).await {
            Ok(()) => link.finish(),
            Err(why) => {
                tracing::debug!(target: "swarmer::images", %peer, digest = %ask.digest,
                    why = chain(&*why), "an image was not sent");
                link.reset(ResetCode::INTERNAL);
            }
        }
    }

    async fn answer(&self, peer: NodeId, ask: &Ask, link: &mut Link) -> Result<(), Failure> {
        let Some(parts) = self.inner.parts.get() else {
            return Ok(link.write(&Reply::Missing).await?);
        };
        let (runtime, digest) = (&parts.runtime, ask.digest);
        let mut image = runtime.share_image(digest, &ask.compatibility).await;
        if image.is_none() && ask.want == Want::Made && self.makes_for(peer, ask, parts).await {
            let making = timeout(MAKE_DEADLINE, parts.functions.prepare(digest)).await;
            if matches!(making, Ok(Ok(()))) {
                image = runtime.share_image(digest, &ask.compatibility).await;
            }
        }
        let Some(image) = image else {
            let origin = self.inner.replicator.origin(&digest).filter(|origin| *origin != peer);
            return Ok(link.write(&origin.map_or(Reply::Missing, Reply::At)).await?);
        };
        if ask.want == Want::Word {
            return Ok(link.write(&Reply::Here(image.sum)).await?);
        }
        let sending = async {
            let _permit = self.inner.sending.acquire().await?;
            link.write(&Reply::Here(image.sum)).await?;
            let mut file = tokio::fs::File::from_std(image.file);
            let window = self.inner.replicator.window(peer);
            Ok(link.give(&window, &mut file, image.sum.bytes).await?)
        };
        in_time(sending).await
    }

    /// Whether this node makes the image because `peer` asks for it: some function must need it,
    /// and this node must not be waiting for that very peer.
    async fn makes_for(&self, peer: NodeId, ask: &Ask, parts: &Parts) -> bool {
        if ask.compatibility != parts.runtime.image_compatibility()
            || self.inner.waiting_for.lock().get(&ask.digest) == Some(&peer)
        {
            return false;
        }
        let seen = parts.desired.wait_until(|state| !makers(state, &ask.digest).is_empty());
        matches!(timeout(SEEN_DEADLINE, seen).await, Ok(Some(_)))
    }
}

#[async_trait]
impl ImageSource for Images {
    async fn bring(&self, digest: Digest, compatibility: &str, image: &mut NewImage) {
        let Some(parts) = self.inner.parts.get() else { return };
        let ask = |want| Ask { digest, compatibility: compatibility.to_owned(), want };
        let makers = makers(&parts.desired.current(), &digest);
        let living = self.inner.replicator.living();
        let lives = |node| living.contains(&node) && self.is_member(node);
        let deadline = Instant::now() + MAKE_DEADLINE;
        let before = before(&makers, self.inner.node, lives);
        for node in before.into_iter().take(MAX_WAITED_FOR) {
            let _waiting = Waiting::begin(&self.inner, digest, node);
            match self.take(node, &ask(Want::Made), deadline, image).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(why) => tracing::info!(target: "swarmer::images", %node, %digest,
                    why = chain(&*why), "an image does not come from the node that makes it"),
            }
        }
        // Nobody else's turn. But one that compiled it for a check, or a node after this one, may
        // have it.
        let mut others: Vec<NodeId> = Vec::new();
        let origin = self.inner.replicator.origin(&digest);
        let holders = self.inner.replicator.holders(&digest);
        for node in origin.into_iter().chain(makers).chain(holders) {
            if lives(node) && !others.contains(&node) && others.len() < MAX_ASKED {
                others.push(node);
            }
        }
        if let Some(node) = self.who_has(others, &ask(Want::Word)).await
            && let Err(why) =
                self.take(node, &ask(Want::Image), Instant::now() + TRANSFER_DEADLINE, image).await
        {
            tracing::info!(target: "swarmer::images", %node, %digest, why = chain(&*why),
                "an image does not come from the node that has it");
        }
    }
}

/// Notes whom this node waits for, as long as it does.
struct Waiting<'a> {
    inner: &'a Inner,
    digest: Digest,
}

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner, digest: Digest, node: NodeId) -> Self {
        inner.waiting_for.lock().insert(digest, node);
        Self { inner, digest }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.waiting_for.lock().remove(&self.digest);
    }
}

/// Bounds the transfer of the bytes of one image.
async fn in_time(transfer: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    timeout(TRANSFER_DEADLINE, transfer).await.map_err(|_| "the transfer took too long")?
}
