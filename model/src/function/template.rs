//! What a version of a function consists of, and its limits.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::route::host_pattern;
use crate::{
    digest::Digest,
    quantity::{ByteSize, Millis},
    validation::Violations,
};

/// The most bytes of all environment names and values together: versions are kept in the
/// control state, whose values are at most 8 KiB with up to [`super::MAX_VERSIONS`] of them.
const MAX_ENV_BYTES: usize = 2048;
/// The most destinations that a function declares.
const MAX_OUTGOING: usize = 32;
/// The least memory: a component's smallest heap and stack.
const MIN_MEMORY: ByteSize = ByteSize::mib(1);
/// The most memory of one instance: what 32-bit WebAssembly can address.
const MAX_MEMORY: ByteSize = ByteSize(4 << 30);
/// The longest time that one request may take.
const MAX_TIMEOUT: Millis = Millis::secs(3600);
/// The most requests at once on one node.
const MAX_CONCURRENCY: u32 = 100_000;

/// The parts of a function that make a version: the same template is the same version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Digest of the component; its bytes are uploaded first.
    pub component: Digest,
    /// The environment that the component sees.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Limits of every instance.
    #[serde(default)]
    pub limits: Limits,
    /// Authorities that it may send HTTP requests to: `host`, `host:port`, `*.suffix` or `*`.
    /// `<name>.internal` needs no declaration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outgoing: Vec<String>,
}

/// Limits, on by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// The sum of an instance's memories.
    pub memory: ByteSize,
    /// Wall clock from the request's arrival to the answer's last byte.
    pub timeout: Millis,
    /// CPU time of one request.
    pub cpu: Millis,
    /// Requests at once on one node; 0 switches the function off.
    pub concurrency: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(64),
            timeout: Millis::secs(30),
            cpu: Millis::secs(10),
            concurrency: 100,
        }
    }
}

impl Template {
    pub(super) fn check(&self, violations: &mut Violations) {
        let env_bytes: usize = self.env.iter().map(|(k, v)| k.len() + v.len()).sum();
        if env_bytes > MAX_ENV_BYTES {
            let rule = format!("at most {MAX_ENV_BYTES} bytes of names and values together");
            violations.add("spec.env", format!("{env_bytes} bytes"), rule);
        }
        for key in self.env.keys() {
            let head = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            if !head || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                violations.add("spec.env", key, "named by letters, digits and '_', no digit first");
            }
        }
        let limits = &self.limits;
        if limits.memory < MIN_MEMORY || limits.memory > MAX_MEMORY {
            let rule = format!("from {MIN_MEMORY} to {MAX_MEMORY}");
            violations.add("spec.limits.memory", limits.memory, rule);
        }
        for (field, value) in
            [("spec.limits.timeout", limits.timeout), ("spec.limits.cpu", limits.cpu)]
        {
            if value.0 == 0 || value > MAX_TIMEOUT {
                violations.add(field, value, format!("above 0 and at most {MAX_TIMEOUT}"));
            }
        }
        if limits.concurrency > MAX_CONCURRENCY {
            let rule = format!("at most {MAX_CONCURRENCY}");
            violations.add("spec.limits.concurrency", limits.concurrency, rule);
        }
        if self.outgoing.len() > MAX_OUTGOING {
            let rule = format!("at most {MAX_OUTGOING} entries");
            violations.add("spec.outgoing", self.outgoing.len(), rule);
        }
        for (i, authority) in self.outgoing.iter().enumerate() {
            if authority != "*" && !host_pattern(authority) {
                violations.add(
                    &format!("spec.outgoing[{i}]"),
                    authority,
                    "a host, host:port, *.suffix or * (no scheme, no path)",
                );
            }
        }
    }
}
