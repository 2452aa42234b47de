//! Leases: one holder at a time, for a bounded time, with a token that fences off earlier holders.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::Revision,
    metadata::{API_VERSION, Metadata, Resource, check_head},
    quantity::Millis,
    validation::{Invalid, Violations},
};

/// The shortest life of a lease: it must outlast an election, or a leader that dies costs holders
/// that did nothing wrong their lease.
pub const MIN_LEASE_TTL: Millis = Millis::secs(2);
/// The longest life of a lease: so long a crashed holder keeps the others out.
pub const MAX_LEASE_TTL: Millis = Millis::secs(3_600);
/// The longest name of a holder, in bytes.
const MAX_HOLDER_BYTES: usize = 128;

/// A lease: whoever holds it is alone with it until it is released or not renewed in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Lease {
    /// Always `swarmer/v1`.
    pub api_version: String,
    /// Always `Lease`.
    pub kind: String,
    /// Name and namespace; `revision` is that of the acquisition or of the last renewal.
    pub metadata: Metadata,
    /// Who holds it.
    pub spec: LeaseSpec,
    /// What the cluster says of it; not part of what is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<LeaseStatus>,
}

/// Who holds a lease, and for how long without a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LeaseSpec {
    /// The holder's own name, for people: what proves the possession is the token.
    pub holder: String,
    /// It ends when it was not renewed for so long, by the leader's monotonic clock.
    pub ttl: Millis,
}

/// What the cluster says of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LeaseStatus {
    /// The fencing token: the revision of the acquisition. Each later holder's is higher, so
    /// whatever is guarded by the lease refuses a token lower than one it has seen.
    pub token: Revision,
}

impl Lease {
    /// A lease in `namespace`.
    pub fn new(namespace: &str, name: &str, spec: LeaseSpec) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
            metadata: Metadata { namespace: namespace.to_owned(), ..Metadata::named(name) },
            spec,
            status: None,
        }
    }

    /// The same with these annotations.
    #[must_use]
    pub fn annotated(mut self, annotations: BTreeMap<String, String>) -> Self {
        self.metadata.annotations = annotations;
        self
    }
}

impl Resource for Lease {
    const KIND: &'static str = "Lease";

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
        let LeaseSpec { holder, ttl } = &self.spec;
        if holder.is_empty()
            || holder.len() > MAX_HOLDER_BYTES
            || holder.chars().any(char::is_control)
        {
            violations.add(
                "spec.holder",
                holder,
                format!("1 to {MAX_HOLDER_BYTES} bytes without control characters"),
            );
        }
        if *ttl < MIN_LEASE_TTL || *ttl > MAX_LEASE_TTL {
            violations.add("spec.ttl", ttl, format!("from {MIN_LEASE_TTL} to {MAX_LEASE_TTL}"));
        }
        violations.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, ttl: Millis) -> Lease {
        Lease::new("shop", "leader", LeaseSpec { holder: holder.to_owned(), ttl })
    }

    #[test]
    fn a_good_lease_and_its_bounds() {
        lease("a", MIN_LEASE_TTL).validate().unwrap();
        lease("a", MAX_LEASE_TTL).validate().unwrap();
        let long = "h".repeat(MAX_HOLDER_BYTES + 1);
        for (bad, field) in [
            (lease("a", Millis(MIN_LEASE_TTL.0 - 1)), "spec.ttl"),
            (lease("a", Millis(MAX_LEASE_TTL.0 + 1)), "spec.ttl"),
            (lease("", MIN_LEASE_TTL), "spec.holder"),
            (lease("a\n", MIN_LEASE_TTL), "spec.holder"),
            (lease(&long, MIN_LEASE_TTL), "spec.holder"),
        ] {
            assert_eq!(bad.validate().unwrap_err().violations[0].field, field);
        }
    }

    #[test]
    fn json_reads_back_and_stores_no_status() {
        let value = serde_json::to_value(lease("a", MIN_LEASE_TTL)).unwrap();
        assert_eq!(value["spec"]["ttl"], "2s");
        assert!(value.get("status").is_none());
        assert_eq!(serde_json::from_value::<Lease>(value).unwrap(), lease("a", MIN_LEASE_TTL));
    }
}
