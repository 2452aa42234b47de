//! Who votes, by the word of one node after another.

use http::Method;
use serde_json::Value;

use super::{Context, PATIENCE, list, think};
use crate::history::{Action, Answer, Outcome};

/// The longest time between two looks.
const LOOK_MS: u64 = 1_000;

/// Reads who votes, until the run stops it.
pub async fn voters(context: Context) {
    let mut random = context.random("voters");
    let mut client = context.recorder.client();
    while !context.is_stopped() {
        think(&mut random, LOOK_MS).await;
        let mut gateway = context.api(random.index(context.cluster.count()));
        let node = gateway.node().to_string();
        let work = async {
            let reply = gateway.send(Method::GET, "/v1/status", &[], "", PATIENCE).await;
            if reply.as_ref().is_ok_and(|reply| reply.json()["votersSettled"] == false) {
                return Outcome::Failed { why: "the voters are being changed".into() };
            }
            list(reply, named)
        };
        client.does(&node, Action::Voters, work).await;
    }
}

fn named(status: &Value) -> Option<Answer> {
    let voters = status["voters"].as_array()?.iter();
    let names = voters.map(|voter| Some(voter["name"].as_str()?.to_owned()));
    Some(Answer::Names { names: names.collect::<Option<_>>()? })
}
