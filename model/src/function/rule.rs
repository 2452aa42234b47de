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
/// The most functions that one is to be near to, and the most that it is to be apart from: each is
/// looked up for each copy that is placed.
const MAX_TIES: usize = 8;

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
    /// Functions of its namespace that it is placed near to, as far as all else allows: on their
    /// nodes, else in their zones, else in their regions. No circles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
    /// Functions of its namespace that it is placed apart from, and they from it, as far as all else
    /// allows: on other nodes, and in other zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<String>,
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
            near: Vec::new(),
            apart: Vec::new(),
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
    /// `own` is the name of the function that it is of.
    pub(super) fn check(&self, own: &str, violations: &mut Violations) {
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
        for (field, names) in
            [("spec.placement.near", &self.near), ("spec.placement.apart", &self.apart)]
        {
            if names.len() > MAX_TIES {
                violations.add(field, names.len(), format!("at most {MAX_TIES} entries"));
            }
            for (i, name) in names.iter().enumerate().take(MAX_TIES) {
                check_name(field, name, violations);
                if name == own {
                    violations.add(field, name, "another function");
                }
                if names[..i].contains(name) {
                    violations.add(field, name, "named once");
                }
            }
        }
        if let Some(both) = self.apart.iter().find(|name| self.near.contains(name)) {
            violations.add("spec.placement.apart", both, "not one of those that it is near to");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(near: &[&str], apart: &[&str]) -> Vec<String> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let rule =
            PlacementRule { near: names(near), apart: names(apart), ..PlacementRule::default() };
        let mut violations = Violations::default();
        rule.check("self", &mut violations);
        let faults = violations.finish().err().map(|invalid| invalid.violations);
        let faults = faults.unwrap_or_default().into_iter();
        faults.map(|fault| format!("{} {}", fault.field, fault.rule)).collect()
    }

    #[test]
    fn affinity_is_to_a_few_other_functions_each_once_and_one_way() {
        assert_eq!(faults(&["a", "b"], &["c"]), [""; 0]);
        let eight: Vec<String> = (0..MAX_TIES).map(|i| format!("f{i}")).collect();
        let mut names: Vec<&str> = eight.iter().map(String::as_str).collect();
        assert_eq!(faults(&names, &[]), [""; 0]);
        names.push("one-more");
        assert_eq!(faults(&names, &[]), ["spec.placement.near at most 8 entries"]);
        assert_eq!(faults(&[], &names), ["spec.placement.apart at most 8 entries"]);
        assert_eq!(faults(&["self"], &[]), ["spec.placement.near another function"]);
        assert_eq!(faults(&[], &["self"]), ["spec.placement.apart another function"]);
        assert_eq!(faults(&["a", "a"], &[]), ["spec.placement.near named once"]);
        let both = ["spec.placement.apart not one of those that it is near to"];
        assert_eq!(faults(&["a"], &["b", "a"]), both);
        let other = faults(&["shop/a"], &[]);
        assert!(other[0].starts_with("spec.placement.near "), "only of its namespace: {other:?}");
    }
}
