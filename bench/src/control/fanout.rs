//! How long one put takes to reach every watcher.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use super::subject::{Speech, Subject, exchange};

/// Puts that are followed to all watchers.
const EVENTS: u64 = 20;
/// Numbers of their values: none that the load used.
const FIRST: u64 = 1 << 60;
/// Until all watchers have an event.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is read of a watch and not looked through yet is kept up to this.
const MAX_UNSEEN: usize = 1 << 20;

/// The times from the put to its arrival at the last of the watchers.
pub(super) async fn run(subject: &Subject, watchers: usize) -> Result<Vec<Duration>> {
    let speech = subject.speech();
    let task = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(all(speech, watchers))
    });
    task.await?
}

async fn all(speech: Arc<Speech>, watchers: usize) -> Result<Vec<Duration>> {
    let (tell, mut told) = mpsc::channel(watchers.max(1));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..watchers {
        let to = speech.nodes[i % speech.nodes.len()];
        let (speech, tell) = (Arc::clone(&speech), tell.clone());
        tasks.spawn(async move { watcher(speech, to, tell).await });
    }
    // Each says that it watches, then each event that it saw.
    until_all(&mut told, watchers, 0).await.context("opening the watches")?;
    let mut times = Vec::new();
    for number in 0..EVENTS {
        let to = speech.nodes[number as usize % speech.nodes.len()];
        let start = Instant::now();
        exchange(to, &speech.put(to, 0, FIRST + number)).await?;
        until_all(&mut told, watchers, number + 1).await?;
        times.push(start.elapsed());
    }
    tasks.shutdown().await;
    Ok(times)
}

async fn until_all(told: &mut mpsc::Receiver<u64>, watchers: usize, event: u64) -> Result<()> {
    let mut seen = 0;
    let all = async {
        while seen < watchers {
            match told.recv().await {
                Some(number) if number == event => seen += 1,
                Some(number) => bail!("a watcher is at {number} instead of {event}"),
                None => bail!("the watchers ended"),
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .with_context(|| format!("{seen} of {watchers} watchers after {PATIENCE:?}"))?
}

async fn watcher(speech: Arc<Speech>, to: SocketAddr, tell: mpsc::Sender<u64>) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(&speech.watch(to)).await?;
    let mut unseen = Vec::new();
    // Its head, and of etcd the word that the watch stands.
    stream.read_buf(&mut unseen).await?;
    unseen.clear();
    tell.send(0).await?;
    for number in 0..EVENTS {
        let wanted = speech.shown(FIRST + number);
        loop {
            if let Some(at) = unseen.windows(wanted.len()).position(|bytes| bytes == wanted) {
                unseen.drain(..at + wanted.len());
                break;
            }
            if stream.read_buf(&mut unseen).await? == 0 || unseen.len() > MAX_UNSEEN {
                bail!("the watch ended");
            }
        }
        tell.send(number + 1).await?;
    }
    // Stays until it is ended, as the others do.
    std::future::pending().await
}
