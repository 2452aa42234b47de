//! `/v1/keys`: the keys of the cluster, by number, and new ones. No key is ever shown.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};
use swarmer_mesh::identity::{Fingerprint, TrustBundle};
use swarmer_raft::{Txn, View};

use crate::{
    agent::{
        TxnExt as _,
        keys::{Authorities, Ring, Rotated, SETTLED, committed, wanted},
    },
    api::{
        Api,
        reply::{self, Answer},
        request::WriteHeaders,
    },
    problem::Outcome,
};

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let context = api.member()?;
    let view = context.control.view();
    let gossip = match committed::<Ring>(&view)? {
        Some((ring, _)) => shown("gossip", &ring, &view),
        None => {
            let key = context.gossip.stats().key;
            json!({
                "name": "gossip", "key": key, "held": [key],
                "phase": phase(SETTLED, wanted::<Ring>(&view)), "wanted": wanted::<Ring>(&view),
            })
        }
    };
    let authority = match committed::<Authorities>(&view)? {
        Some((all, _)) => {
            let mut item = shown("authority", &all, &view);
            item["fingerprint"] = json!(fingerprint(all.issuing()?).map(|print| print.to_string()));
            item
        }
        None => json!({
            "name": "authority", "key": 1, "held": [1],
            "phase": phase(SETTLED, wanted::<Authorities>(&view)),
            "wanted": wanted::<Authorities>(&view),
            "fingerprint": context.pin()?.to_string(),
        }),
    };
    Ok(reply::list(view.revision(), vec![gossip, authority]))
}

fn shown<R: Rotated>(name: &str, rotated: &R, view: &View) -> Value {
    let (state, wanted) = (rotated.state(), wanted::<R>(view));
    json!({
        "name": name, "key": state.seals, "held": state.keys,
        "phase": phase(rotated.phase(), wanted), "wanted": wanted,
    })
}

/// Whoever waits until a rotation is over must not take one for it that has not begun.
fn phase(now: &'static str, wanted: bool) -> &'static str {
    if wanted && now == SETTLED { "waiting" } else { now }
}

fn fingerprint(certificate: &[u8]) -> Option<Fingerprint> {
    TrustBundle::new([certificate.to_vec()]).ok()?.fingerprints().next()
}

pub(super) async fn rotate_gossip(State(api): State<Arc<Api>>, headers: WriteHeaders) -> Answer {
    let revision = ask::<Ring>(&api, &headers).await?;
    Ok(reply::read(revision, &json!({ "rotating": "gossip", "revision": revision })))
}

pub(super) async fn rotate_authority(State(api): State<Arc<Api>>, headers: WriteHeaders) -> Answer {
    let revision = ask::<Authorities>(&api, &headers).await?;
    Ok(reply::read(revision, &json!({ "rotating": "authority", "revision": revision })))
}

/// Repeatable: until the leader has begun with it, asking again changes nothing.
async fn ask<R: Rotated>(api: &Api, headers: &WriteHeaders) -> Outcome<u64> {
    let context = api.member()?;
    let mut txn = Txn::new().put(R::wanted(), "");
    txn.request_id = headers.request_id(0);
    let outcome = context.control.write(txn).await?;
    outcome.committed("asking for a new key")
}
