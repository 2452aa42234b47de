//! What the nodes cost that do nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::subject::{Kind, Subject};
use crate::{
    connection::ask,
    machine::{Carried, loopback},
    process::Alone,
};

/// What the nodes of one kind cost at rest; all of it of one node, on the average.
#[derive(Default)]
pub(super) struct AtRest {
    /// What loopback carried in a second.
    pub(super) bytes: f64,
    pub(super) packets: f64,
    /// Of that what gossip handed to the socket, where that is told apart.
    pub(super) gossip: Option<f64>,
    /// The share of a core.
    pub(super) cpu: f64,
    pub(super) rss_bytes: u64,
    pub(super) pss_bytes: u64,
}

/// Counts for so long. Nobody is asked meanwhile.
pub(super) async fn run(subject: &Subject, time: Duration) -> Result<AtRest> {
    let usage =
        || -> Vec<Alone> { subject.members.iter().map(|member| member.process.alone()).collect() };
    // Answers are on the loopback too: asked before what is counted, and after it.
    let (asked, told) = (Instant::now(), gossip(subject).await?);
    let (start, before) = (Instant::now(), usage());
    let (bytes_start, bytes_before) = (Instant::now(), carried()?);
    tokio::time::sleep(time).await;
    let (bytes_after, bytes_seconds) = (carried()?, bytes_start.elapsed().as_secs_f64());
    let (after, seconds) = (usage(), start.elapsed().as_secs_f64());
    let gossip = match (told, gossip(subject).await?) {
        (Some(before), Some(after)) => Some((after - before) / asked.elapsed().as_secs_f64()),
        _ => None,
    };
    let count = subject.members.len();
    let each = |after: u64, before: u64| {
        after.saturating_sub(before) as f64 / bytes_seconds / count as f64
    };
    let cpu = |all: &[Alone]| all.iter().map(|alone| alone.cpu).sum::<Duration>();
    let cpu = cpu(&after).saturating_sub(cpu(&before)).as_secs_f64();
    let mean = |of: fn(&Alone) -> u64| after.iter().map(of).sum::<u64>() / count as u64;
    Ok(AtRest {
        bytes: each(bytes_after.bytes, bytes_before.bytes),
        packets: each(bytes_after.packets, bytes_before.packets),
        gossip: gossip.map(|bytes| bytes / count as f64),
        cpu: cpu / seconds / count as f64,
        rss_bytes: mean(|alone| alone.rss_bytes),
        pss_bytes: mean(|alone| alone.pss_bytes),
    })
}

fn carried() -> Result<Carried> {
    loopback().context("what loopback carried is not to be read")
}

/// What the gossip of all nodes handed to their sockets so far.
async fn gossip(subject: &Subject) -> Result<Option<f64>> {
    if subject.kind != Kind::Swarmer {
        return Ok(None);
    }
    let mut sum = 0.0;
    for member in &subject.members {
        let (_, _, text) = ask(member.api, "/metrics", "").await?;
        let text = String::from_utf8(text)?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("swarmer_gossip_out_bytes_total "));
        let value = line.and_then(|value| value.trim().parse::<f64>().ok());
        sum += value.with_context(|| format!("{} does not count its gossip", member.name))?;
    }
    Ok(Some(sum))
}
