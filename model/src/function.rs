//! Functions: a WebAssembly component that answers HTTP requests, with its versions.

mod route;
mod rule;
mod template;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    ids::Revision,
    metadata::{API_VERSION, Metadata, Resource, check_head},
    validation::{Invalid, Violations},
};

pub use route::{Distribute, Failover, Route};
pub use rule::PlacementRule;
pub use template::{Limits, Template};

/// The most versions that a function keeps for `rollout undo`; older ones are forgotten.
const MAX_VERSIONS: usize = 10;
/// The most bytes of a function as JSON: a value of the desired state has at most 8 KiB. Old
/// versions without traffic go first when a new one needs the room.
const MAX_FUNCTION_BYTES: usize = 7 * 1024;

/// A function: what users deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Function {
    /// Always `swarmer/v1`.
    pub api_version: String,
    /// Always `Function`.
    pub kind: String,
    /// Name, namespace, labels, revision.
    pub metadata: Metadata,
    /// What the user wants.
    pub spec: FunctionSpec,
    /// What the cluster keeps of it; ignored in what users send.
    #[serde(default)]
    pub status: FunctionStatus,
}

/// What the user wants of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FunctionSpec {
    /// What a version consists of. A change of it makes a new version.
    #[serde(flatten)]
    pub template: Template,
    /// Where requests come in; the path prefix `/<name>` if none is given.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Where copies run.
    #[serde(default)]
    pub placement: PlacementRule,
    /// The share of each version; all to the newest if none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
}

impl FunctionSpec {
    /// Every region that it names, where it may run and in its routes, once each.
    pub fn regions(&self) -> Vec<String> {
        let of_routes = self.routes.iter().flat_map(Route::regions);
        let mut regions: Vec<String> = Vec::new();
        for region in self.placement.regions.iter().chain(of_routes) {
            if !regions.contains(region) {
                regions.push(region.clone());
            }
        }
        regions
    }
}

/// The share of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficTarget {
    /// Number of the version.
    pub version: u32,
    /// Its share, relative to the sum of all weights.
    pub weight: u32,
}

/// What the cluster keeps of a function.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FunctionStatus {
    /// The last versions, oldest first.
    pub versions: Vec<Version>,
}

/// One version: a template under a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Counts from 1; never used again for another template.
    pub number: u32,
    /// The cluster's revision just before the version was made.
    pub since_revision: Revision,
    /// What the version is.
    #[serde(flatten)]
    pub template: Template,
}

impl Version {
    /// For people and the header `x-swarmer-version`: number and start of the digest.
    pub fn label(&self) -> String {
        format!("{}-{}", self.number, self.template.component.short())
    }
}

impl Function {
    /// A function with this component and everything else by default.
    pub fn new(metadata: Metadata, component: Digest) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
            metadata,
            spec: FunctionSpec {
                template: Template {
                    component,
                    env: BTreeMap::new(),
                    limits: Limits::default(),
                    outgoing: Vec::new(),
                },
                routes: Vec::new(),
                placement: PlacementRule::default(),
                traffic: Vec::new(),
            },
            status: FunctionStatus::default(),
        }
    }

    /// Namespace and name, as endpoints name it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// The version with this number, if it is still kept.
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.status.versions.iter().find(|v| v.number == number)
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&Version> {
        self.status.versions.last()
    }

    /// The share of each version, with the default filled in; weights of zero left out.
    pub fn weights(&self) -> Vec<TrafficTarget> {
        if self.spec.traffic.is_empty() {
            let newest = self.newest().map(|v| TrafficTarget { version: v.number, weight: 1 });
            return newest.into_iter().collect();
        }
        self.spec.traffic.iter().copied().filter(|t| t.weight > 0).collect()
    }

    /// Fills in what `previous` knew: versions and, without a route, the default one; makes a new
    /// version if the template is new. `serving` are the versions that are served right now: they
    /// are kept, whatever the new weights say. Call it once on what a user sent, before it is
    /// committed.
    pub fn succeed(&mut self, previous: Option<&Self>, serving: &[u32], revision: Revision) {
        self.status = previous.map(|p| p.status.clone()).unwrap_or_default();
        if self.spec.routes.is_empty() {
            let path = format!("/{}", self.metadata.name);
            self.spec.routes.push(Route { path, ..Route::default() });
        }
        let known = self.status.versions.iter().position(|v| v.template == self.spec.template);
        let newest = self.status.versions.last().map_or(0, |v| v.number);
        match known {
            // Deploying a template again is going (back) to the version that it already is.
            Some(at) => {
                let number = self.status.versions[at].number;
                if self.spec.traffic.is_empty() && number != newest {
                    self.spec.traffic = vec![TrafficTarget { version: number, weight: 1 }];
                }
            }
            None => {
                let template = self.spec.template.clone();
                self.status.versions.push(Version {
                    number: newest + 1,
                    since_revision: revision,
                    template,
                });
                let weights = self.weights();
                let weighted = |number| weights.iter().any(|target| target.version == number);
                while self.status.versions.len() > MAX_VERSIONS || self.too_large() {
                    // The newest two stay: the one just made and the one to go back to.
                    let kept = self.status.versions.len().saturating_sub(2);
                    let old = self.status.versions[..kept].iter();
                    let dispensable = |n: u32| !weighted(n) && !serving.contains(&n);
                    let Some(at) = old.map(|v| v.number).position(dispensable) else { break };
                    self.status.versions.remove(at);
                }
            }
        }
    }

    fn too_large(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|json| json.len() > MAX_FUNCTION_BYTES)
    }

    /// Turns back to the version before the one that serves now: its template becomes the wanted
    /// one and all traffic goes to it.
    ///
    /// # Errors
    /// There is no version before.
    pub fn undo(&mut self) -> Result<u32, Invalid> {
        let now = self.weights().iter().map(|t| t.version).max().unwrap_or(0);
        let before = self.status.versions.iter().rev().find(|v| v.number < now).cloned();
        let Some(before) = before else {
            return Err(Invalid::one(
                "status.versions",
                now,
                "preceded by a version to go back to; there is none",
            ));
        };
        self.spec.template = before.template;
        self.spec.traffic = vec![TrafficTarget { version: before.number, weight: 1 }];
        Ok(before.number)
    }
}

impl Resource for Function {
    const KIND: &'static str = "Function";

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
        self.spec.template.check(&mut violations);
        route::check(&self.spec.routes, &self.spec.placement.regions, &mut violations);
        self.spec.placement.check(&self.metadata.name, &mut violations);
        if self.spec.traffic.len() > MAX_VERSIONS {
            let rule = format!("at most {MAX_VERSIONS} entries");
            violations.add("spec.traffic", self.spec.traffic.len(), rule);
        }
        for (i, target) in self.spec.traffic.iter().enumerate() {
            let field = format!("spec.traffic[{i}].version");
            if self.version(target.version).is_none() {
                violations.add(&field, target.version, "the number of a version that is kept");
            }
        }
        if !self.spec.traffic.is_empty() && self.weights().is_empty() {
            violations.add("spec.traffic", "all weights are 0", "at least one weight above 0");
        }
        if self.too_large() {
            let rule = format!("at most {MAX_FUNCTION_BYTES} bytes as JSON, versions included");
            violations.add("spec", "too large", rule);
        }
        violations.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::ByteSize;

    fn function(component: &[u8]) -> Function {
        Function::new(Metadata::named("hello"), Digest::of(component))
    }

    #[test]
    fn a_new_template_is_a_new_version_and_undo_goes_back() {
        let mut v1 = function(b"1");
        v1.succeed(None, &[], 10);
        assert_eq!(v1.spec.routes[0].path, "/hello");
        assert_eq!(v1.weights(), [TrafficTarget { version: 1, weight: 1 }]);
        let mut v2 = function(b"2");
        v2.succeed(Some(&v1), &[], 11);
        assert_eq!(v2.weights(), [TrafficTarget { version: 2, weight: 1 }]);
        assert_eq!(v2.undo(), Ok(1));
        assert_eq!(v2.weights(), [TrafficTarget { version: 1, weight: 1 }]);
        assert_eq!(v2.spec.template, v1.spec.template);
        assert!(v2.clone().undo().is_err());
        // The same bytes again are version 2 again, not a third one.
        let mut again = function(b"2");
        again.succeed(Some(&v2), &[], 12);
        assert_eq!(again.status.versions.len(), 2);
        assert_eq!(again.weights(), [TrafficTarget { version: 2, weight: 1 }]);
        let mut first = function(b"1");
        first.succeed(Some(&again), &[], 13);
        assert_eq!(first.weights(), [TrafficTarget { version: 1, weight: 1 }]);
    }

    #[test]
    fn versions_are_bounded_and_a_version_with_traffic_is_kept() {
        let mut now = function(b"0");
        now.succeed(None, &[], 1);
        for i in 1u8..30 {
            let mut next = function(&[i]);
            next.spec.traffic = vec![TrafficTarget { version: 1, weight: 1 }];
            next.succeed(Some(&now), &[], u64::from(i));
            assert_eq!(next.validate(), Ok(()));
            now = next;
        }
        assert_eq!(now.status.versions.len(), MAX_VERSIONS);
        assert!(now.version(1).is_some());
        assert_eq!(now.newest().map(|v| v.number), Some(30));
    }

    #[test]
    fn what_is_served_is_kept_through_deploys_that_never_came_to_serve() {
        let mut now = function(b"0");
        now.succeed(None, &[], 1);
        for i in 1u8..30 {
            let mut next = function(&[i]);
            next.succeed(Some(&now), &[1], u64::from(i));
            now = next;
        }
        assert_eq!(now.status.versions.len(), MAX_VERSIONS);
        assert!(now.version(1).is_some(), "it answers requests");
        let mut next = function(b"large");
        next.spec.template.env.insert("BIG".into(), "x".repeat(1900));
        next.succeed(Some(&now), &[1], 40);
        assert!(next.version(1).is_some());
    }

    #[test]
    fn a_large_environment_costs_old_versions_not_the_update() {
        let mut now = function(b"0");
        now.succeed(None, &[], 1);
        for i in 1u8..10 {
            let mut next = function(&[i]);
            next.spec.template.env.insert("BIG".into(), "x".repeat(1900));
            next.succeed(Some(&now), &[], u64::from(i));
            assert_eq!(next.validate(), Ok(()));
            now = next;
        }
        let kept: Vec<u32> = now.status.versions.iter().map(|v| v.number).collect();
        assert_eq!(kept, [9, 10]);
    }

    #[test]
    fn each_broken_rule_names_field_and_value() {
        let mut bad = function(b"x");
        bad.metadata.name = "No Name".into();
        bad.spec.template.limits.memory = ByteSize(1);
        bad.spec.template.env.insert("1X".into(), String::new());
        bad.spec.template.outgoing = vec!["https://example.com/".into()];
        bad.spec.routes = vec![
            Route { path: "shop".into(), ..Route::default() },
            Route { path: "/a/../b".into(), hosts: vec!["EXAMPLE".into()], ..Route::default() },
            Route { path: "/a/".into(), ..Route::default() },
        ];
        bad.spec.placement.replicas = 0;
        bad.spec.traffic = vec![TrafficTarget { version: 9, weight: 0 }];
        let invalid = bad.validate().unwrap_err();
        let fields: Vec<&str> = invalid.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "spec.env",
                "spec.limits.memory",
                "spec.outgoing[0]",
                "spec.routes[0].path",
                "spec.routes[1].path",
                "spec.routes[1].hosts",
                "spec.routes[2].path",
                "spec.placement.replicas",
                "spec.traffic[0].version",
                "spec.traffic",
            ]
        );
    }

    #[test]
    fn the_root_route_and_ports_are_good() {
        let mut good = function(b"x");
        let hosts = vec!["shop.example".into()];
        good.spec.routes = vec![Route { path: "/".into(), hosts, ..Route::default() }];
        good.spec.template.outgoing =
            ["api.example.com", "localhost:8080", "*.example.com", "*"].map(String::from).into();
        assert_eq!(good.validate(), Ok(()));
    }

    #[test]
    fn json_is_kubernetes_shaped() {
        let text = format!(
            r#"{{"apiVersion":"swarmer/v1","kind":"Function","metadata":{{"name":"hello"}},
               "spec":{{"component":"{}","limits":{{"memory":"32MiB","timeout":"5s"}}}}}}"#,
            Digest::of(b"x")
        );
        let function: Function = serde_json::from_str(&text).unwrap();
        assert_eq!(function.spec.template.limits.memory, ByteSize::mib(32));
        assert_eq!(function.spec.template.limits.concurrency, 100);
        let again: Function =
            serde_json::from_value(serde_json::to_value(&function).unwrap()).unwrap();
        assert_eq!(again, function);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = format!(
            r#"{{"apiVersion":"swarmer/v1","kind":"Function","metadata":{{"name":"hello"}},
               "spec":{{"component":"{}","limtis":{{}}}}}}"#,
            Digest::of(b"x")
        );
        let error = serde_json::from_str::<Function>(&text).unwrap_err().to_string();
        assert!(error.contains("limtis"), "{error}");
    }
}
