//! Where a node stands: region, zone and labels.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    metadata::check_labels,
    names::{Labels, check_name},
    validation::Violations,
};

/// The region of a node for which none was said.
pub const DEFAULT_REGION: &str = "local";

/// Region, zone and labels of a node: what a join token admits, or what a node says of itself.
/// What is not said is left open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// The region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The zone within the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Labels for placement.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// The label that says whether a node votes; its one value is [`NEVER`].
pub const VOTE_LABEL: &str = "vote";
/// The node gets no vote, and gives away one that it has where another node can have it.
pub const NEVER: &str = "never";

impl Place {
    /// The part of `claim` that this place does not say; empty if `claim` fits.
    #[must_use]
    pub fn beyond(&self, claim: &Self) -> Self {
        let beyond =
            |own: &Option<String>, claim: &Option<String>| claim.clone().filter(|_| own != claim);
        let foreign = |(key, value): &(&String, &String)| self.labels.get(*key) != Some(*value);
        Self {
            region: beyond(&self.region, &claim.region),
            zone: beyond(&self.zone, &claim.zone),
            labels: claim
                .labels
                .iter()
                .filter(foreign)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        }
    }

    /// This place, with what the other one says instead where it says anything.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut labels = self.labels.clone();
        labels.extend(other.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self {
            region: other.region.clone().or_else(|| self.region.clone()),
            zone: other.zone.clone().or_else(|| self.zone.clone()),
            labels,
        }
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Notes every broken rule.
    pub fn check(&self, violations: &mut Violations) {
        for (field, name) in [("region", &self.region), ("zone", &self.zone)] {
            if let Some(name) = name {
                check_name(field, name, violations);
            }
        }
        check_labels("labels", &self.labels, violations);
        if let Some(value) = self.labels.get(VOTE_LABEL).filter(|value| *value != NEVER) {
            violations.add("labels.vote", value, "never, or no such label");
        }
    }

    /// As flags of the command line: `--region eu-1 --label disk=ssd`.
    pub fn flags(&self) -> String {
        let named = [("--region", &self.region), ("--zone", &self.zone)];
        let named =
            named.iter().filter_map(|(flag, name)| Some(format!("{flag} {}", name.as_ref()?)));
        let labels = self.labels.iter().map(|(key, value)| format!("--label {key}={value}"));
        named.chain(labels).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no region, zone or label");
        }
        let named = [("region", &self.region), ("zone", &self.zone)];
        let named =
            named.iter().filter_map(|(what, name)| Some(format!("{what} {}", name.as_ref()?)));
        let labels = self.labels.iter().map(|(key, value)| format!("label {key}={value}"));
        f.write_str(&named.chain(labels).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(region: Option<&str>, zone: Option<&str>, labels: &[(&str, &str)]) -> Place {
        Place {
            region: region.map(str::to_owned),
            zone: zone.map(str::to_owned),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn a_claim_is_admitted_where_the_token_says_the_same_and_nowhere_else() {
        let token = place(Some("eu-1"), Some("z1"), &[("disk", "ssd"), ("gpu", "yes")]);
        let nothing = Place::default();
        assert!(token.beyond(&nothing).is_empty(), "who claims nothing gets what the token says");
        assert!(token.beyond(&token).is_empty());
        assert!(token.beyond(&place(None, None, &[("disk", "ssd")])).is_empty());
        let claim = place(Some("eu-2"), Some("z1"), &[("disk", "hdd"), ("gpu", "yes"), ("x", "")]);
        let beyond = token.beyond(&claim);
        assert_eq!(beyond, place(Some("eu-2"), None, &[("disk", "hdd"), ("x", "")]));
        assert_eq!(beyond.to_string(), "region eu-2, label disk=hdd, label x=");
        assert_eq!(beyond.flags(), "--region eu-2 --label disk=hdd --label x=");
        // A token that says nothing admits no claim at all.
        assert_eq!(nothing.beyond(&claim), claim);
        assert_eq!(nothing.to_string(), "no region, zone or label");
    }

    #[test]
    fn each_broken_rule_is_named() {
        let mut violations = Violations::default();
        place(Some("EU!"), Some(""), &[("-", "x")]).check(&mut violations);
        let text = violations.finish().unwrap_err().to_string();
        for word in ["region", "zone", "labels"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        for (value, is_good) in [(NEVER, true), ("no", false)] {
            let mut violations = Violations::default();
            place(None, None, &[(VOTE_LABEL, value)]).check(&mut violations);
            assert_eq!(violations.finish().is_ok(), is_good, "{value}");
        }
    }
}
