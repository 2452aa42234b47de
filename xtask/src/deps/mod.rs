//! What we build from, against our rules.

mod graph;
mod rules;
mod spdx;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::{graph::Graph, rules::Rules};
use self::{graph::Package, spdx::Licence};

/// Every fault, one line each.
pub(crate) fn check(graph: &Graph, rules: &Rules) -> Vec<String> {
    let mut faults = Vec::new();
    for package in graph.packages() {
        faults.extend(licence(package, rules));
        faults.extend(banned(package, rules));
        faults.extend(source(package));
        faults.extend(planted(package));
    }
    faults.extend(duplicates(graph, rules));
    faults.extend(rooms(graph, rules));
    faults
}

fn licence(package: &Package, rules: &Rules) -> Option<String> {
    let Some(text) = &package.licence else {
        return Some(format!("{package}: states no licence"));
    };
    let excepted = |id: &str| {
        rules
            .licence_exceptions
            .iter()
            .any(|(name, licence, _)| *name == package.name && *licence == id)
    };
    match Licence::parse(text) {
        Err(error) => Some(format!("{package}: licence {text:?} is no SPDX expression: {error}")),
        Ok(licence) => {
            let allowed = |id: &str| rules.licences.contains(&id) || excepted(id);
            (!licence.is_allowed(&allowed))
                .then(|| format!("{package}: licence {text} is not allowed"))
        }
    }
}

fn banned(package: &Package, rules: &Rules) -> Option<String> {
    let (_, reason) = rules.banned.iter().find(|(name, _)| *name == package.name)?;
    Some(format!("{package}: banned: {reason}"))
}

fn source(package: &Package) -> Option<String> {
    const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
    match package.source.as_deref() {
        Some(REGISTRY) => None,
        Some(other) => Some(format!("{package}: comes from {other}, not from crates.io")),
        None if package.member => None,
        None => Some(format!("{package}: a path outside of the workspace")),
    }
}

/// Known bugs are for a build that asks for them, never for what is built by default.
fn planted(package: &Package) -> Option<String> {
    let on = package.member && package.features.iter().any(|feature| feature == "planted");
    on.then(|| format!("{package}: has its planted bugs built in by default"))
}

fn duplicates(graph: &Graph, rules: &Rules) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in graph.packages().filter(|package| rules.single.contains(&&*package.name)) {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| {
            let versions: Vec<&str> = versions.into_iter().collect();
            format!(
                "{name}: a crypto crate in {} versions: {}",
                versions.len(),
                versions.join(", ")
            )
        })
        .collect()
}

fn rooms(graph: &Graph, rules: &Rules) -> Vec<String> {
    let mut faults = Vec::new();
    let members: BTreeSet<&str> =
        graph.packages().filter(|package| package.member).map(|package| &*package.name).collect();
    for package in graph.packages().filter(|package| package.member) {
        let Some((_, floor)) = rules.rooms.iter().find(|(name, _)| *name == package.name) else {
            faults.push(format!("{package}: no floor in xtask/src/deps/rules.rs"));
            continue;
        };
        for dependency in &package.dependencies {
            if !members.contains(&*dependency.name) {
                if let Some(path) = &dependency.path {
                    faults.push(format!("{package}: depends on {path}, outside of the workspace"));
                }
                continue;
            }
            // A crate names itself among its dev-dependencies to switch on a feature for its tests.
            if dependency.dev && dependency.name == package.name {
                continue;
            }
            let helper = rules.dev_only.contains(&&*dependency.name);
            let allowed = floor.contains(&&*dependency.name) || (helper && dependency.dev);
            if !allowed {
                faults.push(format!("{package}: may not depend on {}", dependency.name));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{graph::Dependency, *};

    fn package(name: &str, version: &str, licence: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            licence: Some(licence.into()),
            source: Some("registry+https://github.com/rust-lang/crates.io-index".into()),
            member: false,
            dependencies: Vec::new(),
            features: Vec::new(),
        }
    }

    fn member(name: &str, depends_on: &[(&str, bool)]) -> Package {
        let dependencies = depends_on
            .iter()
            .map(|(name, dev)| Dependency {
                name: (*name).into(),
                dev: *dev,
                path: Some(format!("/w/{name}")),
            })
            .collect();
        let package = package(name, "0.1.0", "Apache-2.0 OR MIT");
        Package { source: None, member: true, dependencies, ..package }
    }

    fn faults(packages: Vec<Package>) -> Vec<String> {
        check(&Graph::of(packages), &Rules::ours())
    }

    #[test]
    fn a_clean_graph_has_no_fault() {
        let clean = vec![
            member("swarmer-model", &[("swarmer-testkit", true)]),
            member("swarmer-testkit", &[]),
            member("swarmer-raft", &[("swarmer-model", false), ("swarmer-raft", true)]),
            member("swarmer", &[("swarmer-model", false), ("swarmer-raft", false)]),
            package("serde", "1.0.0", "MIT OR Apache-2.0"),
            package("ring", "0.17.14", "Apache-2.0 AND ISC"),
            package("foca", "2.0.0", "MPL-2.0"),
            package("rand", "0.8.0", "MIT/Apache-2.0"),
            package("rand", "0.10.0", "MIT"),
        ];
        assert_eq!(faults(clean), Vec::<String>::new());
    }

    #[test]
    fn licences() {
        for bad in ["GPL-3.0-only", "MIT AND AGPL-3.0-only", "MPL-2.0", "MIT MIT", "", "(MIT"] {
            assert_eq!(faults(vec![package("x", "1.0.0", bad)]).len(), 1, "{bad}");
        }
        let silent = Package { licence: None, ..package("x", "1.0.0", "") };
        assert_eq!(faults(vec![silent]), ["x 1.0.0: states no licence"]);
    }

    #[test]
    fn bans() {
        for name in ["openssl-sys", "native-tls", "aws-lc-rs", "serde_yaml"] {
            let found = faults(vec![package(name, "1.0.0", "MIT")]);
            assert!(found.len() == 1 && found[0].contains("banned"), "{found:?}");
        }
    }

    #[test]
    fn planted_bugs_are_not_built_by_default() {
        let features = vec!["default".to_owned(), "planted".to_owned()];
        let found = faults(vec![Package { features, ..member("swarmer-model", &[]) }]);
        assert_eq!(found, ["swarmer-model 0.1.0: has its planted bugs built in by default"]);
    }

    #[test]
    fn two_versions_of_a_crypto_crate() {
        let two = vec![package("sha2", "0.10.9", "MIT"), package("sha2", "0.11.0", "MIT")];
        assert_eq!(faults(two), ["sha2: a crypto crate in 2 versions: 0.10.9, 0.11.0"]);
    }

    #[test]
    fn sources() {
        let mut git = package("x", "1.0.0", "MIT");
        git.source = Some("git+https://example.org/x".into());
        assert!(faults(vec![git])[0].contains("not from crates.io"));
        let mut path = package("x", "1.0.0", "MIT");
        path.source = None;
        assert!(faults(vec![path])[0].contains("outside of the workspace"));
        let outside = member("swarmer-raft", &[("x", false)]);
        assert!(faults(vec![outside])[0].contains("depends on /w/x"));
    }

    #[test]
    fn rooms_on_one_floor_do_not_import_each_other() {
        let mesh = || member("swarmer-mesh", &[]);
        let raft = member("swarmer-raft", &[("swarmer-mesh", false)]);
        assert_eq!(
            faults(vec![raft, mesh()]),
            ["swarmer-raft 0.1.0: may not depend on swarmer-mesh"]
        );
        let even_in_tests = member("swarmer-raft", &[("swarmer-mesh", true)]);
        assert_eq!(faults(vec![even_in_tests, mesh()]).len(), 1);
        let model = member("swarmer-model", &[("swarmer-mesh", false)]);
        assert_eq!(faults(vec![model, mesh()]).len(), 1);
        let shipped = member("swarmer-mesh", &[("swarmer-testkit", false)]);
        assert_eq!(faults(vec![shipped, member("swarmer-testkit", &[])]).len(), 1);
        let homeless = member("swarmer-attic", &[]);
        assert!(faults(vec![homeless])[0].contains("no floor"));
    }

    #[test]
    fn metadata_is_read_and_only_what_is_built_counts() {
        let graph = Graph::parse(
            br#"{
              "packages": [
                {"id": "m", "name": "swarmer-model", "version": "0.1.0", "license": "MIT",
                 "source": null, "dependencies": [
                   {"name": "a", "kind": null, "source": "registry", "path": null},
                   {"name": "t", "kind": "dev", "source": null, "path": "/w/t"}]},
                {"id": "a", "name": "a", "version": "1.0.0", "license": "GPL-3.0-only",
                 "source": "registry+https://github.com/rust-lang/crates.io-index",
                 "dependencies": []},
                {"id": "b", "name": "openssl", "version": "1.0.0", "license": null,
                 "source": null, "dependencies": []}],
              "workspace_members": ["m"],
              "resolve": {"nodes": [
                {"id": "m", "dependencies": ["a"]},
                {"id": "a", "dependencies": []},
                {"id": "b", "dependencies": []}]}
            }"#,
        )
        .expect("it is metadata");
        assert_eq!(graph.len(), 2);
        let found = check(&graph, &Rules::ours());
        assert_eq!(
            found,
            [
                "a 1.0.0: licence GPL-3.0-only is not allowed",
                "swarmer-model 0.1.0: depends on /w/t, outside of the workspace",
            ]
        );
        assert!(Graph::parse(b"{}").is_err());
    }
}
