//! Which function a request goes to: by host, then by the longest path prefix.

use std::{collections::HashMap, sync::Arc};

use swarmer_model::{Code, Coded};

use super::{RegionRules, codes};

/// The most routes (host and prefix pairs) of a cluster: what a few thousand functions need.
pub const MAX_ROUTES: usize = 65_536;
/// The longest path prefix, in bytes.
pub const MAX_PREFIX_BYTES: usize = 1024;
/// The longest host name (RFC 1035).
const MAX_HOST_BYTES: usize = 253;

/// The function that a route leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteTarget {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Routes of one function: each prefix on each host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Where they lead.
    pub target: RouteTarget,
    /// Host names without port; none means every host.
    pub hosts: Vec<String>,
    /// Path prefixes, such as `/hello`. They match on whole segments and are not stripped.
    pub prefixes: Vec<String>,
    /// What they say of the regions that requests go to; none if nothing.
    pub regions: Option<Arc<RegionRules>>,
}

/// Where the route of a request leads.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'a> {
    /// The function.
    pub target: &'a RouteTarget,
    /// What the route says of the regions that requests go to; none if nothing.
    pub regions: Option<&'a Arc<RegionRules>>,
}

/// Why a route cannot stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Another function has it.
    #[error(
        "the route {prefix} on {} of {wanted_by} is already taken by {owner}",
        if host.is_empty() { "every host" } else { host.as_str() }
    )]
    Taken {
        /// The host; empty for every host.
        host: String,
        /// The prefix.
        prefix: String,
        /// Who has it.
        owner: Box<RouteTarget>,
        /// Who wants it.
        wanted_by: Box<RouteTarget>,
    },
    /// A host or prefix is malformed.
    #[error("{value:?} is no {what} of {target}: {rule}")]
    Invalid {
        /// Whose route.
        target: RouteTarget,
        /// `host` or `path prefix`.
        what: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// There are [`MAX_ROUTES`] already.
    #[error("the cluster has {MAX_ROUTES} routes, {target} has no room")]
    Full {
        /// Whose route.
        target: RouteTarget,
    },
}

impl Coded for RouteError {
    fn code(&self) -> Code {
        match self {
            Self::Taken { .. } => codes::ROUTE_TAKEN,
            Self::Invalid { .. } => codes::ROUTE_INVALID,
            Self::Full { .. } => codes::ROUTES_FULL,
        }
    }
}

/// A path segment and what comes below it.
#[derive(Debug, Default)]
struct Segment {
    children: HashMap<Box<str>, usize>,
    target: Option<usize>,
}

/// The routes of one host (or of every host): a tree of path segments.
#[derive(Debug)]
struct Tree {
    segments: Vec<Segment>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { segments: vec![Segment::default()] }
    }
}

impl Tree {
    fn find(&self, prefix: &str) -> Option<usize> {
        let mut at = 0;
        for segment in segments(prefix) {
            at = *self.segments[at].children.get(segment)?;
        }
        self.segments[at].target
    }

    fn insert(&mut self, prefix: &str, target: usize) {
        let mut at = 0;
        for segment in segments(prefix) {
            let next = self.segments.len();
            at = *self.segments[at].children.entry(segment.into()).or_insert(next);
            if at == next {
                self.segments.push(Segment::default());
            }
        }
        self.segments[at].target = Some(target);
    }

    /// The longest prefix of `path` that has a target.
    fn longest(&self, path: &str) -> Option<usize> {
        let mut at = 0;
        let mut best = self.segments[0].target;
        for segment in path.strip_prefix('/')?.split('/') {
            let Some(next) = self.segments[at].children.get(segment) else { break };
            at = *next;
            best = self.segments[at].target.or(best);
        }
        best
    }
}

/// The segments of a prefix; a trailing slash says nothing.
fn segments(prefix: &str) -> impl Iterator<Item = &str> {
    prefix.split('/').filter(|segment| !segment.is_empty())
}

/// All routes of the cluster. Built anew when they change; a match allocates nothing.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// One for each rule: routes of one function may differ in their regions.
    targets: Vec<(RouteTarget, Option<Arc<RegionRules>>)>,
    hosts: HashMap<Box<str>, Tree>,
    any: Tree,
    routes: usize,
}

impl RouteTable {
    /// Builds the table. Rules stand in the order of their right: where two want one route, the
    /// earlier has it and the later is reported, with everything else that cannot stand.
    pub fn build<'a>(rules: impl IntoIterator<Item = &'a RouteRule>) -> (Self, Vec<RouteError>) {
        let mut table = Self::default();
        let mut errors = Vec::new();
        for rule in rules {
            let target = table.targets.len();
            table.targets.push((rule.target.clone(), rule.regions.clone()));
            for (host, prefix) in pairs(rule) {
                match table.check_pair(&rule.target, host, prefix) {
                    Ok(None) => {
                        let host = host.trim_end_matches('.').to_ascii_lowercase();
                        let tree = if host.is_empty() {
                            &mut table.any
                        } else {
                            table.hosts.entry(host.into()).or_default()
                        };
                        tree.insert(prefix, target);
                        table.routes += 1;
                    }
                    Ok(Some(_)) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        (table, errors)
    }

    /// Whether a function could have these routes: the check at deploy. Routes that the same
    /// function has already are its own.
    ///
    /// # Errors
    /// The first route that is taken (naming both functions) or malformed.
    pub fn check(&self, rule: &RouteRule) -> Result<(), RouteError> {
        for (host, prefix) in pairs(rule) {
            self.check_pair(&rule.target, host, prefix)?;
        }
        Ok(())
    }

    /// How many host and prefix pairs there are.
    pub fn len(&self) -> usize {
        self.routes
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// The function for a request, if one has a route for it. `host` may have a port, any case
    /// and a trailing dot; `path` may have a query. A route of this host goes before one of every
    /// host, however long the prefixes.
    pub fn find(&self, host: &str, path: &str) -> Option<Routed<'_>> {
        let path = path.split_once(['?', '#']).map_or(path, |(path, _)| path);
        let mut lower = [0; MAX_HOST_BYTES];
        let of_host = match host_key(host, &mut lower) {
            Some(key) if !self.hosts.is_empty() => self.hosts.get(key),
            _ => None,
        };
        of_host.and_then(|tree| tree.longest(path)).or_else(|| self.any.longest(path)).map(
            |target| {
                let (target, regions) = &self.targets[target];
                Routed { target, regions: regions.as_ref() }
            },
        )
    }

    /// `Some` if the function has the route already.
    fn check_pair(
        &self,
        wanted_by: &RouteTarget,
        host: &str,
        prefix: &str,
    ) -> Result<Option<usize>, RouteError> {
        let invalid = |what, value: &str, rule| RouteError::Invalid {
            target: wanted_by.clone(),
            what,
            value: value.to_owned(),
            rule,
        };
        if !prefix.starts_with('/')
            || prefix.len() > MAX_PREFIX_BYTES
            || prefix.contains("//")
            || prefix
                .bytes()
                .any(|byte| byte <= b' ' || byte >= 0x7f || matches!(byte, b'?' | b'#'))
        {
            let rule = "it starts with '/', has at most 1024 printable ASCII characters, \
                        no '//', '?' or '#'";
            return Err(invalid("path prefix", prefix, rule));
        }
        let mut lower = [0; MAX_HOST_BYTES];
        let tree = if host.is_empty() {
            Some(&self.any)
        } else {
            let good =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            match host_key(host, &mut lower) {
                Some(key) if host.bytes().all(good) && !key.is_empty() => self.hosts.get(key),
                _ => return Err(invalid("host", host, "a DNS name without port")),
            }
        };
        match tree.and_then(|tree| tree.find(prefix)) {
            None if self.routes >= MAX_ROUTES => {
                Err(RouteError::Full { target: wanted_by.clone() })
            }
            None => Ok(None),
            Some(owner) if self.targets[owner].0 == *wanted_by => Ok(Some(owner)),
            Some(owner) => Err(RouteError::Taken {
                host: host.to_owned(),
                prefix: prefix.to_owned(),
                owner: Box::new(self.targets[owner].0.clone()),
                wanted_by: Box::new(wanted_by.clone()),
            }),
        }
    }
}

fn pairs(rule: &RouteRule) -> impl Iterator<Item = (&str, &str)> {
    let every = rule.hosts.is_empty().then_some("");
    let hosts = rule.hosts.iter().map(String::as_str).chain(every);
    hosts.flat_map(|host| rule.prefixes.iter().map(move |prefix| (host, prefix.as_str())))
}

/// The host without port and trailing dot, in lower case; `None` if it is too long to be one.
fn host_key<'a>(host: &str, lower: &'a mut [u8; MAX_HOST_BYTES]) -> Option<&'a str> {
    let name = if host.starts_with('[') {
        host.split_inclusive(']').next()?
    } else {
        host.split(':').next()?
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use swarmer_model::Failover;

    use super::*;

    fn rule(name: &str, hosts: &[&str], prefixes: &[&str]) -> RouteRule {
        RouteRule {
            target: RouteTarget { namespace: "default".into(), name: name.into() },
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            regions: None,
        }
    }

    fn find<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
        table.find(host, path).map(|routed| routed.target.name.as_str())
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let rules = [
            rule("hello", &[], &["/hello"]),
            rule("deep", &[], &["/hello/deep/"]),
            rule("hosted", &["Example.com"], &["/hello"]),
        ];
        let (table, errors) = RouteTable::build(&rules);
        assert!(errors.is_empty(), "{errors:?}");
        for (host, path, expected) in [
            ("x", "/hello", Some("hello")),
            ("x", "/hello/", Some("hello")),
            ("x", "/hello?a=/deep", Some("hello")),
            ("x", "/hello/x/y", Some("hello")),
            ("x", "/hellox", None),
            ("x", "/", None),
            ("x", "", None),
            ("x", "*", None),
            ("x", "//hello", None),
            ("x", "/hello/deep/er", Some("deep")),
            ("EXAMPLE.com:8080", "/hello/deep", Some("hosted")),
            ("example.com.", "/hello", Some("hosted")),
            ("[::1]:80", "/hello", Some("hello")),
        ] {
            assert_eq!(find(&table, host, path), expected, "{host} {path}");
        }
    }

    #[test]
    fn a_host_without_a_match_falls_back_to_every_host() {
        let rules = [rule("root", &[], &["/"]), rule("hosted", &["a.example"], &["/only"])];
        let (table, _) = RouteTable::build(&rules);
        assert_eq!(find(&table, "a.example", "/only"), Some("hosted"));
        assert_eq!(find(&table, "a.example", "/other"), Some("root"));
    }

    #[test]
    fn routes_of_one_function_may_differ_in_their_regions() {
        let failover = Failover { from: "eu".into(), to: vec!["us".into()] };
        let named = RegionRules::new(&[failover], &[]).map(Arc::new);
        let rules = [
            rule("f", &[], &["/a"]),
            RouteRule { regions: named.clone(), ..rule("f", &[], &["/b"]) },
        ];
        let (table, errors) = RouteTable::build(&rules);
        assert!(errors.is_empty(), "{errors:?}");
        let regions = |path| table.find("x", path).unwrap().regions.cloned();
        assert_eq!((regions("/a"), regions("/b/c")), (None, named));
        assert_eq!(RegionRules::new(&[], &[]), None);
    }

    #[test]
    fn a_taken_route_names_both_owners() {
        let (table, errors) =
            RouteTable::build(&[rule("first", &[], &["/a"]), rule("second", &[], &["/a/"])]);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].code().status, 409);
        let text = errors[0].to_string();
        assert!(text.contains("default/first") && text.contains("default/second"), "{text}");
        assert_eq!(find(&table, "", "/a"), Some("first"));
        assert!(table.check(&rule("first", &[], &["/a"])).is_ok());
        assert!(table.check(&rule("third", &[], &["/a"])).is_err());
        assert!(table.check(&rule("third", &["h"], &["/a"])).is_ok());
    }

    #[test]
    fn malformed_routes_are_refused() {
        let (table, _) = RouteTable::build(&[]);
        for prefix in ["", "a", "//", "/a//b", "/a?b", "/a b", "/ä"] {
            assert!(table.check(&rule("x", &[], &[prefix])).is_err(), "{prefix}");
        }
        for host in ["a:80", "a b", "[::1]", "."] {
            assert!(table.check(&rule("x", &[host], &["/a"])).is_err(), "{host}");
        }
    }

    fn prefix() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{1,2}", 0..4).prop_map(|s| format!("/{}", s.join("/")))
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_trying_every_prefix(
            prefixes in prop::collection::btree_set(prefix(), 0..8),
            path in prefix(),
        ) {
            let rules: Vec<RouteRule> =
                prefixes.iter().map(|prefix| rule(prefix, &[], &[prefix])).collect();
            let (table, errors) = RouteTable::build(&rules);
            prop_assert!(errors.is_empty());
            let expected = prefixes
                .iter()
                .filter(|prefix| {
                    *prefix == "/" || path == **prefix || path.starts_with(&format!("{prefix}/"))
                })
                .max_by_key(|prefix| prefix.len())
                .map(String::as_str);
            prop_assert_eq!(find(&table, "", &path), expected);
        }

        #[test]
        fn no_host_or_path_panics(host in ".{0,300}", path in ".{0,100}") {
            let (table, _) = RouteTable::build(&[rule("r", &["a"], &["/"])]);
            let _ = table.find(&host, &path);
            let _ = table.check(&rule("x", &[&host], &[&path]));
        }
    }
}
