//! One state of the cluster's wishes, and how changes make the next one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use swarmer_mesh::{
    identity::Standing,
    routing::{RouteRule, RouteTable, RouteTarget},
};
use swarmer_model::{Function, Kind, Node, NodeId, Placement, Revision};

/// A function with everything that serving it needs.
#[derive(Debug, Clone)]
pub(crate) struct FunctionEntry {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// `namespace/name`.
    pub(crate) id: Arc<str>,
    pub(crate) function: Function,
    pub(crate) placement: Placement,
    /// Version and weight, weights above zero.
    pub(crate) weights: Vec<(u32, u32)>,
    /// The revision at which function or placement changed last: who is asked to serve it must
    /// have seen that much.
    pub(crate) changed: Revision,
}

/// All of it at one revision. Parts that did not change are shared with the state before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desired {
    pub(crate) revision: Revision,
    /// By `namespace/name`.
    pub(crate) functions: HashMap<Arc<str>, Arc<FunctionEntry>>,
    pub(crate) nodes: BTreeMap<NodeId, Arc<Node>>,
    placements: HashMap<Arc<str>, Placement>,
    /// Who may speak for and serve what, by function; see [`Desired::stand`].
    pub(crate) standings: HashMap<Arc<str>, Arc<Standing>>,
    pub(crate) routes: Arc<RouteTable>,
}

impl Desired {
    /// The function of this namespace and name.
    pub(crate) fn function(&self, namespace: &str, name: &str) -> Option<&Arc<FunctionEntry>> {
        by_name(&self.functions, namespace, name)
    }

    /// Who may speak for and serve the function of this namespace and name.
    pub(crate) fn standing(&self, namespace: &str, name: &str) -> Option<&Standing> {
        by_name(&self.standings, namespace, name).map(Arc::as_ref)
    }

    /// Notes who may speak for and serve what, and, from the state before, who may finish what it
    /// began.
    pub(crate) fn stand(&mut self, before: &Self, now: Instant) {
        let mut standings = HashMap::with_capacity(self.functions.len());
        for (id, entry) in &self.functions {
            let old = before.standings.get(id);
            let unchanged =
                before.functions.get(id).is_some_and(|before| Arc::ptr_eq(before, entry));
            let next = match old {
                Some(old) if unchanged => Arc::clone(old),
                old => {
                    let placement = &entry.placement;
                    let nodes = placement.nodes.iter().chain(&placement.candidates).copied();
                    let versions = entry.function.status.versions.iter();
                    let components = versions.map(|version| version.template.component);
                    let old = old.map(Arc::as_ref).cloned().unwrap_or_default();
                    Arc::new(old.next(nodes, components, now))
                }
            };
            standings.insert(Arc::clone(id), next);
        }
        for (id, old) in &before.standings {
            if !self.functions.contains_key(id) {
                let next = old.next([], [], now);
                if !next.is_empty() {
                    standings.insert(Arc::clone(id), Arc::new(next));
                }
            }
        }
        self.standings = standings;
    }
    /// The function that has a route for this host and path.
    pub(crate) fn route(&self, host: &str, path: &str) -> Option<&Arc<FunctionEntry>> {
        let target = self.routes.find(host, path)?;
        self.function(&target.namespace, &target.name)
    }

    /// The state after these changes: key and new value, `None` for a deleted key.
    #[must_use]
    pub(crate) fn apply<'a>(
        &self,
        revision: Revision,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Self {
        let mut next = self.clone();
        next.revision = revision;
        let mut routes_changed = false;
        for (key, value) in changes {
            if let Some(id) = key.strip_prefix(Kind::Function.prefix()) {
                next.set_function(id, value.and_then(|value| read_json(key, value)));
                routes_changed = true;
            } else if let Some(id) = key.strip_prefix(Kind::Placement.prefix()) {
                next.set_placement(id, value.and_then(|value| read_json(key, value)));
            } else if let Some(id) = key.strip_prefix(Kind::Node.prefix()) {
                next.set_node(id, key, value);
            }
        }
        if routes_changed {
            next.build_routes();
        }
        next
    }

    fn set_function(&mut self, id: &str, function: Option<Function>) {
        let Some(function) = function else {
            self.functions.remove(id);
            return;
        };
        let placement = self.placements.get(id).cloned().unwrap_or_default();
        let weights = function.weights().iter().map(|t| (t.version, t.weight)).collect();
        let entry = FunctionEntry {
            namespace: function.metadata.namespace.as_str().into(),
            name: function.metadata.name.as_str().into(),
            id: id.into(),
            function,
            placement,
            weights,
            changed: self.revision,
        };
        self.functions.insert(Arc::clone(&entry.id), Arc::new(entry));
    }

    fn set_placement(&mut self, id: &str, placement: Option<Placement>) {
        let placement = placement.unwrap_or_default();
        if let Some(entry) = self.functions.get_mut(id) {
            let entry = Arc::make_mut(entry);
            entry.placement = placement.clone();
            entry.changed = self.revision;
        }
        self.placements.insert(id.into(), placement);
    }

    fn set_node(&mut self, id: &str, key: &str, value: Option<&[u8]>) {
        let Ok(id) = id.parse::<NodeId>() else { return };
        match value.and_then(|value| read_json::<Node>(key, value)) {
            Some(node) => {
                self.nodes.insert(id, Arc::new(node));
            }
            None => {
                self.nodes.remove(&id);
            }
        }
    }

    fn build_routes(&mut self) {
        let mut entries: Vec<&Arc<FunctionEntry>> = self.functions.values().collect();
        // Claims keep two functions from having one route; should it be so all the same, every
        // node must decide alike.
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        let rules: Vec<RouteRule> =
            entries.iter().flat_map(|entry| rules_of(&entry.function)).collect();
        let (table, errors) = RouteTable::build(&rules);
        for error in errors {
            tracing::warn!(target: "swarmer::routes", %error, "a route is left out");
        }
        self.routes = Arc::new(table);
    }
}

/// What stands under `namespace/name`. Names are at most 63 bytes each, so the key fits a small
/// buffer: no allocation here.
fn by_name<'a, T>(all: &'a HashMap<Arc<str>, T>, namespace: &str, name: &str) -> Option<&'a T> {
    let mut buffer = [0_u8; 128];
    let length = namespace.len() + 1 + name.len();
    let key = buffer.get_mut(..length)?;
    key[..namespace.len()].copy_from_slice(namespace.as_bytes());
    key[namespace.len()] = b'/';
    key[namespace.len() + 1..].copy_from_slice(name.as_bytes());
    all.get(std::str::from_utf8(key).ok()?)
}

/// The routes of a function as the mesh takes them.
pub(crate) fn rules_of(function: &Function) -> Vec<RouteRule> {
    let target = RouteTarget {
        namespace: function.metadata.namespace.clone(),
        name: function.metadata.name.clone(),
    };
    let routes = function.spec.routes.iter();
    routes
        .map(|route| RouteRule {
            target: target.clone(),
            hosts: route.hosts.clone(),
            prefixes: vec![route.path.clone()],
        })
        .collect()
}

fn read_json<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    // What a newer version wrote and this one cannot read is left out, and said.
    serde_json::from_slice(value)
        .inspect_err(|error| {
            tracing::error!(target: "swarmer::desired", key, %error, "an entry cannot be read");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Metadata};

    fn function(name: &str, component: &[u8]) -> Vec<u8> {
        let mut function = Function::new(Metadata::named(name), Digest::of(component));
        function.succeed(None, 0);
        serde_json::to_vec(&function).unwrap()
    }

    #[test]
    fn changes_make_the_next_state_and_leave_the_one_before_alone() {
        let empty = Desired::default();
        let value = function("hello", b"1");
        let one = empty.apply(5, [("functions/default/hello", Some(value.as_slice()))]);
        assert!(empty.functions.is_empty());
        let entry = one.route("example", "/hello/x?y").unwrap();
        assert_eq!(&*entry.id, "default/hello");
        assert_eq!(entry.weights, [(1, 1)]);
        assert_eq!(one.revision, 5);
        assert!(one.function("default", "hello").is_some());
        assert!(one.function("default", &"x".repeat(300)).is_none());
        let placement = Placement { nodes: vec![NodeId(7)], ..Placement::default() };
        let placement = serde_json::to_vec(&placement).unwrap();
        let two = one.apply(6, [("placements/default/hello", Some(placement.as_slice()))]);
        assert_eq!(two.function("default", "hello").unwrap().placement.nodes, [NodeId(7)]);
        assert_eq!(two.function("default", "hello").unwrap().changed, 6);
        let again = two.apply(7, [("functions/default/hello", Some(value.as_slice()))]);
        assert_eq!(again.function("default", "hello").unwrap().placement.nodes, [NodeId(7)]);
        let gone = again.apply(8, [("functions/default/hello", None)]);
        assert!(gone.route("example", "/hello").is_none());
    }

    #[test]
    fn an_entry_that_cannot_be_read_harms_no_other() {
        let good = function("hello", b"1");
        let state = Desired::default().apply(
            1,
            [
                ("functions/default/bad", Some(&b"{"[..])),
                ("functions/default/hello", Some(good.as_slice())),
                ("tokens/x", Some(&b"?"[..])),
            ],
        );
        assert_eq!(state.functions.len(), 1);
    }
}
