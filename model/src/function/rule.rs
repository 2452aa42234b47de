//! Where copies of a function run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    metadata::check_labels,
    names::{Labels, check_name},
    quantity::ByteSize,
    validation::Violations,
};

/// The most copies.
const MAX_REPLICAS: u32 = 1000;
/// The highest priority; the lowest is as far below 0.
const MAX_PRIORITY: u32 = 1000;
/// The most names of regions or zones.
const MAX_NAMES: usize = 16;

/// Where copies of a function run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PlacementRule {
    /// How many nodes serve it, as far as there are so many.
    pub replicas: u32,
    /// Only in these regions; everywhere if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Only in these zones; everywhere if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Only on nodes with all these labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What one copy takes of its node's memory for functions, as far as placement counts; what it
    /// may really use is `limits.memory` for each instance.
    #[serde(skip_serializing_if = "is_default")]
    pub memory: ByteSize,
    /// Who gets scarce room: the higher number, which takes it from lower ones where there is no
    /// more. From -1000 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// How many copies that serve are left to it, whoever of higher priority wants their room.
    #[serde(skip_serializing_if = "is_one")]
    pub min_available: u32,
}

impl Default for PlacementRule {
    fn default() -> Self {
        Self {
            replicas: 2,
            regions: Vec::new(),
            zones: Vec::new(),
            labels: Labels::new(),
            memory: ByteSize(0),
            priority: 0,
            min_available: 1,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &u32) -> bool {
    *value == 1
}

impl PlacementRule {
    pub(super) fn check(&self, violations: &mut Violations) {
        if self.replicas == 0 || self.replicas > MAX_REPLICAS {
            let rule = format!("from 1 to {MAX_REPLICAS}");
            violations.add("spec.placement.replicas", self.replicas, rule);
        }
        for (field, names) in
            [("spec.placement.regions", &self.regions), ("spec.placement.zones", &self.zones)]
        {
            if names.len() > MAX_NAMES {
                violations.add(field, names.len(), format!("at most {MAX_NAMES} entries"));
            }
            for name in names {
                check_name(field, name, violations);
            }
        }
        check_labels("spec.placement.labels", &self.labels, violations);
        if self.priority.unsigned_abs() > MAX_PRIORITY {
            let rule = format!("from -{MAX_PRIORITY} to {MAX_PRIORITY}");
            violations.add("spec.placement.priority", self.priority, rule);
        }
        // With a bad number of replicas there is nothing to compare with.
        if self.replicas > 0 && self.min_available > self.replicas {
            let rule = format!("at most the {} replicas", self.replicas);
            violations.add("spec.placement.minAvailable", self.min_available, rule);
        }
    }
}
