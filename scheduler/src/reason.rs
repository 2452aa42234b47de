//! Why the planner did what it did.

use std::fmt;

use serde::{Deserialize, Serialize};
use swarmer_model::ByteSize;

use crate::input::{FunctionKey, NodeRef};

/// What is wrong with a copy where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Its node has been dead for longer than the grace time.
    Dead {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// The grace time, in milliseconds.
        grace_ms: u64,
    },
    /// It does not come up there, and may elsewhere.
    Failing {
        /// What the node says.
        why: String,
    },
    /// Its node is to be emptied.
    Draining,
    /// All nodes of its region are to be emptied.
    RegionDrained {
        /// The region.
        region: String,
    },
    /// It is crowded where it stands, and a region that takes work again has room for it.
    Returning {
        /// The region.
        region: String,
    },
    /// Its node breaks a constraint of the function; the reason says which.
    Misplaced(Box<Reason>),
    /// Its node holds more than its capacity, and this copy is the one to go.
    Overfull,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the time that passes: the text of what stays so stays the same.
            Self::Dead { grace_ms, .. } => {
                write!(f, "dead for longer than the grace of {grace_ms} ms")
            }
            Self::Failing { why } => write!(f, "does not come up there: {why}"),
            Self::Draining => f.write_str("draining"),
            Self::RegionDrained { region } => write!(f, "region {region} is drained"),
            Self::Returning { region } => write!(f, "region {region} takes work again"),
            Self::Misplaced(reason) => write!(f, "{reason}"),
            Self::Overfull => f.write_str("over capacity"),
        }
    }
}

/// How a function is drawn to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// It is to be near to it.
    Near,
    /// The two are to be apart.
    Apart,
}

/// Where the nearest copy of another function stands, as seen from a node; the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nearest {
    /// On the node.
    Node,
    /// On another node of its zone.
    Zone,
    /// In another zone of its region.
    Region,
    /// In another region.
    Elsewhere,
    /// It has no copy that is there to stay.
    Nowhere,
    /// There is no such function.
    Unknown,
}

/// How a node stands to another function that the one in question is to be near to, or apart from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Near or apart.
    pub pull: Pull,
    /// The other function.
    pub to: FunctionKey,
    /// Where its nearest copy stands.
    pub nearest: Nearest,
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pull = match self.pull {
            Pull::Near => "near",
            Pull::Apart => "apart from",
        };
        let nearest = match self.nearest {
            Nearest::Node => "on this node",
            Nearest::Zone => "in this zone",
            Nearest::Region => "in this region",
            Nearest::Elsewhere => "in another region",
            Nearest::Nowhere => "no copy to stay",
            Nearest::Unknown => "no such function",
        };
        write!(f, "{pull} {} ({nearest})", self.to)
    }
}

fn told(f: &mut fmt::Formatter<'_>, affinity: &[Affinity]) -> fmt::Result {
    affinity.iter().try_for_each(|each| write!(f, ", {each}"))
}

/// Why a copy was placed, removed or kept, or a node refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Placed: the best of the nodes that fit.
    Chosen {
        /// Which copy this is, from 1.
        copy: u32,
        /// How many are wanted.
        wanted: u32,
        /// The copy whose place it takes, and what is wrong with that one.
        replaces: Option<(NodeRef, Trouble)>,
        /// How many copies the node's region held already.
        #[serde(default)]
        region_copies: u32,
        /// How many copies the node's zone held already.
        zone_copies: u32,
        /// The node's load with this copy, in thousandths of its capacity.
        load_permille: u32,
        /// How the node stands to those that the function is to be near to, or apart from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        affinity: Vec<Affinity>,
        /// How many nodes fitted.
        of: u32,
    },
    /// Placed: nothing fitted until these made room.
    Preempting {
        /// Which copy this is, from 1.
        copy: u32,
        /// How many are wanted.
        wanted: u32,
        /// The functions of which a copy left the node.
        evicted: Vec<FunctionKey>,
    },
    /// Removed: it made room for one of higher priority, which fitted nowhere else.
    Preempted {
        /// The other function.
        by: FunctionKey,
        /// Its priority.
        priority: i32,
    },
    /// Removed: there is no such function any more.
    Deleted,
    /// Removed: more copies than wanted.
    Surplus {
        /// How many are wanted.
        wanted: u32,
    },
    /// Removed: the node is no member any more.
    NotMember,
    /// Removed: what was wrong with it is mended elsewhere, or cannot be borne.
    Relieved(Trouble),
    /// Kept: good where it is.
    Fits {
        /// How the node stands to those that the function is to be near to, or apart from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        affinity: Vec<Affinity>,
    },
    /// Kept: its node is dead, and may come back until then.
    Grace {
        /// When the grace time ends, on the clock of `now`, in milliseconds.
        until_ms: u64,
    },
    /// Kept in spite of its trouble, until the copy that takes its place answers.
    UntilReplaced(Trouble),
    /// Kept in spite of its trouble: nothing else fits.
    NoReplacement(Trouble),
    /// Refused: the node's region is not among those allowed.
    Region {
        /// The node's.
        is: String,
        /// The function's.
        allowed: Vec<String>,
    },
    /// Refused: the node's zone is not among those allowed.
    Zone {
        /// The node's.
        is: String,
        /// The function's.
        allowed: Vec<String>,
    },
    /// Refused: a label differs or is missing.
    Label {
        /// The label's key.
        key: String,
        /// The value that the function needs.
        needs: String,
        /// The value that the node has.
        has: Option<String>,
    },
    /// Refused: it did not come up there, and others can have it.
    Failing {
        /// What the node says.
        why: String,
    },
    /// Refused: the node is being emptied.
    Draining,
    /// Refused: all nodes of its region are being emptied.
    RegionDrained {
        /// The region.
        region: String,
    },
    /// Refused: the node is dead.
    Dead,
    /// Refused: a copy stands there already.
    AlreadyHere,
    /// Refused: as many functions as the node may hold.
    FunctionsFull {
        /// So many.
        max: u32,
    },
    /// Refused: too little memory left.
    MemoryFull {
        /// What is left, in bytes.
        free_bytes: u64,
        /// What one copy needs, in bytes.
        needs_bytes: u64,
    },
    /// Refused: too few requests at once left.
    ConcurrencyFull {
        /// How many are left.
        free: u64,
        /// How many one copy may have.
        needs: u32,
    },
    /// Refused: full, and those of lower priority there serve no more copies than they keep
    /// ([`min_available`](crate::FunctionNeed::min_available)).
    Budget {
        /// Those functions; the first few.
        keep: Vec<FunctionKey>,
    },
    /// Refused: it would fit, and others fit better or enough copies stand.
    NotNeeded {
        /// How the node stands to those that the function is to be near to, or apart from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        affinity: Vec<Affinity>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen {
                copy,
                wanted,
                replaces,
                region_copies,
                zone_copies,
                load_permille,
                affinity,
                of,
            } => {
                write!(f, "copy {copy} of {wanted}")?;
                if let Some((node, trouble)) = replaces {
                    write!(f, " in place of {node} ({trouble})")?;
                }
                write!(
                    f,
                    ": region holds {region_copies}, zone {zone_copies}, load {}.{} %",
                    load_permille / 10,
                    load_permille % 10
                )?;
                told(f, affinity)?;
                write!(f, ", best of {of}")
            }
            Self::Preempting { copy, wanted, evicted } => {
                write!(f, "copy {copy} of {wanted}, room made by {}", evicted.join(", "))
            }
            Self::Preempted { by, priority } => {
                write!(f, "makes room for {by} of priority {priority}")
            }
            Self::Deleted => f.write_str("the function was deleted"),
            Self::Surplus { wanted } => write!(f, "more copies than the {wanted} wanted"),
            Self::NotMember => f.write_str("the node is no member"),
            Self::Relieved(trouble) => write!(f, "{trouble}"),
            Self::Fits { affinity } => {
                f.write_str("fits")?;
                told(f, affinity)
            }
            // Without the time, which is on a clock that nobody else has.
            Self::Grace { .. } => f.write_str("the node is dead, and has time to come back"),
            Self::UntilReplaced(trouble) => write!(f, "{trouble}; until its replacement is ready"),
            Self::NoReplacement(trouble) => write!(f, "{trouble}; nothing else fits"),
            Self::Region { is, allowed } => {
                write!(f, "region {is} not in [{}]", allowed.join(", "))
            }
            Self::Zone { is, allowed } => write!(f, "zone {is} not in [{}]", allowed.join(", ")),
            Self::Label { key, needs, has: Some(has) } => {
                write!(f, "label {key}={has}, needs {key}={needs}")
            }
            Self::Label { key, needs, has: None } => write!(f, "no label {key}={needs}"),
            Self::Failing { why } => write!(f, "does not come up there: {why}"),
            Self::Draining => f.write_str("draining"),
            Self::RegionDrained { region } => write!(f, "region {region} is drained"),
            Self::Dead => f.write_str("dead"),
            Self::AlreadyHere => f.write_str("holds a copy already"),
            Self::FunctionsFull { max } => write!(f, "full: holds its {max} functions"),
            Self::MemoryFull { free_bytes, needs_bytes } => write!(
                f,
                "{} of memory left, needs {}",
                ByteSize(*free_bytes),
                ByteSize(*needs_bytes)
            ),
            Self::ConcurrencyFull { free, needs } => {
                write!(f, "{free} requests at once left, needs {needs}")
            }
            Self::Budget { keep } => write!(
                f,
                "full, and {} may serve no fewer copies than now (min-available)",
                keep.join(", ")
            ),
            Self::NotNeeded { affinity } => {
                f.write_str("fits, not needed")?;
                told(f, affinity)
            }
        }
    }
}
