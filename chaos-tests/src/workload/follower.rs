//! Followers: one watch on every node, taken up again whenever it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::Value;
use tokio::time::timeout;

use super::{Context, Documents, PATIENCE};
use crate::{
    cluster::{Port, Stream},
    history::{Action, Answer, Event, Outcome},
};

/// All changes of functions, whoever makes them.
const PREFIX: &str = "functions/";
/// How long a follower stays on one connection before it breaks it off itself.
const STAY_MS: (u64, u64) = (2_000, 10_000);
/// The longest line of a stream.
const MAX_PENDING: usize = 1 << 20;

/// How far the followers are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Followers {
    reached: Arc<Vec<AtomicU64>>,
    connections: Arc<AtomicU64>,
}

impl Followers {
    /// One for each node.
    pub fn new(nodes: usize) -> Self {
        let reached = (0..nodes).map(|_| AtomicU64::new(0)).collect();
        Self { reached: Arc::new(reached), connections: Arc::default() }
    }

    /// Connections that told something, after the first of each follower.
    pub fn reconnects(&self) -> u64 {
        self.connections.load(Ordering::Relaxed).saturating_sub(self.reached.len() as u64)
    }

    /// The followers that have not seen `revision`.
    pub fn behind(&self, revision: u64) -> Vec<usize> {
        let behind = |i: &usize| self.reached[*i].load(Ordering::Relaxed) < revision;
        (0..self.reached.len()).filter(behind).collect()
    }
}

/// Follows at one node until the run stops it.
pub async fn follow(context: Context, followers: Followers, node: usize) {
    let mut random = context.random(&format!("follower {node}"));
    let mut client = context.recorder.client();
    let name = context.cluster.name(node).to_string();
    let gateway = context.cluster.gateway(node, Port::Api);
    let mut from = None;
    while !context.is_stopped() {
        let Some(after) = from else {
            from = revision(&context, node).await;
            continue;
        };
        let stay = Duration::from_millis(random.between(STAY_MS.0, STAY_MS.1));
        let path = format!("/v1/watch?prefix={PREFIX}&from={after}");
        let stream = match gateway.open(&path, PATIENCE).await {
            Ok(stream) if stream.status == 200 => stream,
            _ => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let action = Action::Watch { prefix: PREFIX.to_owned(), from: after };
        let reached = &followers.reached[node];
        let work = listen(&context, stream, stay, reached);
        let outcome = client.does(&name, action, work).await;
        let Outcome::Ok { answer: Answer::Events { events, compacted } } = outcome else {
            continue;
        };
        if let Some(last) = events.last() {
            from = Some(last.revision);
            followers.connections.fetch_add(1, Ordering::Relaxed);
        }
        if compacted {
            from = None;
        }
    }
}

/// The revision of the node's copy: where a follower begins.
async fn revision(context: &Context, node: usize) -> Option<u64> {
    let mut gateway = context.api(node);
    let path = "/v1/nodes?consistency=linearizable";
    let reply = gateway.send(Method::GET, path, &[], "", PATIENCE).await;
    let revision = reply.ok().and_then(|reply| reply.header("x-swarmer-revision").parse().ok());
    if revision.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    revision
}

async fn listen(context: &Context, stream: Stream, stay: Duration, reached: &AtomicU64) -> Outcome {
    let (mut events, mut compacted) = (Vec::new(), false);
    let heard = hear(context, stream, stay, |block| {
        if block.kind == "compacted" {
            compacted = true;
        } else if let Some(told) = block.changes() {
            if let Some(last) = told.last() {
                reached.fetch_max(last.revision, Ordering::Relaxed);
            }
            events.extend(told);
        } else if block.kind == "change" {
            return Err(format!("a watch told {:?}", block.data));
        }
        Ok(())
    });
    match heard.await {
        Ok(()) => Outcome::Ok { answer: Answer::Events { events, compacted } },
        Err(why) => Outcome::Harness { why },
    }
}

/// Hands on each event of a stream that comes whole, for so long at most.
pub(super) async fn hear(
    context: &Context,
    mut stream: Stream,
    stay: Duration,
    mut take: impl FnMut(Block) -> Result<(), String>,
) -> Result<(), String> {
    /// How often it looks whether the run is to end.
    const LOOK: Duration = Duration::from_millis(100);
    let began = Instant::now();
    let mut pending = Vec::new();
    while began.elapsed() < stay && !context.is_stopped() && pending.len() < MAX_PENDING {
        let bytes = match timeout(LOOK, stream.next()).await {
            Err(_) => continue,
            Ok(None) => break,
            Ok(Some(bytes)) => bytes,
        };
        pending.extend_from_slice(&bytes);
        // Only what came whole was told; an empty line ends an event.
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
            let rest = pending.split_off(end + 2);
            let told = std::mem::replace(&mut pending, rest);
            take(Block::of(&String::from_utf8_lossy(&told)))?;
        }
    }
    Ok(())
}

/// One server-sent event.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) kind: String,
    pub(super) data: String,
}

impl Block {
    fn of(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("event:") {
                block.kind = kind.trim_start().to_owned();
            } else if let Some(data) = line.strip_prefix("data:") {
                block.data.push_str(data.trim_start());
            }
        }
        block
    }

    /// The changes of functions in it; none if it is no change, or cannot be read.
    fn changes(&self) -> Option<Vec<Event>> {
        if self.kind != "change" {
            return None;
        }
        let data: Value = serde_json::from_str(&self.data).ok()?;
        let revision = data["revision"].as_u64()?;
        let one = |event: &Value| {
            let key = event["key"].as_str()?.to_owned();
            Some(Event { revision, key, value: Documents::value(&event["value"]) })
        };
        data["events"].as_array()?.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_are_sent() {
        let text = concat!(
            "event: change\nid: 7\n",
            "data: {\"revision\":7,\"events\":[{\"key\":\"functions/registers/a\",",
            "\"value\":{\"metadata\":{\"annotations\":{\"value\":\"3\"}}}},",
            "{\"key\":\"functions/set/e1\",\"value\":null}]}\n\n"
        );
        let changes = Block::of(text).changes().unwrap();
        let event = |key: &str, value| Event { revision: 7, key: key.into(), value };
        let expected = [event("functions/registers/a", Some(3)), event("functions/set/e1", None)];
        assert_eq!(changes, expected);
        assert!(Block::of(": keep-alive\n\n").changes().is_none());
        let odd = Block::of("event: change\ndata: {}\n\n");
        assert!(odd.changes().is_none() && odd.kind == "change");
    }
}
