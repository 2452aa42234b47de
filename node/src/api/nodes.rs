//! `/v1/nodes`: who was admitted.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use serde::Deserialize;
use serde_json::json;
use swarmer_model::{Key, Kind, Node, NodeId, Revision};
use swarmer_raft::{Expect, Leadership, Outcome as TxnOutcome, Txn, View};

use crate::{
    agent::{
        Context, Fault, TxnExt as _, has_held_authority,
        keys::{Authorities, Ring, Rotated as _},
        leaving_key, may_leave,
    },
    api::{
        Api,
        members::name_claim,
        reply::{self, Answer},
        request::{At, JsonBytes, MAX_ATTEMPTS, WriteHeaders},
    },
    codes,
    desired::plans_key,
    problem::{Outcome, Problem},
};

/// How long a deletion waits for a vote to move: less than the whole request may take.
const VOTE_DEADLINE: Duration = Duration::from_secs(20);

/// All admitted nodes with the revisions of their entries.
pub(super) fn all(view: &View) -> (Revision, Vec<(Node, Revision)>) {
    let (seen, entries) = view.list(Kind::Node.prefix());
    let nodes = entries.iter().filter_map(|(_, entry)| {
        let mut node: Node = serde_json::from_slice(&entry.value).ok()?;
        node.metadata.revision = Some(entry.revision);
        Some((node, entry.revision))
    });
    (seen, nodes.collect())
}

/// A node by name or id.
fn find(view: &View, name_or_id: &str) -> Outcome<(Revision, Node, Revision)> {
    let (seen, nodes) = all(view);
    let id = name_or_id.parse::<NodeId>().ok();
    let found = nodes
        .iter()
        .find(|(node, _)| node.metadata.name == name_or_id)
        .or_else(|| nodes.iter().find(|(node, _)| Some(node.spec.id) == id));
    let (node, revision) = found.cloned().ok_or_else(|| {
        let known = nodes.iter().map(|(node, _)| node.metadata.name.as_str());
        let hint = swarmer_model::nearest(name_or_id, known)
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        Problem::new(codes::NOT_FOUND, format!("there is no node {name_or_id:?}{hint}"))
    })?;
    Ok((seen, node, revision))
}

fn check_seen(headers: &WriteHeaders, node: &Node, revision: Revision) -> Outcome<()> {
    match headers.if_match {
        Some(expected) if expected != revision => {
            let detail = format!(
                "node {} was seen at revision {expected}, it is at revision {revision}",
                node.metadata.name
            );
            Err(Problem::new(codes::CONFLICT, detail))
        }
        _ => Ok(()),
    }
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let (seen, nodes) = all(&api.member()?.control.view());
    let items = nodes.iter().map(|(node, _)| json!(node)).collect();
    Ok(reply::list(seen, items))
}

pub(super) async fn get(State(api): State<Arc<Api>>, At(node): At<String>) -> Answer {
    let (seen, node, revision) = find(&api.member()?.control.view(), &node)?;
    Ok(reply::resource(seen, revision, &json!(node)))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    headers: WriteHeaders,
) -> Answer {
    let context = api.member()?;
    let view = context.control.view();
    let found = find(&view, &name).and_then(|(_, node, revision)| {
        check_seen(&headers, &node, revision)?;
        Ok((node, revision))
    });
    let (node, revision) = match found {
        Ok(found) => found,
        Err(problem) => {
            if headers.already_applied(&context).await? {
                return Ok(reply::read(view.revision(), &json!({ "deleted": name })));
            }
            return Err(problem.into());
        }
    };
    // Asked before its vote moves.
    let held_authority = has_held_authority(&context, node.spec.id);
    move_vote(&context, &node).await?;
    let mut txn = Txn::new()
        .check(Key::node(node.spec.id), Expect::At(revision))
        .delete(Key::node(node.spec.id))
        .delete(name_claim(&node.metadata.name))
        .delete(leaving_key(node.spec.id))
        .put(plans_key(), "")
        // It knows the keys of gossip: the leader brings others, after it is shut out.
        .put(Ring::wanted(), "");
    if held_authority {
        txn = txn.put(Authorities::wanted(), "");
    }
    txn.request_id = headers.request_id(0);
    let outcome = context.control.write(txn).await?;
    let revision = outcome.committed(&format!("deleting node {}", node.metadata.name))?;
    let value = json!({ "deleted": node.metadata.name, "id": node.spec.id, "revision": revision });
    Ok(reply::read(revision, &value))
}

/// A node that is shut out would still count in the majority, so its vote goes first. Repeatable:
/// what was begun goes on.
async fn move_vote(context: &Context, node: &Node) -> Outcome<()> {
    let id = node.spec.id;
    let mut leadership = context.control.subscribe_leadership();
    let has_log = |now: &Leadership| now.voters.contains(&id) || now.learners.contains(&id);
    if !has_log(&leadership.borrow_and_update()) {
        return Ok(());
    }
    may_leave(context, id).map_err(|stuck| {
        let detail = format!("node {} is a voter: {stuck}", node.metadata.name);
        Problem::new(codes::VOTE_NEEDED, detail)
    })?;
    let key = leaving_key(id);
    if context.control.view().get(key.as_str()).is_none() {
        // A conflict is another one who asks for the same.
        let txn = Txn::new().check(key.as_str(), Expect::Absent).put(key, "");
        context.control.write(txn).await?;
    }
    let moved = leadership.wait_for(|now| !has_log(now));
    if let Ok(Ok(_)) = tokio::time::timeout(VOTE_DEADLINE, moved).await {
        return Ok(());
    }
    let detail = format!(
        "node {} is still a voter after {} s; it leaves as soon as its vote has moved and this is \
         sent again",
        node.metadata.name,
        VOTE_DEADLINE.as_secs()
    );
    Err(Problem::new(codes::VOTE_MOVES, detail).retry_after(5))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    draining: bool,
}

pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let context = api.member()?;
    let Drain { draining } = body.read()?;
    let view = context.control.view();
    for attempt in 0..MAX_ATTEMPTS {
        let (seen, mut node, revision) = find(&view, &name)?;
        if node.spec.draining == draining {
            return Ok(reply::resource(seen, revision, &json!(node)));
        }
        check_seen(&headers, &node, revision)?;
        node.spec.draining = draining;
        node.metadata.revision = None;
        let value = serde_json::to_vec(&node)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        let key = Key::node(node.spec.id);
        let mut txn = Txn::new()
            .check(key.as_str(), Expect::At(revision))
            .put(key, value)
            .put(plans_key(), "");
        txn.request_id = headers.request_id(attempt);
        match context.control.write(txn).await? {
            TxnOutcome::Committed { .. } => {
                let (seen, node, revision) = find(&view, &name)?;
                return Ok(reply::resource(seen, revision, &json!(node)));
            }
            TxnOutcome::Conflict { revision, .. } => {
                let _ = view.wait_for(revision, Duration::from_secs(1)).await;
            }
        }
    }
    let detail = format!("node {name} changed {MAX_ATTEMPTS} times while this was tried");
    Err(Problem::new(codes::CONFLICT, detail).retry_after(1).into())
}

pub(super) async fn strike(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    body: JsonBytes,
) -> Answer {
    let context = api.member()?;
    let fault: Fault = body.read()?;
    let (seen, node, _) = find(&context.control.view(), &name)?;
    context.strike_at(node.spec.id, fault).await?;
    Ok(reply::read(seen, &json!({ "node": node.metadata.name, "fault": fault.fault })))
}
