//! Health, status and members: what this node knows and why.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde_json::{Value, json};
use swarmer_gossip::{Member, MemberState};
use swarmer_model::{ByteSize, Key, Node, NodeId, RegionState};

use crate::{
    agent::Context,
    api::{
        Api, nodes,
        reply::{self, Answer},
    },
};

pub(super) async fn livez(State(_): State<Arc<Api>>) -> Response {
    reply::json(StatusCode::OK, &json!({ "alive": true }))
}

pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Answer {
    match api.not_ready() {
        None => Ok(reply::json(StatusCode::OK, &json!({ "ready": true }))),
        Some(problem) => Err(problem.into()),
    }
}

pub(super) async fn members(State(api): State<Arc<Api>>) -> Answer {
    let context = api.member()?;
    let (seen, items) = all(&context);
    Ok(reply::list(seen, items))
}

pub(super) async fn status(State(api): State<Arc<Api>>) -> Answer {
    let context = api.member()?;
    let status = context.control.status();
    let (seen, members) = all(&context);
    let named = |node: NodeId| json!({ "name": context.node_name(node), "id": node });
    // While a change of them is half done, those of before are needed too.
    let settled = context.control.raft().is_none_or(|raft| {
        let members = raft.members();
        members.settled && members.configs.len() == 1
    });
    let value = json!({
        "cluster": context.cluster,
        "node": { "name": context.name, "id": context.node, "role": status.role },
        "leader": status.leader.filter(|_| status.quorum_ok).map(named),
        "term": status.term,
        "revision": status.revision,
        // Of all changes up to this revision: equal on all nodes.
        "stateHash": hex::encode(status.chain_hash.0),
        "quorum": status.quorum_ok,
        "voters": status.voters.iter().map(|voter| named(*voter)).collect::<Vec<_>>(),
        "votersSettled": settled,
        "learners": status.learners.iter().map(|node| named(*node)).collect::<Vec<_>>(),
        "lag": status.lag,
        // The number of the key that this node seals gossip with.
        "gossipKey": context.gossip.stats().key,
        "members": members,
    });
    Ok(reply::read(seen, &value))
}

/// Members by gossip, with those that were admitted but never seen.
fn all(context: &Context) -> (u64, Vec<Value>) {
    let (seen, committed) = nodes::all(&context.control.view());
    let committed: Vec<Node> = committed.into_iter().map(|(node, _)| node).collect();
    let voters = context.control.status().voters;
    let votes = |node: NodeId| voters.contains(&node);
    let away = |node: NodeId| context.gossip.distance(node);
    let desired = context.desired.current();
    let regions = |region: &str| desired.region_state(region) == RegionState::Drained;
    let members = context.gossip.members();
    let items = merge(&members, &committed, context.node, votes, regions, away);
    (seen, items)
}

fn merge(
    members: &[Member],
    committed: &[Node],
    own: NodeId,
    votes: impl Fn(NodeId) -> bool,
    region_drained: impl Fn(&str) -> bool,
    away: impl Fn(NodeId) -> Option<Duration>,
) -> Vec<Value> {
    let admitted = |id: NodeId| committed.iter().find(|node| node.spec.id == id);
    let seen = members.iter().map(|member| {
        let node = admitted(member.node);
        // What a node says of itself is a claim; what was committed is not.
        let facts = member.record.as_ref().map(|record| &record.facts);
        let with_region = node.is_some_and(|node| region_drained(&node.spec.region));
        let draining =
            with_region || member.draining || node.is_some_and(|node| node.spec.draining);
        let state = if draining && member.state.is_active() {
            "draining".to_owned()
        } else {
            member.state.to_string()
        };
        let reason = match () {
            () if member.state != MemberState::Alive => &*member.reason,
            () if member.draining => "it stops in good order, and takes no new work",
            () if with_region => "its region is drained, by `swarmer region drain`",
            () if draining => "it is being emptied, by `swarmer drain`",
            () => &*member.reason,
        };
        // A node that is too old to say it, or was never heard of, has none.
        let told = facts.map(|facts| facts.software.as_str()).filter(|told| !told.is_empty());
        let version = if member.node == own { Some(env!("CARGO_PKG_VERSION")) } else { told };
        let rtt = away(member.node).filter(|_| member.node != own && member.state.is_active());
        json!({
            "name": node.map_or(&*member.name, |node| node.metadata.name.as_str()),
            "id": member.node,
            "address": member.addr,
            "state": state,
            "region": node.map(|node| &node.spec.region),
            "zone": node.map(|node| &node.spec.zone),
            "voter": votes(member.node),
            "version": version,
            "wire": facts.map(|facts| json!({ "oldest": facts.wire_min, "newest": facts.wire_max })),
            "capacity": facts.map(|facts| facts.capacity).filter(|told| told.functions > 0).map(
                |told| json!({
                    "functions": told.functions,
                    "memory": ByteSize(told.memory_bytes),
                    "concurrency": told.concurrency,
                }),
            ),
            // From this node, measured lately or estimated.
            "rttMs": rtt.map(milliseconds),
            "reason": reason,
        })
    });
    let never = committed.iter().filter(|node| !members.iter().any(|m| m.node == node.spec.id));
    let never = never.map(|node| {
        json!({
            "name": node.metadata.name,
            "id": node.spec.id,
            "address": node.spec.address,
            "state": "dead",
            "region": node.spec.region,
            "zone": node.spec.zone,
            "voter": votes(node.spec.id),
            "version": Value::Null,
            "wire": Value::Null,
            "capacity": Value::Null,
            "rttMs": Value::Null,
            "reason": "not seen since this node started",
        })
    });
    let mut items: Vec<Value> = seen.chain(never).collect();
    items.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    items
}

/// To the microsecond: what is behind it is noise.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The key of the claim by which a node's name is its own.
pub(super) fn name_claim(name: &str) -> Key {
    Key::cluster(&format!("names/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_gossip::{Facts, Record};
    use swarmer_model::{Labels, NodeSpec};

    fn member(id: u64, state: MemberState) -> Member {
        Member {
            node: NodeId(id),
            name: format!("g{id}").into(),
            addr: ([127, 0, 0, 1], 7400).into(),
            state,
            draining: false,
            reason: "it answers".into(),
            boot: 1,
            since: Duration::ZERO,
            record: None,
        }
    }

    fn node(id: u64, name: &str, draining: bool) -> Node {
        let spec = NodeSpec {
            id: NodeId(id),
            public_key: "00".into(),
            address: ([127, 0, 0, 1], 7400).into(),
            region: "eu-1".into(),
            zone: String::new(),
            labels: Labels::new(),
            draining,
            token: None,
        };
        Node::new(name, spec)
    }

    #[test]
    fn who_drains_is_told_with_the_reason() {
        let told = |change: fn(&mut Member), drained: bool| {
            let mut member = member(1, MemberState::Alive);
            change(&mut member);
            let (one, no) = (node(1, "a", drained), |_: &str| false);
            let item = merge(&[member], &[one], NodeId(2), |_| false, no, |_| None).remove(0);
            format!("{}: {}", item["state"].as_str().unwrap(), item["reason"].as_str().unwrap())
        };
        assert_eq!(told(|_| (), false), "alive: it answers");
        assert!(told(|m| m.draining = true, false).starts_with("draining: it stops in good order"));
        assert!(told(|_| (), true).starts_with("draining: it is being emptied"));
        let alive = member(1, MemberState::Alive);
        let item = merge(
            &[alive],
            &[node(1, "a", false)],
            NodeId(2),
            |_| false,
            |name| name == "eu-1",
            |_| None,
        )
        .remove(0);
        assert_eq!(item["state"], "draining");
        assert_eq!(item["reason"], "its region is drained, by `swarmer region drain`");
        let silent = |m: &mut Member| (m.state, m.draining) = (MemberState::Suspect, true);
        assert_eq!(told(silent, false), "draining: it answers", "what gossip says of it");
    }

    #[test]
    fn members_are_told_with_what_was_committed() {
        let mut other = member(2, MemberState::Down);
        let facts =
            Facts { software: "7.8.9".into(), wire_min: 1, wire_max: 2, ..Facts::default() };
        let record = Record { node: NodeId(2), boot: 1, version: 1, left: false, facts };
        other.record = Some(record.into());
        let members = [member(1, MemberState::Alive), other];
        let committed = [node(1, "a", true), node(2, "b", true), node(3, "c", false)];
        let away = |_| Some(Duration::from_nanos(80_123_456));
        let (votes, no) = (|node| node == NodeId(1), |_: &str| false);
        let items = merge(&members, &committed, NodeId(1), votes, no, away);
        let state = |i: usize| items[i]["state"].as_str().unwrap();
        assert_eq!(items[0]["name"], "a", "the committed name counts");
        assert_eq!(items[0]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(items[1]["version"], "7.8.9");
        assert_eq!(items[2]["version"], Value::Null);
        assert_eq!(items[1]["wire"], json!({ "oldest": 1, "newest": 2 }));
        assert_eq!(items[2]["wire"], Value::Null);
        assert_eq!((state(0), state(1), state(2)), ("draining", "dead", "dead"));
        assert_eq!(items[2]["reason"], "not seen since this node started");
        assert_eq!(items[0]["rttMs"], Value::Null, "of the node that is asked");
        assert_eq!(items[1]["rttMs"], Value::Null, "of one that is dead");
        let there = member(2, MemberState::Alive);
        let told = merge(&[there], &committed, NodeId(1), |_| false, |_| false, away);
        assert_eq!(told[1]["rttMs"], 80.123);
        assert_eq!(items[0]["voter"], true);
        assert_eq!(items[0]["region"], "eu-1");
    }
}
