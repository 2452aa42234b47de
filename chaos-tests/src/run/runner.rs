//! One run, from founding to verdict.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    converge::converge, coverage::Coverage, observer::Observer, outcome::Run, scenario::Scenario,
    versions::Versions,
};
use crate::{
    check,
    cluster::{Binary, Cluster, Gear, Need, Port, echo},
    history::{self, Action, FORMAT, Header, Operation, Recorder},
    nemesis::{Field, Hands, Schedule},
    workload::{
        Context, Documents, Followers, PATIENCE, Stranger, Traced, admit, artifact_client, census,
        follow, lease_client, list_client, replay, set_client, trespass, voters,
    },
};

/// How long clients may take to end what they began.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// How long the cluster may take to take the component.
const UPLOAD: Duration = Duration::from_secs(60);

/// Of every node, in every life of it.
const ENDS: &str = "nodes end only when they are told to, or when their disk fails";

/// What is run: the same plan strikes the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The scenario's name.
    pub scenario: String,
    /// The seed of faults and clients.
    pub seed: u64,
    /// Seconds of faults.
    pub lasts: Duration,
    /// The faults.
    pub schedule: Schedule,
    /// Faults of the scenario that the machine cannot make, each with the reason.
    #[serde(default)]
    pub left_out: Vec<String>,
}

impl Plan {
    /// The plan of a seed.
    ///
    /// # Errors
    /// There is no such scenario.
    pub fn of(scenario: &str, seed: u64, lasts: Duration) -> Result<Self> {
        let known = named(scenario)?;
        let (mut kinds, mut left_out) = (Vec::new(), Vec::new());
        for kind in known.kinds {
            let needs = if known.as_able { kind.needs() } else { &[] };
            let lacking: Vec<String> = needs.iter().flat_map(|need| need.lacking()).collect();
            if lacking.is_empty() {
                kinds.push(*kind);
            } else {
                left_out.push(format!("no {kind:?}: this machine lacks {}", lacking.join(", ")));
            }
        }
        let field = Field::new(known.nodes, known.regions.as_ref());
        let schedule = Schedule::of(seed, &kinds, &field, lasts, known.calm_ms);
        Ok(Self { scenario: scenario.to_owned(), seed, lasts, schedule, left_out })
    }

    /// What the machine must have for it.
    pub fn needs(&self) -> BTreeSet<Need> {
        let mut needs = self.schedule.needs();
        // The kernel's bridge knows no distance.
        let afar = Scenario::named(&self.scenario).is_some_and(|known| known.regions.is_some());
        needs.extend(afar.then_some(Need::Switch));
        needs
    }
}

fn named(scenario: &str) -> Result<&'static Scenario> {
    Scenario::named(scenario)
        .with_context(|| format!("there is no scenario {scenario:?}; see list"))
}

/// Runs a plan; `keep` is called with the cluster before it goes, to save its logs.
///
/// # Errors
/// The run could not be made: there is nothing to judge.
pub async fn run(
    binary: &Binary,
    plan: &Plan,
    keep: impl FnOnce(&Cluster, &Run) -> Result<()>,
) -> Result<Run> {
    let scenario = named(&plan.scenario)?;
    let told = |binary: Binary, (name, value): &(&str, &str)| binary.with(name, value);
    let binary = scenario.environment.iter().fold(binary.clone(), told);
    let Scenario { old, stranger, regions, joiners, .. } = *scenario;
    let sites = scenario.placements.map_or(&[][..], |placements| placements.sites);
    let gear =
        Gear { needs: plan.needs(), seed: plan.seed, old, joiners, stranger, regions, sites };
    let cluster = Arc::new(Cluster::found(&binary, scenario.nodes, &gear).await?);
    let documents = upload(&cluster).await?;
    let recorder = Recorder::new(Instant::now());
    for (node, region) in (0..scenario.nodes).filter_map(|node| Some((node, regions?.name(node)?)))
    {
        let action = Action::Stands { region: region.to_owned() };
        recorder.note(cluster.name(node), action, (0, 0));
    }
    let context = || Context::new(Arc::clone(&cluster), recorder.clone(), documents, plan.seed);
    let clients = context();
    if let Some(traffic) = scenario.traffic {
        traffic.set_up(&clients).await?;
    }
    if let Some(jobs) = scenario.jobs {
        jobs.set_up(&clients).await?;
    }
    if scenario.admission {
        admit(&clients).await?;
    }
    let stranger = match scenario.stranger {
        true => Some(Stranger::set_up(&clients).await?),
        false => None,
    };
    // Followers outlive the other clients: they must see the last write.
    let (watching, followers) = (context(), Followers::new(scenario.nodes));
    let (observer, versions) = (Observer::new(), Versions::default());
    let (mut looking, mut following) = (JoinSet::new(), JoinSet::new());
    for node in 0..scenario.nodes {
        let (observer, cluster) = (observer.clone(), Arc::clone(&cluster));
        looking.spawn(versions.clone().look_at(Arc::clone(&cluster), node));
        looking.spawn(observer.look_at(cluster, recorder.clone(), node));
        following.spawn(follow(watching.clone(), followers.clone(), node));
    }
    if let Some(jobs) = scenario.jobs {
        following.spawn(jobs.read(watching.clone()));
    }
    let traced = Traced::default();
    if let Some(placements) = scenario.placements {
        placements.declare(&watching);
        following.spawn(placements.trace(watching.clone(), traced.clone()));
    }
    let mut working = start_clients(scenario, &clients);
    if regions.is_some() {
        working.spawn(voters(clients.clone()));
    }
    if let Some(stranger) = stranger {
        working.spawn(stranger.clone().run(clients.clone()));
        working.spawn(stranger.abroad(clients.clone()));
        (0..scenario.nodes).for_each(|node| {
            working.spawn(census(clients.clone(), node));
        });
    }

    let hands = Hands::new(observer.now(), context());
    let began = Instant::now();
    hands.carry_out(&plan.schedule, began).await?;
    tokio::time::sleep_until((began + plan.lasts).into()).await;
    cluster.heal().await?;
    let healed = Instant::now();
    clients.stop();
    let converged = converge(&watching, &observer, &followers, healed).await;
    join(&mut working, "clients").await?;
    if let Some(placements) = scenario.placements {
        placements.rest(&watching, &traced).await;
    }
    watching.stop();
    join(&mut following, "followers").await?;
    looking.abort_all();

    let history = recorder.history();
    let history = written_and_read(plan, &history)?;
    let mut verdicts = check::all(&history);
    verdicts.extend(converged.verdicts);
    verdicts.push(check::Verdict::of(ENDS, scenario.nodes, cluster.complaints()));
    let mut coverage =
        Coverage::of(&history, &hands.done(), observer.changes(), followers.reconnects());
    coverage.snapshots = observer.snapshots();
    coverage.sent = versions.sent();
    coverage.mixed = versions.mixed();
    let mut void = coverage.missing(&scenario.needs);
    void.extend(coverage.too_slow(&scenario.needs, plan.lasts));
    void.extend(check::harness_errors(&history).into_iter().map(|e| format!("harness: {e}")));
    let run = Run {
        plan: plan.clone(),
        faults: hands.done(),
        leaders: observer.leaders(),
        coverage,
        verdicts,
        void,
        notes: plan.left_out.iter().cloned().chain(converged.notes).collect(),
        history,
    };
    keep(&cluster, &run)?;
    Ok(run)
}

fn start_clients(scenario: &Scenario, context: &Context) -> JoinSet<()> {
    let mut working = JoinSet::new();
    if let Some(registers) = scenario.registers {
        (0..registers.clients).for_each(|number| {
            working.spawn(registers.run(context.clone(), number));
        });
    }
    (0..scenario.set).for_each(|number| {
        working.spawn(set_client(context.clone(), number));
    });
    (0..scenario.lists).for_each(|number| {
        working.spawn(list_client(context.clone(), number));
    });
    if let Some(traffic) = scenario.traffic {
        for node in 0..scenario.nodes {
            (0..traffic.clients).for_each(|number| {
                working.spawn(traffic.run(context.clone(), node, number));
            });
        }
        if traffic.versions {
            working.spawn(traffic.renew(context.clone()));
        }
    }
    (0..scenario.leases).for_each(|number| {
        working.spawn(lease_client(context.clone(), number));
    });
    (0..scenario.artifacts).for_each(|number| {
        working.spawn(artifact_client(context.clone(), number));
    });
    if scenario.admission {
        working.spawn(replay(context.clone()));
        working.spawn(trespass(context.clone()));
    }
    if let Some(placements) = scenario.placements {
        (0..placements.clients).for_each(|number| {
            working.spawn(placements.run(context.clone(), number));
        });
        working.spawn(placements.drain(context.clone()));
        working.spawn(placements.drain_regions(context.clone()));
    }
    if let Some(jobs) = scenario.jobs {
        for node in 0..scenario.nodes {
            (0..jobs.clients).for_each(|number| {
                working.spawn(jobs.run(context.clone(), node, number));
            });
        }
    }
    working
}

async fn join(tasks: &mut JoinSet<()>, who: &str) -> Result<()> {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    };
    match tokio::time::timeout(LAST_WORDS, all).await {
        Ok(ended) => ended,
        Err(_) => bail!("the {who} do not end: a fault of the harness"),
    }
}

async fn upload(cluster: &Cluster) -> Result<Documents> {
    let component = echo()?;
    let documents = Documents::of(&component);
    let mut gateway = cluster.gateway(0, Port::Api);
    let began = Instant::now();
    loop {
        let body = component.clone();
        let reply = gateway.send(Method::PUT, &documents.upload(), &[], body, PATIENCE).await;
        if reply.as_ref().is_ok_and(|reply| matches!(reply.status, 200 | 201)) {
            return Ok(documents);
        }
        if began.elapsed() > UPLOAD {
            bail!("the component is not taken: {reply:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Through the format and back: what is judged is what the file says.
fn written_and_read(plan: &Plan, history: &[Operation]) -> Result<Vec<Operation>> {
    let header = Header { format: FORMAT, scenario: plan.scenario.clone(), seed: plan.seed };
    let mut bytes = Vec::new();
    history::write(&mut bytes, &header, history)?;
    let (_, history) = history::read(bytes.as_slice()).context("the harness made no history")?;
    Ok(history)
}
