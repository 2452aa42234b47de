//! The first state of a new cluster, written by the founder that made it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use swarmer_mesh::founding::Secret;
use swarmer_model::{Key, Node, NodeSpec, Role, TokenKind, TokenRecord};
use swarmer_raft::{Expect, Handle, Txn, View};

use crate::{
    agent::{
        Control, TxnExt as _,
        context::now_ms,
        control::info_key,
        data_dir::{read_bytes, write_bytes},
        identity::{Grant, PeerInfo},
    },
    codes,
    problem::{Outcome, Problem, chain},
};

/// The first API token, in the data directory of the founder that made the cluster: without it
/// nobody could open an API that is reached from other machines.
const ADMIN_TOKEN_FILE: &str = "admin.token";
/// How long the first API token is good for, in milliseconds: ten years, as the authority.
const ADMIN_TOKEN_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Pause between tries while the other founders start.
const PAUSE: Duration = Duration::from_millis(100);

/// What the cluster kept of its founding secret: by it, a spent founding token is told from a wrong
/// one. None where the cluster was founded by an older version.
pub(crate) fn founding_witness(view: &View) -> Option<Secret> {
    let entry = view.get(info_key().as_str())?;
    let info: serde_json::Value = serde_json::from_slice(&entry.value).ok()?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(info["witness"].as_str()?, &mut bytes).ok()?;
    Some(Secret::from_bytes(bytes))
}

/// Makes the founders the voters and admits them. Repeatable at any point: what is done is found
/// done. Ends when the first state is committed.
pub(crate) async fn bootstrap(
    control: &Control,
    handle: &Handle,
    grant: &Grant,
    dir: &Path,
) -> Outcome<()> {
    let voters: BTreeSet<_> = grant.voters.iter().copied().collect();
    handle
        .initialize(voters)
        .await
        .map_err(|error| Problem::of(&error, "making the founders the voters"))?;
    loop {
        if control.stands() {
            return Ok(());
        }
        match control.found(first_txn(grant, dir)?).await.and_then(|o| o.committed("founding")) {
            Ok(revision) => {
                tracing::info!(target: "swarmer::founding", revision, "the cluster stands");
                return Ok(());
            }
            Err(problem) if problem.code == codes::CONFLICT => return Ok(()),
            Err(problem) => {
                tracing::info!(target: "swarmer::founding", detail = problem.detail,
                    "waiting for the other founders");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The token that was written before, or a new one, durable before the state knows its hash.
fn admin_token(dir: &Path) -> Outcome<Secret> {
    let path = dir.join(ADMIN_TOKEN_FILE);
    let kept = read_bytes(&path)?.and_then(|text| {
        let text = String::from_utf8(text).ok()?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim().strip_prefix("swa1.")?).ok()?;
        Some(Secret::from_bytes(bytes.try_into().ok()?))
    });
    if let Some(secret) = kept {
        return Ok(secret);
    }
    let secret = Secret::random();
    let text = format!("swa1.{}\n", URL_SAFE_NO_PAD.encode(secret.expose()));
    write_bytes(&path, text.as_bytes())?;
    Ok(secret)
}

fn first_txn(grant: &Grant, dir: &Path) -> Outcome<Txn> {
    let hash = hex::encode(admin_token(dir)?.hash());
    let now = now_ms();
    let admin = TokenRecord {
        id: hash.chars().take(8).collect(),
        kind: TokenKind::Api { role: Role::Admin, namespace: None },
        expires_at_ms: now + ADMIN_TOKEN_MS,
        created_at_ms: now,
    };
    let admin =
        serde_json::to_vec(&admin).map_err(|error| Problem::new(codes::INTERNAL, chain(&error)))?;
    let info = serde_json::json!({
        "cluster": grant.cluster,
        "authority": hex::encode(&grant.ca),
        "founders": grant.peers.iter().map(|peer| peer.node).collect::<Vec<_>>(),
        "witness": grant.witness,
    });
    let mut txn = Txn::new()
        .check(info_key().as_str(), Expect::Absent)
        .put(info_key().as_str(), info.to_string())
        .put(Key::token(&hash).as_str(), admin);
    for peer in &grant.peers {
        let value = serde_json::to_vec(&node_of(peer))
            .map_err(|error| Problem::new(codes::INTERNAL, chain(&error)))?;
        let name = Key::cluster(&format!("names/{}", peer.name));
        txn =
            txn.put(Key::node(peer.node).as_str(), value).put(name.as_str(), peer.node.to_string());
    }
    Ok(txn)
}

fn node_of(peer: &PeerInfo) -> Node {
    Node::new(
        &peer.name,
        NodeSpec {
            id: peer.node,
            public_key: hex::encode(&peer.spki),
            address: peer.address,
            region: peer.region.clone(),
            zone: peer.zone.clone(),
            labels: peer.labels.clone(),
            draining: false,
            token: None,
        },
    )
}
