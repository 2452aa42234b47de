//! Certificates are renewed at half of their life, and at once when they are out of their time or not
//! of the authority that issues.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use swarmer_mesh::{
    identity::{NodeCertificate, NodeKey},
    stream::StreamKind,
};
use swarmer_model::NodeId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        Context,
        admission::PeerBook,
        authority::Subject,
        identity::{Grant, KeptGrant, identity_problem},
        keys::is_current,
        shown::Shown,
    },
    codes,
    problem::{Outcome, Problem, chain},
};

/// How often the certificate is looked at, at least: the wall clock may jump.
const LOOK: Duration = Duration::from_secs(30);
/// Pause after a renewal, whatever the new certificate says; the seconds that X.509 rounds to.
const SOON: Duration = Duration::from_secs(1);
/// Pause after a failed renewal.
const RETRY: Duration = Duration::from_secs(2);
/// Over how long renewals are spread that are due everywhere at once.
const JITTER: Duration = Duration::from_millis(1500);
/// How long a voter may take.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// Keeps this node's certificate fresh, and of the authority that issues, until `shutdown`.
pub(crate) async fn run(
    context: Arc<Context>,
    kept: KeptGrant,
    key: NodeKey,
    shown: Shown,
    shutdown: CancellationToken,
) {
    let mut changes = kept.changes();
    loop {
        changes.borrow_and_update();
        let ttl = context.authority.get().map(|authority| authority.ttl());
        let grant = kept.get();
        let mut pause = until_due(&grant, ttl, SystemTime::now());
        if !pause.is_zero() && !is_current(&grant) {
            // The whole cluster does so at this moment.
            let turn = JITTER.mul_f64(rand::random());
            if shutdown.run_until_cancelled(tokio::time::sleep(turn)).await.is_none() {
                return;
            }
            pause = Duration::ZERO;
        }
        if pause.is_zero() {
            pause = match renew(&context, &kept, &key, &shown).await {
                Ok(()) => {
                    tracing::info!(target: "swarmer::identity", "the certificate was renewed");
                    until_due(&kept.get(), None, SystemTime::now()).max(SOON)
                }
                Err(problem) => {
                    tracing::warn!(target: "swarmer::identity", code = problem.code.name,
                        detail = %problem.detail, "the certificate is not renewed yet");
                    RETRY
                }
            };
            // A voter may issue by the authority of before for a moment.
            if !is_current(&kept.get()) {
                pause = pause.min(RETRY);
            }
            changes.borrow_and_update();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            Ok(()) = changes.changed() => {}
        }
    }
}

/// How long the certificate need not be renewed yet, at most [`LOOK`]. One that lives longer than
/// `ttl`, by which this node issues, is replaced at once: a shorter life takes hold with a restart.
fn until_due(grant: &Grant, ttl: Option<Duration>, now: SystemTime) -> Duration {
    let Ok(certificate) = NodeCertificate::from_der(grant.certificate.clone()) else { return LOOK };
    let long = ttl.is_some_and(|ttl| certificate.not_after() > now + ttl + SOON);
    if certificate.expired(now) || long {
        return Duration::ZERO;
    }
    certificate.half_life().duration_since(now).unwrap_or_default().min(LOOK)
}

async fn renew(context: &Context, kept: &KeptGrant, key: &NodeKey, shown: &Shown) -> Outcome<()> {
    let certificate = match context.authority.get() {
        Some(authority) => {
            let subject = Subject {
                node: context.node,
                spki: &key.spki(),
                name: &context.name,
                address: context.advertise,
            };
            authority.issue(&subject, SystemTime::now())?
        }
        None => ask_voters(context, &kept.get()).await?,
    };
    let read = NodeCertificate::from_der(certificate.clone()).map_err(|e| identity_problem(&e))?;
    if read.node() != context.node || read.spki() != key.spki() {
        return Err(Problem::new(
            codes::INTERNAL,
            "the new certificate is for another node or key",
        ));
    }
    if kept.get().bundle()?.issuer_of(&read).is_none() {
        let why = "the new certificate is of an authority that is not believed here";
        return Err(Problem::new(codes::INTERNAL, why));
    }
    kept.update(|grant| grant.certificate = certificate)?;
    shown.show()
}

async fn ask_voters(context: &Context, grant: &Grant) -> Outcome<Vec<u8>> {
    let mut voters: Vec<NodeId> = context.control.status().voters.into_iter().collect();
    if voters.is_empty() {
        voters.clone_from(&grant.voters);
    }
    let mut last = "no voter is known".to_owned();
    for voter in voters {
        let deadline = Instant::now() + ASK_DEADLINE;
        match context.transport.request(voter, StreamKind::Renew, Bytes::new(), deadline).await {
            Ok(certificate) if !certificate.is_empty() => return Ok(certificate.to_vec()),
            Ok(_) => last = "the voter refuses".to_owned(),
            Err(error) => last = chain(&error),
        }
    }
    Err(Problem::new(codes::NO_UPSTREAM, format!("no voter renews the certificate: {last}")))
}

/// A voter's answer to a node that renews: a certificate over the key that was admitted.
pub(crate) fn answer(context: &Context, book: &PeerBook, node: NodeId) -> Outcome<Vec<u8>> {
    let authority = context.authority.get();
    let authority =
        authority.ok_or_else(|| Problem::new(codes::FORBIDDEN, "this node is no voter"))?;
    let spki = book.spki(node);
    let spki = spki.ok_or_else(|| Problem::new(codes::JOIN_REFUSED, "the node is not admitted"))?;
    let desired = context.desired.current();
    let known = desired.nodes.get(&node);
    let known =
        known.ok_or_else(|| Problem::new(codes::JOIN_REFUSED, "the node is not admitted"))?;
    let subject =
        Subject { node, spki: &spki, name: &known.metadata.name, address: known.spec.address };
    authority.issue(&subject, SystemTime::now())
}
