//! A fact that a node says of itself is another, and when others see it.
//!
//! Of serf it is a tag; agents log that a member changed. Of Swarmer it is that a node takes no new
//! work because it stops in good order, which it says by gossip alone; that is in no log, so the
//! observers are asked for their members.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet, time::MissedTickBehavior};

use super::{
    serf,
    subject::{Kind, Subject},
    watch::Word,
};
use crate::connection::{Connection, get};

/// How often each observer of Swarmer is asked: a time is late by so much at most.
pub(super) const ASK: Duration = Duration::from_millis(50);
/// Until all observers have seen it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until a node has stopped in good order, and until it is back.
const BACK: Duration = Duration::from_secs(120);

/// Changes a fact of this node; when each of these others saw it.
pub(super) async fn run(
    subject: &mut Subject,
    node: usize,
    observers: &[usize],
    number: usize,
) -> Result<Vec<Duration>> {
    subject.watch.look()?;
    match subject.kind {
        Kind::Serf => tag(subject, node, observers, number).await,
        Kind::Swarmer => stop(subject, node, observers).await,
    }
}

async fn tag(
    subject: &mut Subject,
    node: usize,
    observers: &[usize],
    number: usize,
) -> Result<Vec<Duration>> {
    let rpc = subject.members[node].api;
    let (_open, sent): (TcpStream, Instant) = serf::set_tag(rpc, &number.to_string()).await?;
    subject.watch.until_told(PATIENCE, (node, Word::Changed), observers, sent).await
}

async fn stop(subject: &mut Subject, node: usize, observers: &[usize]) -> Result<Vec<Duration>> {
    let mut asking = JoinSet::new();
    let mut connections = Vec::new();
    for by in observers {
        connections
            .push((subject.members[*by].api, Connection::open(subject.members[*by].api).await?));
    }
    let name = subject.members[node].name.clone();
    subject.members[node].lives = false;
    subject.watch.end(node);
    let start = Instant::now();
    for (api, connection) in connections {
        asking.spawn(seen(api, connection, name.clone(), start));
    }
    subject.members[node].process.stop(BACK).await?;
    let mut times = Vec::new();
    while let Some(time) = asking.join_next().await {
        times.push(time??);
    }
    ensure!(times.len() == observers.len(), "an observer did not answer");
    subject.start_again(node)?;
    let all = subject.living();
    let back = subject.watch.until(BACK, "a node that stopped is back", |watch, _| {
        all.iter().all(|by| *by == node || watch.says(*by, node, Word::Alive))
            && all.iter().all(|of| *of == node || watch.says(node, *of, Word::Alive))
    });
    back.await?;
    Ok(times)
}

/// Asks until the member of this name is not just alive.
async fn seen(
    api: SocketAddr,
    mut connection: Connection,
    name: String,
    start: Instant,
) -> Result<Duration> {
    let request = get(api, "/v1/members");
    let mut tick = tokio::time::interval(ASK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asking = async {
        loop {
            tick.tick().await;
            let answer = connection.exchange(&request).await?;
            let at = start.elapsed();
            let members: Value = serde_json::from_slice(answer.body)?;
            let members = members["items"].as_array().context("no list of members")?;
            let member = members.iter().find(|member| member["name"] == name.as_str());
            let state = member.and_then(|member| member["state"].as_str());
            if matches!(state, Some("draining" | "left")) {
                return anyhow::Ok(at);
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.with_context(|| format!("{api} does not see that {name} stops"))?
}
