//! Regions: what an operator said of all nodes of one at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    metadata::{API_VERSION, Metadata, Resource, check_head},
    validation::{Invalid, Violations},
};

/// The longest reason of a drain, in bytes: a sentence for whoever comes next.
const MAX_REASON_BYTES: usize = 256;

/// What an operator said of a region. There is none of a region of which nobody said anything, and it
/// outlives the region's nodes: one that joins a drained region is drained too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Region {
    /// Always `swarmer/v1`.
    pub api_version: String,
    /// Always `Region`.
    pub kind: String,
    /// The region's name; regions are in the namespace `default`.
    pub metadata: Metadata,
    /// What was said.
    pub spec: RegionSpec,
}

/// What was said of a region, when and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegionSpec {
    /// All its nodes are emptied, those too that join it later.
    pub drained: bool,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is as it is: by the clock of the node that was asked, in milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
    /// The id of the token that asked for it; none where the API wants no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What a region's nodes are asked to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionState {
    /// Nobody said anything.
    #[default]
    Open,
    /// Its nodes are emptied.
    Drained,
    /// It was drained, and takes work again: what left it comes back.
    Resumed,
}

impl Region {
    /// What was said of the region of this name.
    pub fn new(name: impl Into<String>, spec: RegionSpec) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
            metadata: Metadata::named(name),
            spec,
        }
    }

    /// What its nodes are asked to do.
    pub fn state(&self) -> RegionState {
        if self.spec.drained { RegionState::Drained } else { RegionState::Resumed }
    }
}

impl Resource for Region {
    const KIND: &'static str = "Region";

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    fn validate(&self) -> Result<(), Invalid> {
        let mut violations = Violations::default();
        check_head(&self.api_version, &self.kind, Self::KIND, &mut violations);
        self.metadata.check(&mut violations);
        if let Some(reason) = &self.spec.reason
            && (reason.is_empty()
                || reason.len() > MAX_REASON_BYTES
                || reason.chars().any(char::is_control))
        {
            let rule = format!("1 to {MAX_REASON_BYTES} bytes of text in one line");
            violations.add("spec.reason", reason, rule);
        }
        violations.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(reason: Option<&str>) -> Region {
        let reason = reason.map(str::to_owned);
        Region::new("eu-1", RegionSpec { drained: true, reason, ..RegionSpec::default() })
    }

    #[test]
    fn a_good_region_and_its_faults() {
        assert_eq!(drained(None).validate(), Ok(()));
        assert_eq!(drained(Some("power work until ten")).validate(), Ok(()));
        let long = "x".repeat(MAX_REASON_BYTES + 1);
        for bad in ["", "two\nlines", &long] {
            let invalid = drained(Some(bad)).validate().unwrap_err();
            assert_eq!(invalid.violations[0].field, "spec.reason");
        }
        let mut bad = drained(None);
        bad.metadata.name = "Europe!".into();
        assert_eq!(bad.validate().unwrap_err().violations[0].field, "metadata.name");
    }

    #[test]
    fn what_was_said_is_read_as_it_was_written_and_nothing_else_is() {
        let region = drained(Some("power work"));
        let text = serde_json::to_string(&region).unwrap();
        assert_eq!(serde_json::from_str::<Region>(&text).unwrap(), region);
        assert_eq!(region.state(), RegionState::Drained);
        let text = text.replace("\"drained\":true", "\"drained\":false");
        assert_eq!(serde_json::from_str::<Region>(&text).unwrap().state(), RegionState::Resumed);
        let text = text.replace("\"drained\":false,", "");
        assert!(serde_json::from_str::<Region>(&text).is_err(), "nothing is drained by default");
    }
}
