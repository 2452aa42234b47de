//! What a membership instance is made from.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use swarmer_model::{ClusterId, NodeId};

use crate::{Facts, GossipError, Keyring, MAX_SEEDS};

/// When what happens. The defaults suit a LAN or nearby regions: a killed member is known to all
/// of 32 within 3 s at the median, and 1 % of loss kills nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// One member is probed in each; of far members that wait longer for answers it is longer.
    pub probe_period: Duration,
    /// How long a direct answer may take before others are asked to probe; above the usual round trip.
    pub probe_timeout: Duration,
    /// How many others are asked.
    pub indirect_probes: usize,
    /// How long their answers may take after that, at most; a probe unanswered by then makes the member
    /// suspect. Both fit into a period.
    pub indirect_timeout: Duration,
    /// Suspicion lasts at least this long, of ten members; of 32 one and a half times that, of 10,000 two
    /// and a half times; and a few round trips.
    pub suspicion_min: Duration,
    /// Without confirmation by others, suspicion lasts this many times the minimum.
    pub suspicion_max_factor: u32,
    /// How many others must suspect too until the minimum applies.
    pub suspicion_confirmations: usize,
    /// How often news is passed on while there is any.
    pub gossip_interval: Duration,
    /// To how many members each time.
    pub gossip_fanout: usize,
    /// A full exchange over a stream with one random member.
    pub push_pull_interval: Duration,
    /// Deadline of one exchange.
    pub push_pull_timeout: Duration,
    /// Deadline of one probe over QUIC before a death; it runs while suspicion does.
    pub confirm_timeout: Duration,
    /// How often a digest of the catalog goes to one random member.
    pub digest_interval: Duration,
    /// How often one member is asked for an answer by which the way to it is measured, until this
    /// node knows where it stands.
    pub echo_interval: Duration,
    /// The same from then on.
    pub echo_interval_settled: Duration,
    /// What is known of distances is told anew at most this often, and only if it changed notably.
    pub publish_coordinate_interval: Duration,
    /// How often down members are greeted, so that a healed partition becomes whole.
    pub announce_to_down_interval: Duration,
    /// How many of them each time.
    pub announce_to_down_members: usize,
    /// How long a member that is down is remembered.
    pub forget_down_after: Duration,
    /// First wait between tries of a seed; doubles up to `seed_backoff_max`, for ever.
    pub seed_backoff_min: Duration,
    /// Longest wait between tries of a seed.
    pub seed_backoff_max: Duration,
    /// Changes of the local record are gathered for this long before they are signed and sent.
    pub publish_delay: Duration,
    /// The same for changes of nothing but load.
    pub publish_load_interval: Duration,
    /// This node being late by more than this counts as its own stall, not as others' silence.
    pub stall_limit: Duration,
    /// How often the list of members is written to its file when it changed.
    pub persist_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(200),
            indirect_probes: 3,
            indirect_timeout: Duration::from_millis(300),
            suspicion_min: Duration::from_secs(1),
            suspicion_max_factor: 4,
            suspicion_confirmations: 2,
            gossip_interval: Duration::from_millis(100),
            gossip_fanout: 3,
            push_pull_interval: Duration::from_secs(30),
            push_pull_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_millis(800),
            digest_interval: Duration::from_secs(2),
            echo_interval: Duration::from_secs(1),
            echo_interval_settled: Duration::from_secs(10),
            publish_coordinate_interval: Duration::from_secs(30),
            announce_to_down_interval: Duration::from_secs(5),
            announce_to_down_members: 4,
            forget_down_after: Duration::from_secs(24 * 3600),
            seed_backoff_min: Duration::from_millis(200),
            seed_backoff_max: Duration::from_secs(10),
            publish_delay: Duration::from_millis(20),
            publish_load_interval: Duration::from_secs(2),
            stall_limit: Duration::from_millis(250),
            persist_interval: Duration::from_secs(5),
        }
    }
}

/// One node's membership.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster; every datagram is bound to it.
    pub cluster: ClusterId,
    /// This node, for its whole life.
    pub node: NodeId,
    /// The start counter: persisted and incremented by the caller before each start. It decides
    /// which of two starts of a node is the newer one; the wall clock never does.
    pub boot: u64,
    /// Where other nodes reach this node's UDP port.
    pub advertise: SocketAddr,
    /// `host:port` of members to find the cluster by; names are resolved again on every try.
    pub seeds: Vec<String>,
    /// The keys to seal and open with.
    pub keyring: Keyring,
    /// What this node says about itself at the start.
    pub facts: Facts,
    /// Where the members are kept for the next start; `None` keeps them nowhere.
    pub members_file: Option<PathBuf>,
    /// When what happens.
    pub timing: Timing,
}

impl Config {
    /// Checks every rule.
    ///
    /// # Errors
    /// [`GossipError::Config`] or [`GossipError::Record`] with the field and its rule.
    pub fn check(&self) -> Result<(), GossipError> {
        let fail = |text: String| Err(GossipError::Config(text));
        if self.node == NodeId(0) {
            return fail("node is zero; a node id is drawn when the data directory is made".into());
        }
        if self.boot == 0 {
            return fail("boot is zero; the start counter begins at 1".into());
        }
        if self.advertise.port() == 0 || self.advertise.ip().is_unspecified() {
            return fail(format!(
                "advertise is {}, which no other node can reach; set the address of this machine",
                self.advertise
            ));
        }
        if self.seeds.len() > MAX_SEEDS {
            return fail(format!("{} seeds, at most {MAX_SEEDS}", self.seeds.len()));
        }
        for seed in &self.seeds {
            check_seed(seed)?;
        }
        let t = &self.timing;
        if t.probe_timeout.is_zero() || t.probe_timeout > t.indirect_timeout {
            return fail(format!(
                "timing: probe_timeout {:?} must be above zero and at most indirect_timeout {:?}",
                t.probe_timeout, t.indirect_timeout
            ));
        }
        if t.probe_timeout + t.indirect_timeout > t.probe_period {
            return fail(format!(
                "timing: probe_timeout {:?} and indirect_timeout {:?} must fit into probe_period {:?}",
                t.probe_timeout, t.indirect_timeout, t.probe_period
            ));
        }
        for (field, value) in [
            ("suspicion_min", t.suspicion_min),
            ("gossip_interval", t.gossip_interval),
            ("push_pull_interval", t.push_pull_interval),
            ("digest_interval", t.digest_interval),
            ("echo_interval", t.echo_interval),
            ("echo_interval_settled", t.echo_interval_settled),
            ("announce_to_down_interval", t.announce_to_down_interval),
            ("seed_backoff_min", t.seed_backoff_min),
            ("persist_interval", t.persist_interval),
        ] {
            if value < Duration::from_millis(10) {
                return fail(format!("timing: {field} is {value:?}, at least 10 ms"));
            }
        }
        self.facts.check()
    }
}

/// Checks that a seed is `host:port`.
pub(crate) fn check_seed(seed: &str) -> Result<(), GossipError> {
    let good = seed.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.len() <= 255 && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if good {
        Ok(())
    } else {
        Err(GossipError::Config(format!("seed {seed:?} is not host:port, such as node-1:7400")))
    }
}
