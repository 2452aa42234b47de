//! Who starts a function that runs nowhere.
//!
//! Highest random weight ("rendezvous") hashing, Thaler and Ravishankar, 1998: every node of the
//! cluster computes the same order from committed state alone, with no message.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

/// How many candidates a function has in a cluster of one region: two machines may be down and two
/// full, and the next request still finds two that hold the image.
pub const CANDIDATES: usize = 6;
/// The fewest that it has in each region that may hold it, so that when all others are lost one
/// machine may be down.
pub const REGION_CANDIDATES: usize = 2;
/// The most that it has in all regions: each holds its artifact and image.
pub const MAX_CANDIDATES: usize = 16;

/// A committed node that may hold the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateNode<'a> {
    /// Who it is.
    pub id: NodeId,
    /// Its committed region.
    pub region: &'a str,
}

/// The candidates of one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionCandidates {
    /// The region.
    pub region: String,
    /// Its candidates, first choice first.
    pub nodes: Vec<NodeId>,
}

/// How much a function likes a node: all nodes of a cluster must agree on it, so it may never
/// change between versions. FNV-1a of the key, then two rounds of the SplitMix64 finaliser.
pub fn score(function: &str, node: NodeId) -> u64 {
    Liking::of(function).score(node)
}

/// How much one function likes nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Liking(u64);

impl Liking {
    pub(crate) fn of(function: &str) -> Self {
        let key = function.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(key))
    }

    pub(crate) fn score(self, node: NodeId) -> u64 {
        mix(self.0 ^ mix(node.0.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The candidates of `function` among the committed, eligible `nodes`, first choice first: those of
/// `own_regions` in that order, then those of other regions by the region's name; inside a region
/// by [`score`]. Every region has [`CANDIDATES`] divided by their number, but not fewer than
/// [`REGION_CANDIDATES`], as far as [`MAX_CANDIDATES`] reach: whichever region is lost, another one
/// starts the function. While no region comes or goes a node that does changes the candidates of
/// its own only, by one.
///
/// Pass every eligible node ([`candidate_misfit`](crate::candidate_misfit)), those dead for a
/// moment too: they are for the caller to skip, or the candidates would move with every flap.
pub fn candidates(
    function: &str,
    own_regions: &[String],
    nodes: &[CandidateNode<'_>],
) -> Vec<NodeId> {
    let regions: BTreeSet<&str> = nodes.iter().map(|node| node.region).collect();
    let each = CANDIDATES.div_ceil(regions.len().max(1)).max(REGION_CANDIDATES);
    candidates_by_region(function, own_regions, nodes, each)
        .into_iter()
        .flat_map(|region| region.nodes)
        .take(MAX_CANDIDATES)
        .collect()
}

/// Like [`candidates`], with at most `n` for each region.
pub fn candidates_by_region(
    function: &str,
    own_regions: &[String],
    nodes: &[CandidateNode<'_>],
    n: usize,
) -> Vec<RegionCandidates> {
    // Rank and name of a region, to its nodes by falling score.
    type Ranked<'a> = BTreeMap<(usize, &'a str), Vec<(Reverse<u64>, NodeId)>>;
    let liking = Liking::of(function);
    let mut regions = Ranked::new();
    for node in nodes {
        let rank = own_regions.iter().position(|own| own == node.region);
        regions
            .entry((rank.unwrap_or(own_regions.len()), node.region))
            .or_default()
            .push((Reverse(liking.score(node.id)), node.id));
    }
    regions
        .into_iter()
        .map(|((_, region), mut nodes)| {
            nodes.sort_unstable_by_key(|(_, id)| *id);
            nodes.dedup();
            // Of a thousand only the first few are wanted in order.
            if n > 0 && n < nodes.len() {
                nodes.select_nth_unstable(n - 1);
            }
            nodes.truncate(n);
            nodes.sort_unstable();
            RegionCandidates {
                region: region.to_owned(),
                nodes: nodes.into_iter().map(|(_, id)| id).collect(),
            }
        })
        .collect()
}
