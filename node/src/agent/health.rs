//! What a node finds when it looks at itself, for `swarmer doctor`.

use std::{
    fs::File,
    io::Write as _,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::agent::{Context, context::now_ms};

/// What is written to try the data directory: as much as a usual batch of the log.
const PROBE_BYTES: usize = 64 << 10;
/// How long a look may take; names that do not resolve and slow disks must not hold up the rest.
const DEADLINE: Duration = Duration::from_millis(1500);

/// One look at a time: one that hangs keeps the next ones out, not more and more threads.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    seeds: Arc<Semaphore>,
    disk: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { seeds: Arc::new(Semaphore::new(1)), disk: Arc::new(Semaphore::new(1)) }
    }
}

/// One node's word about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthReport {
    /// The binary's version.
    pub(crate) version: String,
    /// The newest version of the wire that it speaks; one that does not say it is of an older binary.
    #[serde(default)]
    pub(crate) wire: Option<u8>,
    /// Its clock: milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// Until when its certificate is good: milliseconds since 1970, by its clock.
    pub(crate) certificate_until_ms: u64,
    /// How long a durable write into the data directory took, or why there was none.
    pub(crate) write_ms: Result<u64, String>,
    /// Seeds that name no living member, each with why.
    pub(crate) bad_seeds: Vec<String>,
    /// Members that do not live, as far as it sees.
    pub(crate) misses: Vec<String>,
}

impl Context {
    /// Looks at this node.
    pub(crate) async fn health(&self) -> HealthReport {
        let members = self.gossip.members();
        let missing = members.iter().filter(|member| !member.state.is_active());
        let misses = missing.map(|member| self.node_name(member.node)).collect();
        let mut living: Vec<SocketAddr> =
            members.iter().filter(|m| m.state.is_active()).map(|m| m.addr).collect();
        living.push(self.advertise);
        let seeds = self.seeds.clone();
        let bad_seeds = bounded(&self.looks.seeds, DEADLINE, move || {
            seeds
                .iter()
                .filter_map(|seed| Some(format!("{seed}: {}", fault(seed, &living)?)))
                .collect()
        });
        let dir = self.data_dir.clone();
        let write = bounded(&self.looks.disk, DEADLINE, move || {
            probe(&dir).map_err(|error| error.to_string())
        });
        let (bad_seeds, write) = tokio::join!(bad_seeds, write);
        let late = || format!("not done after {} ms", DEADLINE.as_millis());
        let membership = self.transport.identity().membership;
        HealthReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: Some(self.transport.versions().newest),
            now_ms: now_ms(),
            certificate_until_ms: membership.map_or(0, |own| millis(own.certificate.not_after())),
            write_ms: write.unwrap_or_else(|| Err(late())),
            bad_seeds: bad_seeds.unwrap_or_else(|| vec![format!("their names: {}", late())]),
            misses,
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Work that blocks, with an end to the wait for it.
async fn bounded<T: Send + 'static>(
    one: &Arc<Semaphore>,
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let one = Arc::clone(one);
    let whole = async move {
        let turn = one.acquire_owned().await.ok()?;
        let work = move || {
            // Its turn ends with the work, not with the wait.
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.ok()
    };
    tokio::time::timeout(deadline, whole).await.ok()?
}

/// What is wrong with a seed: a restarted node finds the cluster by it.
fn fault(seed: &str, living: &[SocketAddr]) -> Option<String> {
    match seed.to_socket_addrs() {
        Err(error) => Some(format!("does not resolve: {error}")),
        Ok(mut addresses) => {
            let known = addresses.any(|address| living.contains(&address));
            (!known).then(|| "names no living member".to_owned())
        }
    }
}

/// A durable write; how long it took, in milliseconds.
fn probe(dir: &Path) -> std::io::Result<u64> {
    let start = Instant::now();
    let mut probe = Probe::create(dir)?;
    probe.file.write_all(&[0; PROBE_BYTES])?;
    probe.file.sync_all()?;
    Ok(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// A file that goes when it is dropped.
struct Probe {
    file: File,
    path: PathBuf,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Probe {
    fn create(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join(format!("doctor-{:016x}.probe", rand::random::<u64>()));
        let file = File::create_new(&path)?;
        Ok(Self { file, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind_and_tells_what_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        assert!(probe(dir.path()).is_ok());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(probe(&dir.path().join("gone")).is_err());
    }

    #[tokio::test]
    async fn a_look_that_hangs_keeps_the_next_ones_out() {
        let one = Arc::new(Semaphore::new(1));
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let short = Duration::from_millis(1);
        assert_eq!(bounded(&one, short, move || held.recv().is_ok()).await, None);
        assert_eq!(
            bounded(&one, short, || panic!("nobody else looks meanwhile")).await,
            None::<()>
        );
        drop(release);
        assert_eq!(bounded(&one, Duration::from_secs(60), || 1).await, Some(1));
    }

    #[test]
    fn a_seed_is_good_if_it_names_a_living_member() {
        let living = ["127.0.0.1:7400".parse().unwrap()];
        assert_eq!(fault("127.0.0.1:7400", &living), None);
        assert!(fault("127.0.0.1:7401", &living).unwrap().contains("no living member"));
        assert!(fault("nobody.invalid:7400", &living).unwrap().contains("resolve"));
    }
}
