//! Those who do not belong: somebody who took datagrams down and sends them again, and a node that
//! was removed and goes on.

use std::time::Duration;

use anyhow::{Result, bail};
use http::Method;
use serde_json::json;

use super::{Context, PATIENCE, change, counts::Counts, read, think, write};
use crate::{
    cluster::Port,
    history::{Action, Answer, Outcome},
};

/// How long datagrams are taken down: a few of each peer, all of them within the window in which a
/// node remembers what it has seen.
const LISTEN: Duration = Duration::from_secs(2);
/// After that long no packet is on its way to a node that was cut off.
const SETTLED: Duration = Duration::from_millis(300);
/// Between two datagrams that are sent again: no queue overflows.
const PACE: Duration = Duration::from_millis(2);
/// How long a run goes on before the node is removed.
const STAYS_MS: (u64, u64) = (2_000, 4_000);
/// The register that the removed node writes.
const REGISTER: &str = "trespass";

/// Admits the node that is going to be removed.
///
/// # Errors
/// It does not become a member.
pub async fn admit(context: &Context) -> Result<()> {
    let mut api = context.api(0);
    let wish = json!({ "kind": "join" }).to_string();
    let reply = api.send(Method::POST, "/v1/tokens", &[], wish, PATIENCE).await;
    let token =
        reply.as_ref().ok().and_then(|reply| Some(reply.json()["token"].as_str()?.to_owned()));
    let Some(token) = token else { bail!("no token is made: {reply:?}") };
    context.cluster.join(&token).await
}

/// Takes down what comes to a node and sends it again, while nobody else reaches it: so what came is
/// what was sent again.
pub async fn replay(context: Context) {
    let mut random = context.random("replayer");
    let mut client = context.recorder.client();
    while !context.is_stopped() {
        let node = random.index(context.cluster.count());
        let name = context.cluster.name(node).to_string();
        let Ok(datagrams) = context.cluster.overhear(node, LISTEN).await else { continue };
        if datagrams.is_empty() {
            continue;
        }
        let action = Action::Replay { datagrams: datagrams.len() as u64 };
        let work = async {
            match send_again(&context, node, &datagrams).await {
                Ok(answer) => Outcome::Ok { answer },
                Err(error) => Outcome::Failed { why: error.to_string() },
            }
        };
        client.does(&name, action, work).await;
    }
}

async fn send_again(context: &Context, node: usize, datagrams: &[Vec<u8>]) -> Result<Answer> {
    let cluster = &context.cluster;
    let mut gateway = context.api(node);
    let cut = cluster.shut(node)?;
    tokio::time::sleep(SETTLED).await;
    let counted = async {
        let before = Counts::of(&mut gateway).await?;
        for datagram in datagrams {
            cluster.tell(node, datagram).await?;
            tokio::time::sleep(PACE).await;
        }
        tokio::time::sleep(SETTLED).await;
        let after = Counts::of(&mut gateway).await?;
        let (came, refused) = (after.came - before.came, after.refused - before.refused);
        Ok(Answer::Refused { came, refused })
    };
    let answer = counted.await;
    if !cluster.mend(cut)? {
        bail!("the others reached it meanwhile");
    }
    answer
}

/// Removes the node that was admitted, and goes on to write and read through it.
pub async fn trespass(context: Context) {
    let mut random = context.random("trespasser");
    let mut client = context.recorder.client();
    let guest = context.cluster.guest();
    let name = context.cluster.name(guest).to_string();
    let mut gateway = context.cluster.gateway(guest, Port::Api);
    let stays = Duration::from_millis(random.between(STAYS_MS.0, STAYS_MS.1));
    let began = std::time::Instant::now();
    let (mut removed, mut value) = (false, 0);
    while !context.is_stopped() {
        think(&mut random, 200).await;
        if !removed && began.elapsed() > stays {
            let mut api = context.api(random.index(context.cluster.count()));
            let path = format!("/v1/nodes/{name}");
            let work = async {
                let reply = api.send(Method::DELETE, &path, &[], "", PATIENCE).await;
                change(reply, true, |_| None)
            };
            let outcome = client.does(&name, Action::Expel, work).await;
            removed = matches!(outcome, Outcome::Ok { .. });
            continue;
        }
        value += 1;
        // Unique, apart from all that others write.
        let unique = 900_000_000 + value;
        if value % 2 == 0 {
            read(&mut client, &mut gateway, REGISTER).await;
        } else {
            write(&context, &mut client, &mut gateway, REGISTER, unique).await;
        }
    }
}
