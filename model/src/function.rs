//! Functions: a WebAssembly component that answers HTTP requests, with its versions.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    ids::Revision,
    metadata::{API_VERSION, Metadata, Resource, check_labels},
    names::{Labels, check_name},
    quantity::{ByteSize, Millis},
    validation::{Invalid, Violations},
};

/// The most versions that a function keeps for `rollout undo`; older ones are forgotten.
const MAX_VERSIONS: usize = 10;
/// The most bytes of a function as JSON: a value of the desired state has at most 8 KiB. Old
/// versions without traffic go first when a new one needs the room.
const MAX_FUNCTION_BYTES: usize = 7 * 1024;
/// The most routes of one function.
const MAX_ROUTES: usize = 16;
/// The most host names of one route.
const MAX_HOSTS: usize = 16;
/// The longest path prefix.
const MAX_PATH_BYTES: usize = 256;
/// The most bytes of all environment names and values together: versions are kept in the
/// control state, whose values are at most 8 KiB with up to [`MAX_VERSIONS`] of them.
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
/// The most copies.
const MAX_REPLICAS: u32 = 1000;

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

/// Where requests come in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A path prefix, matched on whole segments and kept, not stripped.
    pub path: String,
    /// Host names; every host if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
}

impl Default for PlacementRule {
    fn default() -> Self {
        Self { replicas: 2, regions: Vec::new(), zones: Vec::new(), labels: Labels::new() }
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
            self.spec.routes.push(Route { path, hosts: Vec::new() });
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
        self.spec.check_routes(&mut violations);
        self.spec.placement.check(&mut violations);
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

pub(crate) fn check_head(api: &str, kind: &str, expected: &str, violations: &mut Violations) {
    if api != API_VERSION {
        violations.add("apiVersion", api, API_VERSION);
    }
    if kind != expected {
        violations.add("kind", kind, expected);
    }
}

impl Template {
    fn check(&self, violations: &mut Violations) {
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

impl FunctionSpec {
    fn check_routes(&self, violations: &mut Violations) {
        if self.routes.len() > MAX_ROUTES {
            let rule = format!("at most {MAX_ROUTES} entries");
            violations.add("spec.routes", self.routes.len(), rule);
        }
        for (i, route) in self.routes.iter().enumerate() {
            let path = &route.path;
            let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\');
            let segments = path.split('/').skip(1);
            let dots = segments.clone().any(|s| s == "." || s == "..");
            let empty = path != "/" && segments.clone().any(str::is_empty);
            if !path.starts_with('/')
                || path.len() > MAX_PATH_BYTES
                || !path.bytes().all(plain)
                || dots
                || empty
            {
                violations.add(
                    &format!("spec.routes[{i}].path"),
                    path,
                    format!(
                        "a path prefix such as /shop: starting with '/', not ending with it, \
                         at most {MAX_PATH_BYTES} plain characters, without empty, '.' or '..' segments"
                    ),
                );
            }
            if route.hosts.len() > MAX_HOSTS {
                let rule = format!("at most {MAX_HOSTS} entries");
                violations.add(&format!("spec.routes[{i}].hosts"), route.hosts.len(), rule);
            }
            for host in &route.hosts {
                if host.starts_with('*') || host.contains(':') || !host_pattern(host) {
                    violations.add(
                        &format!("spec.routes[{i}].hosts"),
                        host,
                        "a host name in lower case, without a port",
                    );
                }
            }
        }
    }
}

fn host_pattern(text: &str) -> bool {
    let text = text.strip_prefix("*.").unwrap_or(text);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    host.len() <= 253
        && host.split('.').all(label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl PlacementRule {
    fn check(&self, violations: &mut Violations) {
        if self.replicas == 0 || self.replicas > MAX_REPLICAS {
            let rule = format!("from 1 to {MAX_REPLICAS}");
            violations.add("spec.placement.replicas", self.replicas, rule);
        }
        for (field, names) in
            [("spec.placement.regions", &self.regions), ("spec.placement.zones", &self.zones)]
        {
            if names.len() > MAX_HOSTS {
                violations.add(field, names.len(), format!("at most {MAX_HOSTS} entries"));
            }
            for name in names {
                check_name(field, name, violations);
            }
        }
        check_labels("spec.placement.labels", &self.labels, violations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            Route { path: "shop".into(), hosts: vec![] },
            Route { path: "/a/../b".into(), hosts: vec!["EXAMPLE".into()] },
            Route { path: "/a/".into(), hosts: vec![] },
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
        good.spec.routes = vec![Route { path: "/".into(), hosts: vec!["shop.example".into()] }];
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
