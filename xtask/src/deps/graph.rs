//! The build graph, as `cargo metadata` tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

/// A package that is built.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
    /// Where it comes from; `None`: a path.
    pub(crate) source: Option<String>,
    /// It belongs to this workspace.
    pub(crate) member: bool,
    /// What its manifest names, used on this platform or not.
    pub(crate) dependencies: Vec<Dependency>,
    /// The features that are on if nobody asks for any.
    pub(crate) features: Vec<String>,
}

/// A dependency in a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) dev: bool,
    pub(crate) path: Option<String>,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Every package that is built for or with the workspace.
#[derive(Debug)]
pub(crate) struct Graph {
    packages: Vec<Package>,
}

impl Graph {
    #[cfg(test)]
    pub(crate) fn of(packages: Vec<Package>) -> Self {
        Self { packages }
    }

    /// Reads what `cargo metadata --format-version 1` prints.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let metadata: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let members: BTreeSet<&str> =
            list(&metadata, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut features: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"], "nodes")? {
            let to = list(node, "dependencies")?.iter().filter_map(Value::as_str).collect();
            let on = node["features"].as_array().into_iter().flatten().filter_map(Value::as_str);
            features.insert(text(node, "id")?, on.map(str::to_owned).collect());
            edges.insert(text(node, "id")?, to);
        }
        let mut built = members.clone();
        let mut next: Vec<&str> = members.iter().copied().collect();
        while let Some(id) = next.pop() {
            for to in edges.get(id).into_iter().flatten() {
                if built.insert(to) {
                    next.push(to);
                }
            }
        }
        let mut packages = Vec::new();
        for package in list(&metadata, "packages")? {
            let id = text(package, "id")?;
            if built.contains(id) {
                let features = features.remove(id).unwrap_or_default();
                packages.push(read(package, members.contains(id), features)?);
            }
        }
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(Self { packages })
    }

    pub(crate) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.packages.len()
    }
}

fn read(package: &Value, member: bool, features: Vec<String>) -> Result<Package, String> {
    let optional = |value: &Value| value.as_str().map(str::to_owned);
    let mut dependencies = Vec::new();
    for dependency in list(package, "dependencies")? {
        dependencies.push(Dependency {
            name: text(dependency, "name")?.to_owned(),
            dev: dependency["kind"].as_str() == Some("dev"),
            path: optional(&dependency["path"]),
        });
    }
    Ok(Package {
        name: text(package, "name")?.to_owned(),
        version: text(package, "version")?.to_owned(),
        licence: optional(&package["license"]),
        source: optional(&package["source"]),
        member,
        dependencies,
        features,
    })
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value[key].as_array().ok_or_else(|| format!("metadata without the list {key:?}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or_else(|| format!("metadata without the text {key:?}"))
}
