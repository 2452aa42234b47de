//! Clients that want the same few leases, hold one for a while, and give it back or forget it.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::{Context, PATIENCE, change, think};
use crate::{
    cluster::{Lost, Reply},
    history::{Action, Answer, Outcome},
    seed::Seeded,
};

/// Fewer than clients: somebody always waits.
const LEASES: u64 = 2;
/// How long a lease lasts without a renewal.
const TTL_MS: u64 = 4_000;
/// Between two renewals: some of them may be late.
const RENEW_MS: (u64, u64) = (500, 1_500);
/// How often one is renewed at most.
const RENEWALS: u64 = 12;
/// In percent: how many holders forget it, as one that crashes does.
const FORGOTTEN: u64 = 20;
/// What says that the lease is another's, or not the sender's any more: nothing was changed.
const REFUSED: [&str; 2] = ["SW-LEASE-HELD", "SW-LEASE-LOST"];

/// One client, until the run stops it.
pub async fn run(context: Context, number: usize) {
    let mut random = context.random(&format!("lease client {number}"));
    let mut client = context.recorder.client();
    while !context.is_stopped() {
        think(&mut random, 500).await;
        let lease = format!("l{}", random.below(LEASES));
        let body = json!({ "holder": format!("c{number}"), "ttl": format!("{TTL_MS}ms") });
        let action = Action::Acquire { lease: lease.clone(), ttl_ms: TTL_MS };
        let (node, work) = ask(&context, &mut random, &lease, "acquire", body.to_string());
        let outcome = client.does(&node, action, work).await;
        let Outcome::Ok { answer: Answer::Done { revision: Some(token) } } = outcome else {
            continue;
        };
        let body = json!({ "token": token }).to_string();
        for _ in 0..random.between(1, RENEWALS) {
            let pause = random.between(RENEW_MS.0, RENEW_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let action = Action::Renew { lease: lease.clone(), token };
            let (node, work) = ask(&context, &mut random, &lease, "renew", body.clone());
            let outcome = client.does(&node, action, work).await;
            // Who was told that it is over asks no more; who was told nothing may have it still.
            let over = matches!(&outcome, Outcome::Failed { why } if why.contains(REFUSED[1]));
            if over || context.is_stopped() {
                break;
            }
        }
        if !random.chance(FORGOTTEN) {
            let action = Action::Release { lease: lease.clone(), token };
            let (node, work) = ask(&context, &mut random, &lease, "release", body);
            client.does(&node, action, work).await;
        }
    }
}

/// A request about a lease to any node, and its name.
fn ask(
    context: &Context,
    random: &mut Seeded,
    lease: &str,
    verb: &str,
    body: String,
) -> (String, impl Future<Output = Outcome> + use<>) {
    let mut gateway = context.api(random.index(context.cluster.count()));
    let node = gateway.node().to_string();
    let path = format!("/v1/namespaces/leases/leases/{lease}/{verb}");
    let work = async move { told(gateway.send(Method::POST, &path, &[], body, PATIENCE).await) };
    (node, work)
}

fn told(reply: Result<Reply, Lost>) -> Outcome {
    if let Ok(reply) = &reply
        && REFUSED.contains(&reply.code().as_str())
    {
        return Outcome::Failed { why: format!("{} {}", reply.status, reply.code()) };
    }
    change(reply, false, |reply| reply.json()["status"]["token"].as_u64())
}
