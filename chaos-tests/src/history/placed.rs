//! What placement looks at, and what came of it, as it was committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where copies of a function may run, and what they take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// How many copies, each on another node.
    pub replicas: u32,
    /// Bytes that each takes of its node's capacity.
    pub memory: u64,
    /// Who gets scarce room: the higher number.
    pub priority: i32,
    /// Only in these regions; everywhere if empty.
    pub regions: Vec<String>,
    /// Only in these zones; everywhere if empty.
    pub zones: Vec<String>,
    /// Only on nodes with all these labels.
    pub labels: BTreeMap<String, String>,
    /// Functions of the same namespace, by name, that it goes near to.
    #[serde(default)]
    pub near: Vec<String>,
    /// The same, that it keeps away from, and they from it.
    #[serde(default)]
    pub apart: Vec<String>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The revision of the change.
    pub revision: u64,
    /// The key without its kind: `namespace/name` of a function and its placement, the id of a
    /// node, the name of a region.
    pub of: String,
    /// What it is since then.
    pub fact: Fact,
}

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fact {
    /// A function; none: it is deleted.
    Function(Option<Rule>),
    /// Where a function stands; none: it is deleted.
    Placement(Option<Placed>),
    /// A member; none: it is removed.
    Node(Option<Member>),
    /// Whether a region is drained as a whole; none: nobody says anything of it.
    Region(Option<bool>),
}

/// Where a function stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The revision of the function that it was planned for.
    pub planned: u64,
    /// Ids of nodes.
    pub nodes: Vec<String>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being emptied.
    pub draining: bool,
}

impl Rule {
    /// Whether a member breaks none of its constraints.
    pub fn allows(&self, member: &Member) -> bool {
        let among = |names: &[String], name| names.is_empty() || names.contains(name);
        among(&self.regions, &member.region)
            && among(&self.zones, &member.zone)
            && self.labels.iter().all(|(key, value)| member.labels.get(key) == Some(value))
    }
}
