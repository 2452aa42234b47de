//! `/v1/keys`: the keys of the cluster, by number, and a new one. No key is ever shown.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;
use swarmer_raft::Txn;

use crate::{
    agent::{TxnExt as _, keys},
    api::{
        Api,
        reply::{self, Answer},
        request::WriteHeaders,
    },
};

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let context = api.member()?;
    let view = context.control.view();
    let wanted = keys::wanted(&view);
    let item = match keys::committed(&view)? {
        Some((ring, _)) => json!({
            "name": "gossip", "key": ring.seals, "held": ring.ids(), "phase": ring.phase(),
            "wanted": wanted,
        }),
        None => {
            let key = context.gossip.stats().key;
            json!({
                "name": "gossip", "key": key, "held": [key], "phase": "settled", "wanted": wanted,
            })
        }
    };
    Ok(reply::list(view.revision(), vec![item]))
}

/// Repeatable: until the leader has begun with it, asking again changes nothing.
pub(super) async fn rotate(State(api): State<Arc<Api>>, headers: WriteHeaders) -> Answer {
    let context = api.member()?;
    let mut txn = Txn::new().put(keys::wanted_key(), "");
    txn.request_id = headers.request_id(0);
    let outcome = context.control.write(txn).await?;
    let revision = outcome.committed("asking for a new key")?;
    Ok(reply::read(revision, &json!({ "rotating": "gossip", "revision": revision })))
}
