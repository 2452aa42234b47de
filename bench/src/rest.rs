//! `rest`: what a node costs that does nothing.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use crate::{
    cluster::Cluster,
    machine::{loopback, mebibytes},
};

/// What a cluster of three does at rest.
#[derive(Debug, Args)]
pub(crate) struct Rest {
    /// How long they are watched, in seconds
    #[arg(long, default_value_t = 20)]
    watch: u64,
    /// How long they come to rest before, in seconds
    #[arg(long, default_value_t = 15)]
    settle: u64,
}

impl Rest {
    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        let folder = tempfile::tempdir()?;
        eprintln!("rest: founding a cluster of three");
        let mut cluster = Cluster::found(swarmer, 3, folder.path()).await?;
        eprintln!("rest: {} s to settle, then {} s at rest", self.settle, self.watch);
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        let read = |cluster: &Cluster| -> Vec<_> {
            cluster.nodes.iter().map(|node| node.process.usage()).collect()
        };
        let (start, bytes, before) =
            (Instant::now(), loopback().map(|carried| carried.bytes), read(&cluster));
        tokio::time::sleep(Duration::from_secs(self.watch)).await;
        let (after, bytes_after) = (read(&cluster), loopback().map(|carried| carried.bytes));
        let seconds = start.elapsed().as_secs_f64();
        cluster.check()?;
        println!("### Three nodes at rest, {} s\n", self.watch);
        println!("| node | RSS MiB | of it anonymous | CPU % of a core |");
        println!("|---|---:|---:|---:|");
        for ((node, before), after) in cluster.nodes.iter().zip(before).zip(after) {
            let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds * 100.0;
            let (rss, own) = (mebibytes(after.rss_bytes), mebibytes(after.anonymous_bytes));
            println!("| {} | {rss} | {own} | {cpu:.2} |", node.name);
        }
        if let (Some(before), Some(after)) = (bytes, bytes_after) {
            let each = after.saturating_sub(before) as f64 / seconds / cluster.nodes.len() as f64;
            println!(
                "\nThe kernel does not count bytes by port. All that loopback carried, of this and \
                 every other process, is {each:.0} bytes/s for each node: no node sent more.\n"
            );
        }
        Ok(())
    }
}
