//! What a function wrote, from all living members.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::NodeId;

use crate::{
    agent::{LogQuery, NodeLogs},
    api::{
        Api,
        functions::resource,
        reply::{self, Answer},
        request::{At, Params},
        rfc3339,
    },
    codes,
    functions::{LogEntry, LogPosition},
    problem::{Outcome, Problem},
};

/// Lines of each node where the caller does not say.
const DEFAULT_TAIL: usize = 100;
/// The most lines of each node; no node keeps more.
const MAX_TAIL: usize = 10_000;
/// The most cursors: as many as a cluster has nodes.
const MAX_CURSORS: usize = 1_000;

#[derive(Deserialize)]
pub(in crate::api) struct Query {
    tail: Option<usize>,
    #[serde(default)]
    after: String,
}

pub(in crate::api) async fn logs(
    State(api): State<Arc<Api>>,
    At((namespace, name)): At<(String, String)>,
    Params(query): Params<Query>,
) -> Answer {
    let context = api.member()?;
    let (seen, stored) = resource::read(&context.control.view(), &namespace, &name)?;
    let stored = stored.ok_or_else(|| resource::missing(&namespace, &name))?;
    let mut from = cursors(&query.after)?;
    let wanted = LogQuery {
        function: stored.function.id(),
        tail: query.tail.unwrap_or(DEFAULT_TAIL).min(MAX_TAIL),
        from: from.clone(),
    };
    let found = context.collect_logs(wanted).await;
    // A node that did not answer is asked again from where it was; one that is gone is forgotten.
    let nodes = &context.desired.current().nodes;
    from.retain(|node, _| nodes.contains_key(node));
    from.extend(found.iter().map(|logs| (logs.node, logs.page.next)));
    let items = items(found, |node| context.node_name(node));
    Ok(reply::read(seen, &json!({ "items": items, "next": cursors_text(&from) })))
}

type Cursors = BTreeMap<NodeId, LogPosition>;

/// Writes what [`cursors`] reads.
fn cursors_text(cursors: &Cursors) -> String {
    let parts = cursors.iter().map(|(node, at)| format!("{node}:{}.{}", at.boot, at.sequence));
    parts.collect::<Vec<_>>().join(",")
}

/// Reads `node:boot.sequence,…`: `next` of the answer before.
fn cursors(text: &str) -> Outcome<Cursors> {
    let bad = |why: String| Err(Problem::new(codes::BAD_REQUEST, why));
    let mut cursors = Cursors::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let read = |part: &str| {
            let (node, position) = part.split_once(':')?;
            let (boot, sequence) = position.split_once('.')?;
            let position =
                LogPosition { boot: boot.parse().ok()?, sequence: sequence.parse().ok()? };
            Some((node.parse().ok()?, position))
        };
        let Some((node, position)) = read(part) else {
            return bad(format!("after has {part:?}: must be `next` of the answer before"));
        };
        cursors.insert(node, position);
        if cursors.len() > MAX_CURSORS {
            return bad(format!("after has more than {MAX_CURSORS} entries"));
        }
    }
    Ok(cursors)
}

/// The lines of all nodes by time; those of one node stay in their order.
fn items(found: Vec<NodeLogs>, name: impl Fn(NodeId) -> String) -> Vec<Value> {
    let mut lines = Vec::new();
    for logs in found {
        let (node, boot) = (name(logs.node), logs.page.next.boot);
        lines.extend(
            logs.page.lines.into_iter().map(|line| (line.time_ms, node.clone(), boot, line)),
        );
    }
    lines.sort_by(|(a_time, a_node, _, a), (b_time, b_node, _, b)| {
        (a_time, a_node, a.sequence).cmp(&(b_time, b_node, b.sequence))
    });
    let value = |(time, node, boot, line)| {
        let line: LogEntry = line;
        json!({
            "node": node,
            "boot": boot,
            "sequence": line.sequence,
            "time": rfc3339(time),
            "version": line.version,
            "stream": line.stream,
            "traceId": line.trace_id,
            "text": line.text,
        })
    };
    lines.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::LogPage;

    #[test]
    fn cursors_are_read_or_refused() {
        assert!(cursors("").unwrap().is_empty());
        let at = |boot, sequence| LogPosition { boot, sequence };
        let all = BTreeMap::from([(NodeId(1), at(2, 0)), (NodeId(u64::MAX), at(1, 30))]);
        assert_eq!(cursors(&cursors_text(&all)).unwrap(), all);
        assert_eq!(cursors(&format!("{},", cursors_text(&all))).unwrap(), all);
        for bad in ["a", "a:", ":1", "1:1", "1:1.x", "1:1.-1", "x:1.1"] {
            assert_eq!(cursors(bad).unwrap_err().code, codes::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn lines_of_all_nodes_are_sorted_by_time() {
        let line = |sequence, time_ms| LogEntry {
            sequence,
            time_ms,
            version: 1,
            stream: "stdout".into(),
            trace_id: None,
            text: format!("{sequence}"),
        };
        let page = |boot, lines| LogPage { lines, next: LogPosition { boot, sequence: 9 } };
        let found = vec![
            NodeLogs { node: NodeId(1), page: page(1, vec![line(4, 10), line(5, 30)]) },
            NodeLogs { node: NodeId(2), page: page(7, vec![line(1, 20)]) },
        ];
        let items = items(found, |node| format!("n{}", node.0));
        let nodes: Vec<&str> = items.iter().filter_map(|item| item["node"].as_str()).collect();
        assert_eq!(nodes, ["n1", "n2", "n1"]);
        assert_eq!(items[1]["boot"], 7);
        assert_eq!(items[0]["time"], "1970-01-01T00:00:00.010Z");
    }
}
