//! The clients. Each takes down what it does; none of them judges.

mod admission;
mod artifacts;
mod classify;
mod counts;
mod documents;
mod follower;
mod jobs;
mod leases;
mod lists;
mod placement;
mod register;
mod set;
mod stranger;
mod traffic;
mod voters;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    cluster::{Cluster, Gateway, Port},
    history::Recorder,
    seed::Seeded,
};

pub use admission::{admit, replay, trespass};
pub use artifacts::{distinct, run as artifact_client};
pub use classify::{call, change, list};
pub use documents::{Documents, LISTS, REGISTERS, SET, key_of};
pub use follower::{Followers, follow};
pub use jobs::Jobs;
pub use leases::run as lease_client;
pub use lists::{lists_of, run as list_client, snapshot};
pub use placement::{Placements, Traced};
pub use register::{Registers, read, write};
pub use set::{members, run as set_client};
pub use stranger::{Stranger, census};
pub use traffic::{Traffic, back};
pub use voters::voters;

/// How long a client waits for an answer: longer than the cluster may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What all clients share. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Where they take down what they do.
    pub recorder: Recorder,
    /// The documents that they send.
    pub documents: Documents,
    /// Of the run.
    pub seed: u64,
    stop: Arc<AtomicBool>,
}

impl Context {
    /// For one run.
    pub fn new(cluster: Arc<Cluster>, recorder: Recorder, documents: Documents, seed: u64) -> Self {
        Self { cluster, recorder, documents, seed, stop: Arc::default() }
    }

    /// Clients begin nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether they are to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn api(&self, node: usize) -> Gateway {
        self.cluster.gateway(node % self.cluster.count(), Port::Api)
    }

    fn random(&self, who: &str) -> Seeded {
        Seeded::new(self.seed, who)
    }
}

/// A pause that differs each time.
async fn think(random: &mut Seeded, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(random.below(most_ms + 1))).await;
}
