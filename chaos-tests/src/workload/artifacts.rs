//! Artifacts handed to any node, and read back from the nodes that were told to hold them.

use std::time::{Duration, Instant};

use http::Method;
use swarmer_model::Digest;

use super::{Context, PATIENCE, change, think};
use crate::{
    cluster::{Gateway, Lost, Reply, echo},
    history::{Action, Answer, Client, Outcome},
};

/// In percent: how often an artifact is read back instead of a new one handed over.
const READ_BACK: u64 = 60;
/// The most artifacts of a client: each one is compiled.
const MAX_ARTIFACTS: u64 = 40;
/// How long after the end of the run a holder may take to answer at all.
const LAST: Duration = Duration::from_secs(30);
/// Between two tries of that.
const PAUSE: Duration = Duration::from_millis(200);

/// The code of an upload, or of a copy between nodes, that ended too early.
const BROKEN_OFF: &str = "SW-ARTIFACT-TRUNCATED";

/// An artifact that was acknowledged, and the nodes that hold it.
struct Kept {
    digest: Digest,
    nodes: Vec<usize>,
}

/// One client, until the run stops it; then each artifact is read at each of its nodes.
pub async fn run(context: Context, number: usize) {
    let mut random = context.random(&format!("artifact client {number}"));
    let mut client = context.recorder.client();
    let Ok(component) = echo() else { return };
    let mut kept: Vec<Kept> = Vec::new();
    let mut made = 0;
    while !context.is_stopped() {
        think(&mut random, 400).await;
        if !kept.is_empty() && (made == MAX_ARTIFACTS || random.chance(READ_BACK)) {
            let Kept { digest, nodes } = &kept[random.index(kept.len())];
            let node = nodes[random.index(nodes.len())];
            fetch(&mut client, &mut context.api(node), *digest).await;
        } else if made < MAX_ARTIFACTS {
            made += 1;
            let bytes = distinct(&component, &format!("{}-{number}-{made}", context.seed));
            let mut gateway = context.api(random.index(context.cluster.count()));
            kept.extend(deploy(&context, &mut client, &mut gateway, bytes).await);
        }
    }
    for Kept { digest, nodes } in &kept {
        for node in nodes {
            let began = Instant::now();
            let mut gateway = context.api(*node);
            while matches!(fetch(&mut client, &mut gateway, *digest).await, Outcome::Unknown { .. })
                && began.elapsed() < LAST
            {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The same component with other bytes: a custom section (WebAssembly core, 5.5.3) more.
pub fn distinct(component: &[u8], name: &str) -> Vec<u8> {
    const LONGEST: usize = 100;
    let name = &name.as_bytes()[..name.len().min(LONGEST)];
    let length = u8::try_from(name.len()).unwrap_or(0);
    [component, &[0, length + 1, length], name].concat()
}

async fn deploy(
    context: &Context,
    client: &mut Client,
    gateway: &mut Gateway,
    bytes: Vec<u8>,
) -> Option<Kept> {
    let digest = Digest::of(&bytes);
    let node = gateway.node().to_string();
    let path = format!("/v1/artifacts/{digest}");
    let mut nodes = Vec::new();
    let work = async {
        let reply = gateway.send(Method::PUT, &path, &[], bytes, PATIENCE).await;
        if let Ok(reply) = &reply {
            let told = reply.json();
            let names: Vec<&str> =
                told["nodes"].as_array().into_iter().flatten().filter_map(|n| n.as_str()).collect();
            let known = |i: &usize| names.contains(&&**context.cluster.name(*i));
            nodes = (0..context.cluster.count()).filter(known).collect();
        }
        match reply {
            // A copy to another node broke off: the artifact may be here all the same.
            Ok(reply) if reply.code() == BROKEN_OFF => Outcome::Unknown { why: reply.code() },
            reply => change(reply, false, |_| None),
        }
    };
    let outcome = client.does(&node, Action::Deploy { artifact: digest.to_string() }, work).await;
    (matches!(outcome, Outcome::Ok { .. }) && !nodes.is_empty()).then_some(Kept { digest, nodes })
}

async fn fetch(client: &mut Client, gateway: &mut Gateway, digest: Digest) -> Outcome {
    let node = gateway.node().to_string();
    let path = format!("/v1/artifacts/{digest}");
    let work = async { fetched(gateway.send(Method::GET, &path, &[], "", PATIENCE).await) };
    client.does(&node, Action::Fetch { artifact: digest.to_string() }, work).await
}

fn fetched(reply: Result<Reply, Lost>) -> Outcome {
    match reply {
        Ok(reply) if reply.status == 200 => {
            let digest = Digest::of(&reply.body).to_string();
            Outcome::Ok { answer: Answer::Bytes { digest } }
        }
        Ok(reply) if reply.status == 404 => Outcome::Failed { why: reply.code() },
        Ok(reply) => Outcome::Unknown { why: format!("{} {}", reply.status, reply.code()) },
        Err(Lost::NotSent(why) | Lost::Sent(why)) => Outcome::Unknown { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_artifact_is_another_component() {
        let component = echo().unwrap();
        let (one, two) = (distinct(&component, "1-0-1"), distinct(&component, "1-0-2"));
        assert_ne!(Digest::of(&one), Digest::of(&two));
        assert_eq!(&one[..component.len()], &component[..]);
        assert_eq!(&one[component.len()..], b"\0\x06\x051-0-1");
    }

    #[test]
    fn only_missing_bytes_are_a_failure() {
        let reply = |status| {
            let headers = http::HeaderMap::new();
            Ok(Reply { status, headers, body: "x".into() })
        };
        assert!(matches!(fetched(reply(200)), Outcome::Ok { .. }));
        assert!(matches!(fetched(reply(404)), Outcome::Failed { .. }));
        assert!(matches!(fetched(reply(503)), Outcome::Unknown { .. }));
        assert!(matches!(fetched(Err(Lost::NotSent("no".into()))), Outcome::Unknown { .. }));
    }
}
