//! Those who do not belong: somebody who took datagrams down and sends them again, and a node that
//! was removed and goes on.

use std::time::Duration;

use anyhow::{Result, bail};
use http::Method;
use serde_json::json;

use super::{Context, PATIENCE, change, read, think, write};
use crate::{
    cluster::{Gateway, Port},
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

/// Counts of a node's gossip: datagrams that came, and those of them that were refused.
#[derive(Debug, Clone, Copy)]
struct Counts {
    came: u64,
    refused: u64,
}

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
        let before = counts(&mut gateway).await?;
        for datagram in datagrams {
            cluster.tell(node, datagram).await?;
            tokio::time::sleep(PACE).await;
        }
        tokio::time::sleep(SETTLED).await;
        let after = counts(&mut gateway).await?;
        let (came, refused) = (after.came - before.came, after.refused - before.refused);
        Ok(Answer::Refused { came, refused })
    };
    let answer = counted.await;
    if !cluster.mend(cut)? {
        bail!("the others reached it meanwhile");
    }
    answer
}

async fn counts(gateway: &mut Gateway) -> Result<Counts> {
    let reply = gateway.send(Method::GET, "/metrics", &[], "", PATIENCE).await;
    let Ok(reply) = reply else { bail!("no metrics: {reply:?}") };
    Ok(counted(&String::from_utf8_lossy(&reply.body)))
}

/// Records inside of a datagram have refusals of their own; those say nothing of the datagram.
fn counted(text: &str) -> Counts {
    let mut counts = Counts { came: 0, refused: 0 };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        // Whole numbers, which the format writes as floats.
        let value = value.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0);
        if name == "swarmer_gossip_datagrams_in_total" {
            counts.came = value;
        } else if name.starts_with("swarmer_gossip_refused_total{") && !name.contains("-record") {
            counts.refused += value;
        }
    }
    counts
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_and_their_refusals_are_counted_and_records_are_not() {
        let text = "# TYPE swarmer_gossip_refused_total counter\n\
            swarmer_gossip_datagrams_in_total 120\n\
            swarmer_gossip_datagrams_out_total 7\n\
            swarmer_gossip_refused_total{reason=\"replayed\"} 12\n\
            swarmer_gossip_refused_total{reason=\"old-boot\"} 3.0\n\
            swarmer_gossip_refused_total{reason=\"stale-record\"} 40\n";
        let Counts { came, refused } = counted(text);
        assert_eq!((came, refused), (120, 15));
    }
}
