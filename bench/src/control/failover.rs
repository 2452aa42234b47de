//! How long nothing can be put after the leader was killed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;

use super::subject::{Speech, Subject, exchange};

/// A put begins so often, at one of the nodes that stay, whatever became of those before.
const EVERY: Duration = Duration::from_millis(5);
/// Puts under way at most.
const MAX_OPEN: usize = 400;
/// How long puts begin before the kill and after it.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(4);
/// Rest between trials, so that the one that came back has caught up.
const REST: Duration = Duration::from_secs(2);
/// Keys that the puts go round: more than end within one gap.
const KEYS: u64 = 256;
/// Until the killed one serves again.
const BACK: Duration = Duration::from_secs(60);

/// The longest time between two successes around each kill.
pub(super) async fn run(subject: &mut Subject, trials: usize) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for trial in 0..trials {
        tokio::time::sleep(REST).await;
        let leader = subject.leader().await?;
        let start = Instant::now();
        let load = load(subject.speech(), leader, start);
        tokio::time::sleep(BEFORE).await;
        subject.kill(leader);
        let mut successes = load.await??;
        successes.sort_unstable();
        ensure!(successes.len() > 1, "no put succeeded in trial {trial}");
        let ends = successes.last().is_some_and(|last| *last > start + BEFORE);
        ensure!(ends, "no put succeeded within {AFTER:?} after the kill in trial {trial}");
        let gap = successes.windows(2).map(|pair| pair[1] - pair[0]).max();
        gaps.push(gap.unwrap_or_default());
        subject.start(leader)?;
        let back = tokio::time::timeout(BACK, subject.until_serving()).await;
        back.with_context(|| format!("not back after {BACK:?}"))??;
    }
    Ok(gaps)
}

/// Puts at the nodes that stay; when each success came.
fn load(
    speech: Arc<Speech>,
    leader: usize,
    start: Instant,
) -> tokio::task::JoinHandle<Result<Vec<Instant>>> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let (tell, mut told) = mpsc::channel(2 * MAX_OPEN);
            let mut tick = tokio::time::interval(EVERY);
            let mut tasks = tokio::task::JoinSet::new();
            let mut successes = Vec::new();
            let end = start + BEFORE + AFTER;
            for number in 0_u64.. {
                tick.tick().await;
                while let Ok(at) = told.try_recv() {
                    successes.push(at);
                }
                while tasks.try_join_next().is_some() {}
                if Instant::now() >= end {
                    break;
                }
                if tasks.len() >= MAX_OPEN {
                    continue;
                }
                let stays = [(leader + 1) % 3, (leader + 2) % 3][(number % 2) as usize];
                let to = speech.nodes[stays];
                let request = speech.put(to, (number % KEYS) as usize, number);
                let tell = tell.clone();
                tasks.spawn(async move {
                    if exchange(to, &request).await.is_ok() {
                        let _ = tell.send(Instant::now()).await;
                    }
                });
            }
            tasks.shutdown().await;
            while let Ok(at) = told.try_recv() {
                successes.push(at);
            }
            Ok(successes)
        })
    })
}
