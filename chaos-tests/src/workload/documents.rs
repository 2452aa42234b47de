//! The documents that clients send, and how they read them back.

use std::time::Duration;

use serde_json::{Value, json};
use swarmer_model::Digest;

/// The namespace of the registers.
pub const REGISTERS: &str = "registers";
/// The namespace whose functions are the set.
pub const SET: &str = "set";

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
        json!({
            "apiVersion": "swarmer/v1",
            "kind": "Function",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "annotations": { "value": value.to_string() },
            },
            "spec": {
                "component": self.component,
                "limits": { "concurrency": 0 },
                "routes": [{ "path": format!("/{namespace}/{name}") }],
            },
        })
        .to_string()
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

    /// What a cell holds.
    pub fn value(document: &Value) -> Option<u64> {
        document["metadata"]["annotations"]["value"].as_str()?.parse().ok()
    }
}
