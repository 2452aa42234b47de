//! What every resource has: `apiVersion`, `kind`, `metadata`, shaped as Kubernetes has it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::Revision,
    names::{Labels, check_label_key, check_label_value, check_name},
    validation::{Invalid, Violations},
};

/// The `apiVersion` of our kinds.
pub const API_VERSION: &str = "swarmer/v1";

/// The namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The most labels, and the most annotations, of one resource: metadata is for people and
/// selectors, and every node holds all of it in memory.
const MAX_LABELS: usize = 32;
/// The longest annotation.
const MAX_ANNOTATION_BYTES: usize = 1024;

/// Name, namespace and revision of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unique for its kind in its namespace: a DNS label.
    pub name: String,
    /// The namespace; `default` if not given.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// For selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// For people and tools; no meaning here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The number of the change that wrote the resource last. An update that carries it is
    /// refused (409) when somebody else wrote in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

impl Metadata {
    /// Metadata of `name` in the default namespace.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: default_namespace(), ..Self::default() }
    }

    pub(crate) fn check(&self, violations: &mut Violations) {
        check_name("metadata.name", &self.name, violations);
        check_name("metadata.namespace", &self.namespace, violations);
        check_labels("metadata.labels", &self.labels, violations);
        if self.annotations.len() > MAX_LABELS {
            violations.add(
                "metadata.annotations",
                self.annotations.len(),
                format!("at most {MAX_LABELS} entries"),
            );
        }
        for (key, value) in &self.annotations {
            check_label_key("metadata.annotations", key, violations);
            if value.len() > MAX_ANNOTATION_BYTES {
                violations.add(
                    &format!("metadata.annotations.{key}"),
                    value,
                    format!("at most {MAX_ANNOTATION_BYTES} bytes"),
                );
            }
        }
    }
}

pub(crate) fn check_labels(field: &str, labels: &Labels, violations: &mut Violations) {
    if labels.len() > MAX_LABELS {
        violations.add(field, labels.len(), format!("at most {MAX_LABELS} entries"));
    }
    for (key, value) in labels {
        check_label_key(field, key, violations);
        check_label_value(&format!("{field}.{key}"), value, violations);
    }
}

/// What all kinds have in common.
pub trait Resource: Serialize + for<'de> Deserialize<'de> + JsonSchema {
    /// The kind, such as `Function`.
    const KIND: &'static str;

    /// The resource's metadata.
    fn metadata(&self) -> &Metadata;

    /// The resource's metadata, to be stamped with the revision.
    fn metadata_mut(&mut self) -> &mut Metadata;

    /// Checks every rule of the kind.
    ///
    /// # Errors
    /// All broken rules, each with field, value and rule.
    fn validate(&self) -> Result<(), Invalid>;
}

/// Checks `apiVersion` and `kind` of a resource.
pub(crate) fn check_head(api: &str, kind: &str, expected: &str, violations: &mut Violations) {
    if api != API_VERSION {
        violations.add("apiVersion", api, API_VERSION);
    }
    if kind != expected {
        violations.add("kind", kind, expected);
    }
}
