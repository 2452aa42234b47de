//! One trial: a function in one region, the region struck, and on its way back.

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use swarmer_model::Digest;
use tokio::task::JoinSet;

use super::{
    Strike, Trial,
    caller::{Caller, DEADLINE, micros},
    judge::{Marks, Seen},
};
use crate::{
    cluster::{Cluster, Port, Regions, echo},
    workload::{Documents, PATIENCE, distinct},
};

/// The function's namespace.
const NAMESPACE: &str = "default";
/// How long everything may take before the strike.
const SETUP: Duration = Duration::from_secs(60);
/// How long a client is asked for answers from elsewhere. Less than the 30 s after which copies of a
/// dead node are placed anew: what is measured is that nobody has to wait for that.
const GIVE_UP: Duration = Duration::from_secs(20);
/// How long the region stays away after all have their answers.
const AWAY: Duration = Duration::from_secs(2);
/// How long the way back may take. A copy that was started for want of a better one stays 60 s.
const BACK: Duration = Duration::from_secs(150);
/// How long clients go on after that: a flap may come late.
const AFTER: Duration = Duration::from_secs(3);
/// So many answers one after another by the same node are no chance.
const STEADY: usize = 100;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was done.
    pub trial: Trial,
    /// The name of the region.
    pub region: String,
    /// The node that had the copy.
    pub home: String,
    /// How long the region was away, in milliseconds.
    pub away_ms: u64,
    /// What the clients saw.
    pub clients: Vec<Seen>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trial, region, home, away_ms, clients } = self;
        write!(f, "trial {}: {:?} of {region}, copy on {home}:", trial.number, trial.strike)?;
        for seen in clients {
            let first = seen.first_ms.map_or("never".to_owned(), |ms| format!("{ms:.0} ms"));
            let first = if seen.inside { "inside".to_owned() } else { first };
            let failed = (seen.failed_down, seen.back_failed);
            write!(f, " {} {first} (failed {}+{}", seen.ingress, failed.0, failed.1)?;
            let never = if trial.back { "never" } else { "not awaited" };
            let home = seen.home_ms.map_or(never.to_owned(), |ms| format!("{ms:.0} ms"));
            write!(f, ", changes {}, home {home})", seen.back_changes)?;
            if !seen.why.is_empty() {
                write!(f, " {:?}", seen.why)?;
            }
        }
        write!(f, "; away {away_ms} ms")
    }
}

/// Carries one out on a cluster that stands, and leaves it as it was.
pub(super) async fn carry_out(
    cluster: &Arc<Cluster>,
    regions: &Regions,
    trial: Trial,
    seed: u64,
) -> Result<Outcome> {
    let inside = regions.groups().swap_remove(trial.region);
    let outside: Vec<usize> = (0..cluster.count()).filter(|node| !inside.contains(node)).collect();
    within(SETUP, "not all nodes are ready", || cluster.all_ready()).await?;
    let name = format!("failover-{}", trial.number);
    let region = regions.names[trial.region];
    let function = Function { cluster, name: &name, region };
    let home = function.deploy(&format!("{seed}-{}", trial.number), &inside).await?;

    let began = Instant::now();
    let ingresses = outside.iter().chain(inside.iter().filter(|_| trial.strike == Strike::Cut));
    let path = format!("/{name}");
    let callers: Vec<Caller> =
        ingresses.map(|node| Caller::new(cluster, *node, &path, began)).collect();
    // Stops the callers too if this ends early.
    let mut calling = JoinSet::new();
    callers.iter().cloned().for_each(|caller| drop(calling.spawn(caller.run())));
    let at_home = || async { callers.iter().all(|caller| caller.settled_on(home, STEADY)) };
    if within(SETUP, "", at_home).await.is_err() {
        let last: Vec<String> = callers.iter().map(Caller::last_words).collect();
        bail!("not all ingresses are served by the copy within {SETUP:?}: {}", last.join("; "));
    }

    let struck = Instant::now();
    let cut = match trial.strike {
        Strike::Kill => {
            for node in &inside {
                cluster.kill(*node);
            }
            None
        }
        Strike::Cut => Some(cluster.cut(apart(&inside, &outside), 0)?),
    };
    let struck_us = micros(struck - began);
    let others = || callers.iter().filter(|caller| outside.contains(&caller.node));
    let recovered = || async { others().all(|caller| caller.answered_outside(&inside, struck_us)) };
    // Who has no answer by then is told by what it saw.
    let _ = within(GIVE_UP, "no answers from elsewhere", recovered).await;
    tokio::time::sleep(AWAY).await;

    let healed = Instant::now();
    match cut {
        Some(id) => drop(cluster.mend(id)?),
        None => {
            for node in &inside {
                cluster.start(*node).await?;
            }
        }
    }
    // The same.
    if trial.back {
        let _ = within(BACK, "the copy does not take all requests", at_home).await;
    } else {
        within(SETUP, "not all nodes are ready again", || cluster.all_ready()).await?;
    }
    tokio::time::sleep(AFTER).await;
    callers.iter().for_each(Caller::stop);
    while calling.join_next().await.is_some() {}
    function.delete().await?;

    let marks = Marks { struck_us, healed_us: micros(healed - began) };
    let seen = |caller: &Caller| {
        let region = regions.name(caller.node).unwrap_or_default();
        let of = (&**cluster.name(caller.node), region, inside.contains(&caller.node));
        Seen::of(of, caller.samples(), marks, (home, &inside))
    };
    Ok(Outcome {
        trial,
        region: region.to_owned(),
        home: cluster.name(home).to_string(),
        away_ms: u64::try_from((healed - struck).as_millis()).unwrap_or(u64::MAX),
        clients: callers.iter().map(seen).collect(),
    })
}

/// Every way between the two sides.
fn apart(inside: &[usize], outside: &[usize]) -> BTreeSet<(usize, usize)> {
    let ways = inside.iter().flat_map(|a| outside.iter().map(|b| (*a, *b)));
    ways.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// Looks until it is so.
async fn within<F: Future<Output = bool>>(
    time: Duration,
    what: &str,
    mut is_so: impl FnMut() -> F,
) -> Result<()> {
    let began = Instant::now();
    while !is_so().await {
        if began.elapsed() > time {
            bail!("{what} within {} s", time.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The function of a trial.
struct Function<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    region: &'static str,
}

impl Function<'_> {
    /// Deploys it so that its one copy stands in the region while every region has candidates, each with
    /// the artifact on its disk. Gives the node of the copy.
    ///
    /// The rule says the region first and nothing later: no copy moves without need, and a function that
    /// may run in its region only would have no candidates elsewhere.
    async fn deploy(&self, salt: &str, inside: &[usize]) -> Result<usize> {
        let component = distinct(&echo()?, salt);
        let digest = Digest::of(&component);
        let upload = format!("/v1/artifacts/{digest}");
        let reply = self.api(0, Method::PUT, &upload, component).await?;
        if !matches!(reply.0, 200 | 201) {
            bail!("the component is not taken: {reply:?}");
        }
        self.put(digest, &[self.region]).await?;
        let (nodes, _) = self.put(digest, &[]).await?;
        let [home] = nodes[..] else { bail!("{} stands on {nodes:?}", self.name) };
        if !inside.contains(&home) {
            bail!("{} stands on {} and not in {}", self.name, self.cluster.name(home), self.region);
        }
        let (_, candidates) = self.placement().await?;
        if !candidates.iter().any(|node| !inside.contains(node)) {
            bail!("{} has no candidates elsewhere: {candidates:?}", self.name);
        }
        for node in candidates {
            let held = || async {
                self.api(node, Method::GET, &upload, "")
                    .await
                    .is_ok_and(|(status, _)| status == 200)
            };
            let what = format!("{} does not hold the artifact", self.cluster.name(node));
            within(SETUP, &what, held).await?;
        }
        // A call that comes to a node before it has heard of the copy starts another one nearby.
        let path = Documents::path(NAMESPACE, self.name);
        for node in 0..self.cluster.count() {
            let known = || async {
                let told = self.api(node, Method::GET, &path, "").await;
                told.is_ok_and(|(_, told)| told["live"]["ready"].as_u64() >= Some(1))
            };
            let what = format!("{} does not know of the copy", self.cluster.name(node));
            within(SETUP, &what, known).await?;
        }
        Ok(home)
    }

    /// Puts the function with this rule, and gives its placement once it was planned for it.
    async fn put(&self, digest: Digest, regions: &[&str]) -> Result<(Vec<usize>, Vec<usize>)> {
        let document = json!({
            "apiVersion": "swarmer/v1",
            "kind": "Function",
            "metadata": { "name": self.name },
            "spec": {
                "component": digest,
                "limits": { "timeout": format!("{}s", DEADLINE.as_secs()) },
                "placement": { "replicas": 1, "regions": regions },
            },
        });
        let path = Documents::path(NAMESPACE, self.name);
        let (status, told) = self.api(0, Method::PUT, &path, document.to_string()).await?;
        if !matches!(status, 200 | 201) {
            bail!("the function is not taken: {status} {told}");
        }
        let revision = told["metadata"]["revision"].as_u64().context("no revision is told")?;
        let planned = || async {
            self.told().await.is_ok_and(|told| {
                let placed = told["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty());
                placed && told["plannedRevision"].as_u64() >= Some(revision)
            })
        };
        within(SETUP, "the function is not placed", planned).await?;
        self.placement().await
    }

    async fn delete(&self) -> Result<()> {
        let path = Documents::path(NAMESPACE, self.name);
        let gone = || async {
            let reply = self.api(0, Method::DELETE, &path, "").await;
            reply.is_ok_and(|(status, _)| matches!(status, 200 | 204 | 404))
        };
        within(SETUP, "the function cannot be deleted", gone).await
    }

    /// Its nodes and its candidates.
    async fn placement(&self) -> Result<(Vec<usize>, Vec<usize>)> {
        let told = self.told().await?;
        let of = |field: &str| -> Vec<usize> {
            let names = told[field].as_array().into_iter().flatten().filter_map(Value::as_str);
            let nodes = names.filter_map(|name| {
                (0..self.cluster.count()).find(|node| &**self.cluster.name(*node) == name)
            });
            nodes.collect()
        };
        Ok((of("nodes"), of("candidates")))
    }

    async fn told(&self) -> Result<Value> {
        let path = format!("/v1/namespaces/{NAMESPACE}/placements/{}", self.name);
        Ok(self.api(0, Method::GET, &path, "").await?.1)
    }

    async fn api(
        &self,
        node: usize,
        method: Method,
        path: &str,
        body: impl Into<bytes::Bytes>,
    ) -> Result<(u16, Value)> {
        let mut gateway = self.cluster.gateway(node, Port::Api);
        let reply = gateway.send(method, path, &[], body, PATIENCE).await;
        let reply = reply.map_err(|lost| anyhow::anyhow!("{path}: {lost:?}"))?;
        Ok((reply.status, reply.json()))
    }
}
