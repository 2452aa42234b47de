//! What a node says about itself: versioned, bounded, signed by its key.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, EndpointHealth, NodeId};

use crate::{
    Coordinate, GossipError, HeldKeys, MAX_ADDRESSES, MAX_ENDPOINTS, MAX_RECORD_BYTES,
    MAX_SIGNATURE_BYTES, MAX_TEXT_BYTES, Refusal, Signer, Verifier,
};

/// Goes in front of the signed bytes, so that no other signature of the same key can pass as one.
const SIGNING_CONTEXT: &[u8] = b"swarmer gossip record 1";

/// Whether an endpoint takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// The artifact is being fetched or loaded.
    Starting,
    /// It takes calls.
    Ready,
    /// It finishes what it has and takes no new calls.
    Draining,
}

/// One version of a function on the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// `namespace/name`.
    pub function: String,
    /// Which of its versions.
    pub version: u32,
    /// Whether it takes calls.
    pub state: EndpointState,
    /// Calls being served at the time of the record.
    pub in_flight: u32,
    /// Calls that it may serve at once.
    pub concurrency: u32,
    /// How its calls went of late. A node that is too old to say says nothing against it.
    // Behind the record: see `LaterHealth`.
    #[serde(skip)]
    pub health: EndpointHealth,
}

/// How busy the node was at the time of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Calls being served, all functions together.
    pub in_flight: u32,
    /// CPU in use, thousandths of all cores.
    pub cpu_permille: u16,
    /// Memory in use by the node's process, bytes.
    pub memory_bytes: u64,
}

/// What a node can hold of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// How many functions; 0: its node is too old to say.
    pub functions: u32,
    /// The sum of their memory as placement counts it, bytes.
    pub memory_bytes: u64,
    /// The sum of the requests that they may have at once; `None`: any number, or its node is too
    /// old to say.
    // Behind the record: see `LaterConcurrency`.
    #[serde(skip)]
    pub concurrency: Option<u64>,
}

/// All that a node says about itself. Claims, not authority: region, zone and labels are not among
/// them, they come from the committed state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Where its UDP port can be reached, best first; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
    /// Oldest version of the protocols between nodes that it speaks.
    pub wire_min: u16,
    /// Newest version that it speaks.
    pub wire_max: u16,
    /// Where its ingress listens, if it has one.
    pub ingress: Option<SocketAddr>,
    /// Whether it is a voter, as far as it knows: a hint.
    pub voter: bool,
    /// Whether it takes no new work.
    pub draining: bool,
    /// How busy it is.
    pub load: Load,
    /// What it serves; at most [`MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// The version of its software, for people; empty if it is too old to say.
    // Behind the record, where nodes that do not know it pass it on unread: see `Later`.
    #[serde(skip)]
    pub software: String,
    /// Which keys of gossip it has; kept by the core, whatever is published here.
    #[serde(skip)]
    pub keys: HeldKeys,
    /// Which of the cluster's authorities it believes and has its certificate of, by their numbers.
    /// Gossip makes nothing of it. Zeros are of a node that is too old to say.
    #[serde(skip)]
    pub authority: HeldKeys,
    /// What it can hold of functions.
    #[serde(skip)]
    pub capacity: Capacity,
    /// Where it stands in the space of distances; kept by the core, whatever is published here.
    /// `None` while it does not know, or if it is too old to say.
    #[serde(skip)]
    pub coordinate: Option<Coordinate>,
}

/// What was added to records after their first version. It follows the record in the signed bytes:
/// a node that does not know it leaves it unread, and a record that ends before it is of an older
/// node. What is added next is a structure of its own behind this one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Later {
    software: String,
}

/// What follows [`Later`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct LaterKeys {
    keys: HeldKeys,
}

/// What follows [`LaterKeys`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct LaterAuthority {
    authority: HeldKeys,
}

/// What follows [`LaterAuthority`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct LaterCapacity {
    capacity: Capacity,
}

/// What follows [`LaterCapacity`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct LaterCoordinate {
    coordinate: Option<Coordinate>,
}

/// What follows [`LaterCoordinate`]: which endpoints do not do well, by their places in the list.
#[derive(Debug, Default, Serialize, Deserialize)]
struct LaterHealth {
    failing: Vec<u16>,
    trial: Vec<u16>,
}

/// What follows [`LaterHealth`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct LaterConcurrency {
    concurrency: Option<u64>,
}

impl LaterHealth {
    fn of(endpoints: &[Endpoint]) -> Self {
        let places = |health| {
            let places = endpoints.iter().enumerate().filter(|(_, e)| e.health == health);
            places.filter_map(|(place, _)| u16::try_from(place).ok()).collect()
        };
        Self { failing: places(EndpointHealth::Failing), trial: places(EndpointHealth::Trial) }
    }

    /// A place that there is not is nobody's.
    fn tell(&self, endpoints: &mut [Endpoint]) {
        let told = [(EndpointHealth::Failing, &self.failing), (EndpointHealth::Trial, &self.trial)];
        for (health, places) in told {
            for place in places {
                if let Some(endpoint) = endpoints.get_mut(usize::from(*place)) {
                    endpoint.health = health;
                }
            }
        }
    }
}

impl Facts {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`GossipError::Record`] with the first field that is over.
    pub fn check(&self) -> Result<(), GossipError> {
        let over = |field, problem| Err(GossipError::Record { field, problem });
        if self.name.len() > MAX_TEXT_BYTES {
            let problem = format!("has {} bytes, at most {MAX_TEXT_BYTES}", self.name.len());
            return over("name", problem);
        }
        if self.software.len() > MAX_TEXT_BYTES {
            let problem = format!("has {} bytes, at most {MAX_TEXT_BYTES}", self.software.len());
            return over("software", problem);
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return over(
                "addresses",
                format!("has {} entries, at most {MAX_ADDRESSES}", self.addresses.len()),
            );
        }
        if self.wire_min > self.wire_max {
            return over(
                "wire_min",
                format!("{} is above wire_max {}", self.wire_min, self.wire_max),
            );
        }
        if self.endpoints.len() > MAX_ENDPOINTS {
            return over(
                "endpoints",
                format!("has {} entries, at most {MAX_ENDPOINTS}", self.endpoints.len()),
            );
        }
        for endpoint in &self.endpoints {
            if endpoint.function.len() > MAX_TEXT_BYTES {
                return over(
                    "endpoints.function",
                    format!("has {} bytes, at most {MAX_TEXT_BYTES}", endpoint.function.len()),
                );
            }
        }
        Ok(())
    }
}

/// One statement of a node about itself. The greater `(boot, version)` is the newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub node: NodeId,
    /// The start of the node that made it.
    pub boot: u64,
    /// Counts the node's records since that start.
    pub version: u64,
    /// Whether this is the node's farewell.
    pub left: bool,
    /// What it says.
    pub facts: Facts,
}

impl Record {
    /// Which of a node's records this is.
    pub fn stamp(&self) -> (u64, u64) {
        (self.boot, self.version)
    }

    /// Signs the record.
    ///
    /// # Errors
    /// [`GossipError::Record`] if it is over a bound.
    pub fn sign(
        &self,
        cluster: ClusterId,
        signer: &dyn Signer,
    ) -> Result<SignedRecord, GossipError> {
        self.facts.check()?;
        let later = Later { software: self.facts.software.clone() };
        let keys = LaterKeys { keys: self.facts.keys };
        let authority = LaterAuthority { authority: self.facts.authority };
        let capacity = LaterCapacity { capacity: self.facts.capacity };
        let coordinate = LaterCoordinate { coordinate: self.facts.coordinate };
        let health = LaterHealth::of(&self.facts.endpoints);
        let concurrency = LaterConcurrency { concurrency: self.facts.capacity.concurrency };
        let all = (self, later, keys, authority, capacity, coordinate, health, concurrency);
        let bytes = postcard::to_stdvec(&all).map_err(|error| GossipError::Record {
            field: "record",
            problem: format!("cannot be encoded: {error}"),
        })?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(GossipError::Record {
                field: "record",
                problem: format!("has {} bytes, at most {MAX_RECORD_BYTES}", bytes.len()),
            });
        }
        let signature = signer.sign(&signed_bytes(cluster, &bytes));
        if signature.len() > MAX_SIGNATURE_BYTES {
            return Err(GossipError::Record {
                field: "signature",
                problem: format!("has {} bytes, at most {MAX_SIGNATURE_BYTES}", signature.len()),
            });
        }
        Ok(SignedRecord { bytes, signature })
    }
}

/// A record as it travels: passed on byte for byte, so that the signature stays good and fields
/// of newer versions survive older nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// The record in postcard.
    pub bytes: Vec<u8>,
    /// Its node's signature over context, cluster and bytes.
    pub signature: Vec<u8>,
}

/// What a record begins with.
#[derive(Deserialize)]
struct Head {
    node: NodeId,
    boot: u64,
    version: u64,
}

impl SignedRecord {
    /// Whose record it says it is, and its [`Record::stamp`]: all that is asked of the most of them,
    /// which are known already. It can be had of one that cannot be read.
    ///
    /// # Errors
    /// Over its bounds, or no record.
    pub(crate) fn head(&self) -> Result<(NodeId, (u64, u64)), Refusal> {
        self.check_bounds()?;
        let (head, _) =
            postcard::take_from_bytes::<Head>(&self.bytes).map_err(|_| Refusal::Malformed)?;
        Ok((head.node, (head.boot, head.version)))
    }

    fn check_bounds(&self) -> Result<(), Refusal> {
        let over =
            self.bytes.len() > MAX_RECORD_BYTES || self.signature.len() > MAX_SIGNATURE_BYTES;
        if over { Err(Refusal::OversizedRecord) } else { Ok(()) }
    }

    /// Reads the record without trusting it.
    ///
    /// # Errors
    /// Over its bounds, or no record.
    pub fn read(&self) -> Result<Record, Refusal> {
        self.check_bounds()?;
        let (mut record, rest) =
            postcard::take_from_bytes::<Record>(&self.bytes).map_err(|_| Refusal::Malformed)?;
        // What follows the known fields is of a newer version, signed, and kept.
        let mut rest = rest;
        if let Some(later) = take::<Later>(&mut rest)? {
            record.facts.software = later.software;
        }
        if let Some(later) = take::<LaterKeys>(&mut rest)? {
            record.facts.keys = later.keys;
        }
        if let Some(later) = take::<LaterAuthority>(&mut rest)? {
            record.facts.authority = later.authority;
        }
        if let Some(later) = take::<LaterCapacity>(&mut rest)? {
            record.facts.capacity = later.capacity;
        }
        if let Some(later) = take::<LaterCoordinate>(&mut rest)? {
            // One that is out of bounds would spoil this node's own; the rest of the record is good.
            record.facts.coordinate = later.coordinate.filter(Coordinate::is_sound);
        }
        if let Some(later) = take::<LaterHealth>(&mut rest)? {
            later.tell(&mut record.facts.endpoints);
        }
        if let Some(later) = take::<LaterConcurrency>(&mut rest)? {
            record.facts.capacity.concurrency = later.concurrency;
        }
        record.facts.check().map_err(|_| Refusal::OversizedRecord)?;
        Ok(record)
    }

    /// Whether the signature is by `node`.
    pub fn is_by(&self, node: NodeId, cluster: ClusterId, verifier: &dyn Verifier) -> bool {
        verifier.verify(node, &signed_bytes(cluster, &self.bytes), &self.signature)
    }

    /// Bytes that it takes in a message, at most.
    pub(crate) fn wire_bytes(&self) -> usize {
        // Two lengths of at most three bytes each.
        self.bytes.len() + self.signature.len() + 6
    }
}

/// The next of the structures behind a record; none where a record of an older node ends.
fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<Option<T>, Refusal> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (later, after) = postcard::take_from_bytes(rest).map_err(|_| Refusal::Malformed)?;
    *rest = after;
    Ok(Some(later))
}

fn signed_bytes(cluster: ClusterId, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(SIGNING_CONTEXT.len() + 16 + bytes.len());
    all.extend_from_slice(SIGNING_CONTEXT);
    all.extend_from_slice(&cluster.0.to_be_bytes());
    all.extend_from_slice(bytes);
    all
}

/// A change of the local record. Changes are gathered for a moment, then signed and sent once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordUpdate {
    /// Everything.
    Facts(Box<Facts>),
    /// What it serves.
    Endpoints(Vec<Endpoint>),
    /// One endpoint, added or changed by function and version.
    Endpoint(Endpoint),
    /// One endpoint is gone.
    RemoveEndpoint {
        /// `namespace/name`.
        function: String,
        /// Which version.
        version: u32,
    },
    /// How busy it is; sent less often than the rest.
    Load(Load),
    /// Whether it takes no new work.
    Draining(bool),
    /// Whether it is a voter.
    Voter(bool),
    /// Where its ingress listens.
    Ingress(Option<SocketAddr>),
    /// Which authorities it believes and has its certificate of.
    Authority(HeldKeys),
}

impl RecordUpdate {
    /// Whether it may wait for [`crate::Timing::publish_load_interval`].
    pub(crate) fn is_load_only(&self) -> bool {
        matches!(self, Self::Load(_))
    }

    /// The facts after this change.
    pub(crate) fn apply(self, facts: &mut Facts) {
        match self {
            Self::Facts(all) => *facts = *all,
            Self::Endpoints(endpoints) => facts.endpoints = endpoints,
            Self::Endpoint(endpoint) => {
                let held = facts
                    .endpoints
                    .iter_mut()
                    .find(|e| e.function == endpoint.function && e.version == endpoint.version);
                match held {
                    Some(held) => *held = endpoint,
                    None => facts.endpoints.push(endpoint),
                }
            }
            Self::RemoveEndpoint { function, version } => {
                facts.endpoints.retain(|e| e.function != function || e.version != version);
            }
            Self::Load(load) => facts.load = load,
            Self::Draining(draining) => facts.draining = draining,
            Self::Voter(voter) => facts.voter = voter,
            Self::Ingress(ingress) => facts.ingress = ingress,
            Self::Authority(authority) => facts.authority = authority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoKey;

    impl Signer for NoKey {
        fn sign(&self, _: &[u8]) -> Vec<u8> {
            Vec::new()
        }
    }

    fn record(software: &str) -> Record {
        let facts = Facts {
            name: "a".into(),
            software: software.into(),
            keys: HeldKeys { newest: 300, seals: 299 },
            authority: HeldKeys { newest: 400, seals: 399 },
            capacity: Capacity { functions: 500, memory_bytes: 1 << 40, concurrency: Some(70_000) },
            coordinate: Some(Coordinate {
                position: [-70_000, 30_000, 0, 1, -1, 10_000_000, 5, 6],
                height: 10,
                adjustment: -900,
                error: 120,
            }),
            ..Facts::default()
        };
        Record { node: NodeId(7), boot: 1, version: 2, left: false, facts }
    }

    fn read(bytes: Vec<u8>) -> Result<Record, Refusal> {
        SignedRecord { bytes, signature: Vec::new() }.read()
    }

    #[test]
    fn nodes_with_and_without_the_later_fields_read_each_other() {
        let new = record("1.2.3").sign(ClusterId(1), &NoKey).unwrap();
        assert_eq!(new.read().unwrap(), record("1.2.3"));
        // What the first version of this record was: nothing behind it.
        let old = postcard::to_stdvec(&record("")).unwrap();
        let mut read_old = record("");
        read_old.facts.keys = HeldKeys::default();
        read_old.facts.authority = HeldKeys::default();
        read_old.facts.capacity = Capacity::default();
        read_old.facts.coordinate = None;
        assert_eq!(read(old.clone()).unwrap(), read_old);
        // And of the version between them, which told its software and not its keys.
        let later = Later { software: "1.0.0".into() };
        let between = postcard::to_stdvec(&(record(""), later)).unwrap();
        assert_eq!(read(between.clone()).unwrap().facts.software, "1.0.0");
        assert_eq!(read(between).unwrap().facts.keys, HeldKeys::default());
        // And of the one that told its keys and nothing of authorities.
        let keys = LaterKeys { keys: record("").facts.keys };
        let later = Later { software: "1.0.0".into() };
        let between = read(postcard::to_stdvec(&(record(""), later, keys)).unwrap()).unwrap();
        assert_eq!(between.facts.keys, record("").facts.keys);
        assert_eq!(between.facts.authority, HeldKeys::default());
        // And of the one that told its authorities and nothing of what it can hold.
        let keys = LaterKeys { keys: record("").facts.keys };
        let authority = LaterAuthority { authority: record("").facts.authority };
        let later = Later { software: "1.0.0".into() };
        let between = postcard::to_stdvec(&(record(""), later, keys, authority)).unwrap();
        let capacity = LaterCapacity { capacity: record("").facts.capacity };
        let told_capacity = [between.clone(), postcard::to_stdvec(&capacity).unwrap()].concat();
        let between = read(between).unwrap();
        assert_eq!(between.facts.authority, record("").facts.authority);
        assert_eq!(between.facts.capacity, Capacity::default());
        // And of the one that told what it can hold and not where it stands.
        let between = read(told_capacity).unwrap();
        let of_then = Capacity { concurrency: None, ..record("").facts.capacity };
        assert_eq!(between.facts.capacity, of_then);
        assert_eq!(between.facts.coordinate, None);
        // What such a node reads of ours, and it passes on the bytes as they are.
        assert!(new.bytes.starts_with(&old));
        let (seen, _) = postcard::take_from_bytes::<Record>(&new.bytes).unwrap();
        assert_eq!(seen, read_old);
        // Of one that is newer still.
        let newer = [new.bytes.as_slice(), b"more"].concat();
        assert_eq!(read(newer).unwrap(), record("1.2.3"));
        // Cut off in the middle of it: of nobody.
        let cut = new.bytes[..new.bytes.len() - 1].to_vec();
        assert!(matches!(read(cut), Err(Refusal::Malformed)));
    }

    #[test]
    fn how_endpoints_do_is_told_behind_the_record() {
        let endpoint = |version, health| Endpoint {
            function: "default/f".into(),
            version,
            state: EndpointState::Ready,
            in_flight: 0,
            concurrency: 1,
            health,
        };
        let mut told = record("1.2.3");
        told.facts.endpoints = vec![
            endpoint(1, EndpointHealth::Good),
            endpoint(2, EndpointHealth::Failing),
            endpoint(3, EndpointHealth::Trial),
            endpoint(4, EndpointHealth::Failing),
        ];
        let signed = told.sign(ClusterId(1), &NoKey).unwrap();
        assert_eq!(signed.read().unwrap(), told);
        // A node that does not know it reads the rest, and passes on the bytes as they are.
        let (mut seen, _) = postcard::take_from_bytes::<Record>(&signed.bytes).unwrap();
        assert!(seen.facts.endpoints.iter().all(|e| e.health == EndpointHealth::Good));
        // Said of endpoints that there are not.
        LaterHealth { failing: vec![4, u16::MAX], trial: vec![0] }.tell(&mut seen.facts.endpoints);
        let health: Vec<EndpointHealth> = seen.facts.endpoints.iter().map(|e| e.health).collect();
        assert_eq!(
            health,
            [
                EndpointHealth::Trial,
                EndpointHealth::Good,
                EndpointHealth::Good,
                EndpointHealth::Good
            ]
        );
    }

    #[test]
    fn a_coordinate_out_of_bounds_is_none_and_spoils_nothing_else() {
        let mut astray = record("1.2.3");
        astray.facts.coordinate.as_mut().unwrap().position[5] += 1;
        let read = astray.sign(ClusterId(1), &NoKey).unwrap().read().unwrap();
        astray.facts.coordinate = None;
        assert_eq!(read, astray);
    }

    #[test]
    fn the_software_version_is_bounded() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        assert!(record(&long).sign(ClusterId(1), &NoKey).is_err());
    }
}
