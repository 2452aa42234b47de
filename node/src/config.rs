//! Configuration of one node: defaults, then the file, then `SWARMER_*`, then flags.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Deserialize;
use swarmer_mesh::identity::CERTIFICATE_VALIDITY;
use swarmer_model::{
    ByteSize, Labels, Millis, Place, Violations, check_label_key, check_label_value, check_name,
    wire,
};
use swarmer_scheduler::DEFAULT_VOTER_GRACE_MS;

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// The most seeds that a node is given; more only slow down a start.
const MAX_SEEDS: usize = 32;
/// The least growth of the log that may make a snapshot due: below, a busy node would write little
/// else.
const MIN_SNAPSHOT_LOG: ByteSize = ByteSize(64 << 10);
/// The most functions that a node is given: it has to announce every version of each.
const MAX_CAPACITY_FUNCTIONS: u32 = swarmer_gossip::MAX_ENDPOINTS as u32;
/// Default of it: some of them have two versions for a moment.
pub(crate) const DEFAULT_CAPACITY_FUNCTIONS: u32 = 1_000;
/// Default of the largest component.
const DEFAULT_MAX_COMPONENT: ByteSize = ByteSize::mib(64);

/// What one node is told; every field also stands in the file under the same name.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct NodeOptions {
    /// Name of the node: a DNS label, unique in the cluster [default: the host's name]
    #[arg(long, env = "SWARMER_NAME")]
    pub(crate) name: Option<String>,
    /// Where the node keeps its identity, state and artifacts [default: ./swarmer-data]
    #[arg(long, env = "SWARMER_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// UDP address for the other nodes: gossip and QUIC [default: 0.0.0.0:7400]
    #[arg(long, env = "SWARMER_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address under which the other nodes reach this one [default: that of --listen; if that is
    /// 0.0.0.0, the one from which the seeds, or else other machines, are reached]
    #[arg(long, env = "SWARMER_ADVERTISE")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Ingress for HTTP/1.1 and h2 [default: 0.0.0.0:8080]
    #[arg(long, env = "SWARMER_HTTP")]
    pub(crate) http: Option<SocketAddr>,
    /// API, metrics, health; off loopback it wants TLS and tokens [default: 127.0.0.1:7401]
    #[arg(long, env = "SWARMER_API")]
    pub(crate) api: Option<SocketAddr>,
    /// Ask for tokens on loopback too, where other users of this machine reach the API [default:
    /// false]
    #[arg(long, env = "SWARMER_ACCESS_CONTROL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub(crate) access_control: Option<bool>,
    /// Some members to find the cluster by: host:port,… (DNS names are fine)
    #[arg(long, env = "SWARMER_JOIN", value_delimiter = ',')]
    pub(crate) join: Option<Vec<String>>,
    /// File with the founding or join token
    #[arg(long, env = "SWARMER_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Region that the node stands in: a founder says it, a node that joins has it from its token
    /// [default: the token's; local]
    #[arg(long, env = "SWARMER_REGION")]
    pub(crate) region: Option<String>,
    /// Zone within the region, likewise [default: the token's; none]
    #[arg(long, env = "SWARMER_ZONE")]
    pub(crate) zone: Option<String>,
    /// Label for placement, key=value, likewise; may be given several times [default: the token's;
    /// none]
    #[arg(long = "label", env = "SWARMER_LABEL", value_delimiter = ',')]
    pub(crate) label: Option<Vec<String>>,
    /// How many functions placement gives the node at most, up to 1024 [default: 1000]
    #[arg(long, env = "SWARMER_CAPACITY_FUNCTIONS")]
    pub(crate) capacity_functions: Option<u32>,
    /// How much memory of functions placement gives the node at most, as their `placement.memory`
    /// counts [default: what the machine or the node's cgroup has]
    #[arg(long, env = "SWARMER_CAPACITY_MEMORY")]
    pub(crate) capacity_memory: Option<ByteSize>,
    /// How many requests at once placement gives the node at most, as the `concurrency` of its
    /// functions counts [default: any number]
    #[arg(long, env = "SWARMER_CAPACITY_CONCURRENCY")]
    pub(crate) capacity_concurrency: Option<u64>,
    /// With a founding token: how many nodes found the cluster together [default: 1]
    #[arg(long, env = "SWARMER_BOOTSTRAP_EXPECT")]
    pub(crate) bootstrap_expect: Option<u32>,
    /// The largest component that is taken [default: 64MiB]
    #[arg(long, env = "SWARMER_MAX_COMPONENT")]
    pub(crate) max_component: Option<ByteSize>,
    /// On a voter: a snapshot is made when its log has grown by so much [default: 32MiB]
    #[arg(long, env = "SWARMER_SNAPSHOT_LOG")]
    pub(crate) snapshot_log: Option<ByteSize>,
    /// On a voter: so many entries stay in its log below a snapshot, for others that are a little
    /// behind [default: 1000]
    #[arg(long, env = "SWARMER_LOG_KEEP")]
    pub(crate) log_keep: Option<u32>,
    /// Let `swarmer chaos` strike this node: only where the cluster may fail [default: false]
    #[arg(long, env = "SWARMER_ALLOW_FAULTS", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub(crate) allow_faults: Option<bool>,
    /// Log lines as text or json [default: text]
    #[arg(long, env = "SWARMER_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// How long the certificates live that this node issues as a voter, for tests of renewal
    /// [default: 24h]
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(crate) certificate_ttl: Option<Millis>,
    /// End when the process with this id ends (for supervisors such as `swarmer dev`)
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(crate) die_with: Option<u32>,
    /// How long a voter may be dead before it is replaced, in milliseconds (for tests)
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(crate) voter_grace_ms: Option<u64>,
    /// The newest version of the wire that it speaks; below the oldest one: this alone (for tests of
    /// mixed versions)
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(crate) wire_max: Option<u8>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The checked configuration of one node.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    pub(crate) api: SocketAddr,
    /// Whether the API wants tokens on loopback too.
    pub(crate) access_control: bool,
    /// Whether operators may have the node struck by faults.
    pub(crate) allow_faults: bool,
    pub(crate) join: Vec<String>,
    pub(crate) token_file: Option<PathBuf>,
    /// Where the node is told that it stands. A founder stands there; one that joins stands where
    /// its token says, and is refused if it claims anything else.
    pub(crate) place: Place,
    /// How many functions placement gives the node at most.
    pub(crate) capacity_functions: u32,
    /// The same of their memory. None: what there is.
    pub(crate) capacity_memory: Option<ByteSize>,
    /// The same of requests at once. None: any number.
    pub(crate) capacity_concurrency: Option<u64>,
    pub(crate) bootstrap_expect: u32,
    pub(crate) max_component: ByteSize,
    pub(crate) voter_grace_ms: u64,
    /// At most what this build speaks.
    pub(crate) wire_max: u8,
    /// None: the default of the control state.
    pub(crate) snapshot_log: Option<ByteSize>,
    /// None: the default of the control state.
    pub(crate) log_keep: Option<u32>,
    /// How long the certificates live that this node issues.
    pub(crate) certificate_ttl: Duration,
}

impl NodeOptions {
    /// Reads a configuration file.
    pub(crate) fn from_file(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::new(codes::CONFIG, format!("cannot read {}: {error}", path.display()))
        })?;
        toml::from_str(&text).map_err(|error| {
            Problem::new(codes::CONFIG, crate::manifest::toml_error(path, &text, &error))
        })
    }

    /// These options, with the file's where none is given.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            name: self.name.or(file.name),
            data_dir: self.data_dir.or(file.data_dir),
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            http: self.http.or(file.http),
            api: self.api.or(file.api),
            access_control: self.access_control.or(file.access_control),
            join: self.join.or(file.join),
            token_file: self.token_file.or(file.token_file),
            region: self.region.or(file.region),
            zone: self.zone.or(file.zone),
            label: self.label.or(file.label),
            capacity_functions: self.capacity_functions.or(file.capacity_functions),
            capacity_memory: self.capacity_memory.or(file.capacity_memory),
            capacity_concurrency: self.capacity_concurrency.or(file.capacity_concurrency),
            bootstrap_expect: self.bootstrap_expect.or(file.bootstrap_expect),
            max_component: self.max_component.or(file.max_component),
            snapshot_log: self.snapshot_log.or(file.snapshot_log),
            log_keep: self.log_keep.or(file.log_keep),
            allow_faults: self.allow_faults.or(file.allow_faults),
            log_format: self.log_format.or(file.log_format),
            certificate_ttl: self.certificate_ttl,
            die_with: self.die_with,
            voter_grace_ms: self.voter_grace_ms,
            wire_max: self.wire_max,
        }
    }

    /// Fills in defaults and checks every rule.
    pub(crate) fn check(self) -> Outcome<NodeConfig> {
        let mut violations = Violations::default();
        let name = self.name.unwrap_or_else(host_name);
        check_name("name", &name, &mut violations);
        let labels = parse_labels("label", &self.label.unwrap_or_default(), &mut violations);
        let place = Place { region: self.region, zone: self.zone, labels };
        place.check(&mut violations);
        let join = self.join.unwrap_or_default();
        if join.len() > MAX_SEEDS {
            violations.add("join", join.len(), format!("at most {MAX_SEEDS} seeds"));
        }
        for seed in &join {
            let port = seed.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
            if !matches!(port, Some((host, Ok(1..))) if !host.is_empty()) {
                violations.add("join", seed, "host:port");
            }
        }
        let expect = self.bootstrap_expect.unwrap_or(1);
        if !matches!(expect, 1 | 3 | 5 | 7) {
            violations.add(
                "bootstrap-expect",
                expect,
                "1, 3, 5 or 7: founders are the first voters",
            );
        }
        if let Some(advertise) = self.advertise
            && (advertise.ip().is_unspecified() || advertise.port() == 0)
        {
            violations.add(
                "advertise",
                advertise,
                "an address that other nodes reach, with a port",
            );
        }
        if let Some(version) = self.wire_max
            && version > wire::NEWEST
        {
            violations.add("wire-max", version, format!("at most {}", wire::NEWEST));
        }
        let capacity = [
            ("capacity-functions", self.capacity_functions.map(u64::from)),
            ("capacity-memory", self.capacity_memory.map(|memory| memory.0)),
            ("capacity-concurrency", self.capacity_concurrency),
        ];
        for (field, _) in capacity.iter().filter(|(_, given)| *given == Some(0)) {
            let rule = "more than 0; a node that is to hold nothing is drained: `swarmer drain`";
            violations.add(field, 0, rule);
        }
        if let Some(functions) = self.capacity_functions
            && functions > MAX_CAPACITY_FUNCTIONS
        {
            let rule = format!("at most {MAX_CAPACITY_FUNCTIONS}");
            violations.add("capacity-functions", functions, rule);
        }
        if let Some(bytes) = self.snapshot_log
            && bytes < MIN_SNAPSHOT_LOG
        {
            violations.add("snapshot-log", bytes, format!("at least {MIN_SNAPSHOT_LOG}"));
        }
        violations.finish().map_err(|invalid| Problem::new(codes::CONFIG, invalid.to_string()))?;
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Ok(NodeConfig {
            name,
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("swarmer-data")),
            listen: self.listen.unwrap_or(SocketAddr::new(any, 7400)),
            advertise: self.advertise,
            http: self.http.unwrap_or(SocketAddr::new(any, 8080)),
            api: self.api.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7401)),
            access_control: self.access_control.unwrap_or(false),
            allow_faults: self.allow_faults.unwrap_or(false),
            join,
            token_file: self.token_file,
            place,
            capacity_functions: self.capacity_functions.unwrap_or(DEFAULT_CAPACITY_FUNCTIONS),
            capacity_memory: self.capacity_memory,
            capacity_concurrency: self.capacity_concurrency,
            bootstrap_expect: expect,
            max_component: self.max_component.unwrap_or(DEFAULT_MAX_COMPONENT),
            voter_grace_ms: self.voter_grace_ms.unwrap_or(DEFAULT_VOTER_GRACE_MS),
            wire_max: self.wire_max.unwrap_or(wire::NEWEST),
            snapshot_log: self.snapshot_log,
            log_keep: self.log_keep,
            certificate_ttl: self
                .certificate_ttl
                .map_or(CERTIFICATE_VALIDITY, |ttl| Duration::from_millis(ttl.0)),
        })
    }
}

/// Reads `key=value` texts.
pub(crate) fn parse_labels(field: &str, texts: &[String], violations: &mut Violations) -> Labels {
    let mut labels = Labels::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=') else {
            violations.add(field, text, "key=value");
            continue;
        };
        check_label_key(field, key, violations);
        check_label_value(field, value, violations);
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

impl NodeConfig {
    /// The address that this node tells the others: `--advertise`, else the address it listens
    /// on, else the one from which the first seed is reached.
    pub(crate) fn advertise_address(&self, bound: SocketAddr) -> SocketAddr {
        if let Some(advertise) = self.advertise {
            return advertise;
        }
        if !bound.ip().is_unspecified() {
            return bound;
        }
        let seeds: Vec<SocketAddr> =
            self.join.iter().filter_map(|seed| seed.to_socket_addrs().ok()).flatten().collect();
        // Where other machines are named, an address that only this one reaches is of no use: a
        // machine's own name often stands for a loopback address on itself.
        let mut sources = seeds.iter().filter_map(|seed| source_address(*seed));
        let only_local = !seeds.is_empty() && seeds.iter().all(|seed| seed.ip().is_loopback());
        let found = if only_local {
            sources.next()
        } else {
            sources.find(|address| !address.is_loopback()).or_else(|| source_address(ANYWHERE))
        };
        let found = found.unwrap_or_else(|| {
            tracing::warn!(target: "swarmer::node", "no network is reached from here: other \
                machines will not find this node; give --advertise");
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        });
        SocketAddr::new(found, bound.port())
    }
}

/// An address outside (RFC 5737, documentation): the way to it is the way to other machines.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The local address from which `target` would be reached; nothing is sent.
fn source_address(target: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = name.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let clean: String =
        label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let clean = clean.trim_matches('-');
    if clean.is_empty() { "node".to_owned() } else { clean.chars().take(63).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_in() {
        let flags = NodeOptions { name: Some("a".into()), ..NodeOptions::default() };
        let file: NodeOptions = toml::from_str("name = \"b\"\nregion = \"eu-1\"").unwrap();
        let config = flags.or(file).check().unwrap();
        assert_eq!(config.name, "a");
        assert_eq!(config.place.region.as_deref(), Some("eu-1"));
        assert_eq!(config.listen.port(), 7400);
        assert!(config.api.ip().is_loopback());
    }

    #[test]
    fn every_fault_is_named() {
        let options = NodeOptions {
            name: Some("No".into()),
            join: Some(vec!["nowhere".into(), ":7400".into(), "x:0".into()]),
            bootstrap_expect: Some(2),
            label: Some(vec!["gpu".into()]),
            snapshot_log: Some(ByteSize(1024)),
            ..NodeOptions::default()
        };
        let problem = options.check().unwrap_err();
        for word in ["name", "nowhere", ":7400", "x:0", "bootstrap-expect", "gpu", "snapshot-log"] {
            assert!(problem.detail.contains(word), "{word}: {problem}");
        }
    }

    #[test]
    fn the_advertised_address_can_be_reached() {
        let options =
            NodeOptions { join: Some(vec!["127.0.0.1:7400".into()]), ..NodeOptions::default() };
        let config = options.check().unwrap();
        let bound = "0.0.0.0:7411".parse().unwrap();
        assert_eq!(config.advertise_address(bound), "127.0.0.1:7411".parse().unwrap());
    }
}
