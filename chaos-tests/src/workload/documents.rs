//! The documents that clients send, and how they read them back.

use std::time::Duration;

use serde_json::{Value, json};
use swarmer_model::Digest;

use crate::history::Rule;

/// The namespace of the registers.
pub const REGISTERS: &str = "registers";
/// The namespace whose functions are the set.
pub const SET: &str = "set";

/// The namespace whose functions are the lists.
pub const LISTS: &str = "lists";

/// The namespace of functions that are placed by rules that change.
pub(super) const PLACED: &str = "placed";

/// Makes documents of functions that run one component. Cheap to clone.
#[derive(Debug, Clone, Copy)]
pub struct Documents {
    component: Digest,
}

/// The key of a register in histories: as watches tell it.
pub fn key_of(name: &str) -> String {
    format!("functions/{REGISTERS}/{name}")
}

impl Documents {
    /// Of functions that run the component with these bytes.
    pub fn of(component: &[u8]) -> Self {
        Self { component: Digest::of(component) }
    }

    /// The path that the component is uploaded to.
    pub fn upload(&self) -> String {
        format!("/v1/artifacts/{}", self.component)
    }

    /// The path of a function.
    pub fn path(namespace: &str, name: &str) -> String {
        format!("/v1/namespaces/{namespace}/functions/{name}")
    }

    /// A function that no request reaches, with a number as annotation.
    pub fn cell(&self, namespace: &str, name: &str, value: u64) -> String {
        self.silent(namespace, name, &value.to_string()).to_string()
    }

    /// A function that no request reaches, with numbers as annotation, to be put at the revision
    /// that was seen; 0: there was none.
    pub fn list(&self, namespace: &str, name: &str, values: &[u64], seen: u64) -> Value {
        let values: Vec<String> = values.iter().map(u64::to_string).collect();
        let mut document = self.silent(namespace, name, &values.join(" "));
        document["metadata"]["revision"] = seen.into();
        document
    }

    fn silent(&self, namespace: &str, name: &str, annotation: &str) -> Value {
        json!({
            "apiVersion": "swarmer/v1",
            "kind": "Function",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "annotations": { "value": annotation },
            },
            "spec": {
                "component": self.component,
                "limits": { "concurrency": 0 },
                "routes": [{ "path": format!("/{namespace}/{name}") }],
            },
        })
    }

    /// A function that no request reaches, placed by this rule; a change of the rule is no new version.
    pub fn placed(&self, name: &str, rule: &Rule) -> String {
        let mut document = self.silent(PLACED, name, "");
        document["spec"]["placement"] = json!({
            "replicas": rule.replicas,
            "memory": rule.memory.to_string(),
            "priority": rule.priority,
            "regions": rule.regions,
            "zones": rule.zones,
            "labels": rule.labels,
            "near": rule.near,
            "apart": rule.apart,
        });
        document.to_string()
    }

    /// A function that serves, whose version differs by `version`.
    pub fn service(&self, name: &str, version: u64, replicas: usize, timeout: Duration) -> String {
        json!({
            "apiVersion": "swarmer/v1",
            "kind": "Function",
            "metadata": { "name": name },
            "spec": {
                "component": self.component,
                "env": { "VERSION": version.to_string() },
                "limits": { "timeout": format!("{}s", timeout.as_secs()) },
                "placement": { "replicas": replicas },
            },
        })
        .to_string()
    }

    /// The annotation of a list or cell.
    pub fn text(document: &Value) -> Option<&str> {
        document["metadata"]["annotations"]["value"].as_str()
    }

    /// What a list holds.
    pub fn values(document: &Value) -> Option<Vec<u64>> {
        Self::text(document)?.split_whitespace().map(|value| value.parse().ok()).collect()
    }

    /// What a cell holds.
    pub fn value(document: &Value) -> Option<u64> {
        Self::text(document)?.parse().ok()
    }
}
