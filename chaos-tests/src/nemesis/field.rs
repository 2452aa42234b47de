//! Whom faults may strike.

use crate::cluster::Regions;

/// The nodes, and which of them stand together.
#[derive(Debug, Clone)]
pub struct Field {
    nodes: usize,
    groups: Vec<Vec<usize>>,
}

impl Field {
    /// So many nodes, in these regions; with none of them each node stands for itself.
    pub fn new(nodes: usize, regions: Option<&Regions>) -> Self {
        let alone = || (0..nodes).map(|node| vec![node]).collect();
        Self { nodes, groups: regions.map_or_else(alone, Regions::groups) }
    }

    /// How many nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The nodes of each region.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }
}
