//! `apply`, `get`, `describe`, `delete`, `diff`: resources, as kubectl does it.

use std::io::Read as _;

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use swarmer_model::{DEFAULT_NAMESPACE, nearest};

use crate::{
    cli::{Client, Printer, client::segment, output::at},
    codes,
    manifest::with_nearest,
    problem::{Outcome, Problem},
};

/// The largest file of resources.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Kinds as people write them, and where their API is.
const KINDS: [(&[&str], Scope, &str); 3] = [
    (&["function", "functions", "fn"], Scope::Namespaced, "functions"),
    (&["node", "nodes"], Scope::Cluster, "nodes"),
    (&["placement", "placements"], Scope::Namespaced, "placements"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

/// From a file.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// YAML or JSON file with one or more resources; - reads standard input
    #[arg(short, long)]
    file: String,
    /// Namespace of resources that name none
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

/// By kind and name.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// function, node or placement
    kind: String,
    /// All of them if none is given
    name: Option<String>,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// function or node
    kind: String,
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

fn collection(kind: &str, namespace: &str) -> Outcome<String> {
    let lower = kind.to_ascii_lowercase();
    let found = KINDS.iter().find(|(names, _, _)| names.contains(&lower.as_str()));
    let Some((_, scope, plural)) = found else {
        let known = KINDS.iter().flat_map(|(names, _, _)| names.iter().copied());
        let hint = nearest(&lower, known).map(|n| format!("; did you mean {n}?"));
        let why = format!("there is no kind {kind:?}{}", hint.unwrap_or_default());
        return Err(Problem::new(codes::USAGE, why));
    };
    Ok(match scope {
        Scope::Namespaced => format!("/v1/namespaces/{}/{plural}", segment(namespace)),
        Scope::Cluster => format!("/v1/{plural}"),
    })
}

impl Apply {
    fn resources(&self) -> Outcome<Vec<Value>> {
        let fail = |why: String| Problem::new(codes::MANIFEST, format!("{}: {why}", self.file));
        let mut text = String::new();
        if self.file == "-" {
            let mut input = std::io::stdin().take(MAX_FILE_BYTES);
            input.read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        } else {
            text = std::fs::read_to_string(&self.file).map_err(|error| fail(error.to_string()))?;
        }
        // As YAML 1.2 has it: a name such as `y` or `no` is a name.
        let options = serde_saphyr::options! { strict_booleans: true };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)
            .map_err(|error| fail(with_nearest(&error.to_string())))?;
        let mut resources = Vec::new();
        for document in documents {
            match document {
                Value::Null => {}
                Value::Object(ref map)
                    if map.contains_key("items") && !map.contains_key("kind") =>
                {
                    resources.extend(document["items"].as_array().cloned().unwrap_or_default());
                }
                document => resources.push(document),
            }
        }
        if resources.is_empty() {
            return Err(fail("there is no resource in it".to_owned()));
        }
        Ok(resources)
    }

    fn place(&self, resource: &Value) -> Outcome<(String, String)> {
        let kind = resource["kind"].as_str().unwrap_or_default();
        let name = at(resource, "metadata.name").as_str().unwrap_or_default();
        if kind.is_empty() || name.is_empty() {
            let why = format!("{}: a resource has kind and metadata.name", self.file);
            return Err(Problem::new(codes::MANIFEST, why));
        }
        let namespace = at(resource, "metadata.namespace").as_str().unwrap_or(&self.namespace);
        let path = format!("{}/{}", collection(kind, namespace)?, segment(name));
        Ok((path, format!("{} {namespace}/{name}", kind.to_ascii_lowercase())))
    }

    pub(crate) async fn run(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let mut written = Vec::new();
        for mut resource in self.resources()? {
            let (path, what) = self.place(&resource)?;
            if let Some(metadata) = resource["metadata"].as_object_mut() {
                metadata.entry("namespace").or_insert_with(|| json!(self.namespace));
            }
            let answer = client.json(Method::PUT, &path, &resource).await;
            let answer = answer.map_err(|problem| problem.while_doing(&what))?;
            if printer.is_table() {
                printer.text(&format!(
                    "{what} applied at revision {}\n",
                    at(&answer, "metadata.revision")
                ))?;
            }
            written.push(answer);
        }
        if printer.is_table() { Ok(()) } else { printer.value(&json!({ "items": written })) }
    }

    pub(crate) async fn diff(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let mut changes = Vec::new();
        for resource in self.resources()? {
            let (path, what) = self.place(&resource)?;
            let now = match client.get::<Value>(&path).await {
                Ok(now) => now,
                Err(problem) if problem.code == codes::NOT_FOUND => Value::Null,
                Err(problem) => return Err(problem),
            };
            let mut lines = Vec::new();
            differences("spec", &now["spec"], &resource["spec"], &mut lines);
            differences(
                "metadata.labels",
                at(&now, "metadata.labels"),
                at(&resource, "metadata.labels"),
                &mut lines,
            );
            changes.push(json!({ "resource": what, "new": now.is_null(), "changes": lines }));
        }
        if !printer.is_table() {
            return printer.value(&json!({ "items": changes }));
        }
        for change in &changes {
            let new = if change["new"] == true { " (new)" } else { "" };
            printer.text(&format!("{}{new}\n", change["resource"].as_str().unwrap_or_default()))?;
            for line in change["changes"].as_array().into_iter().flatten() {
                printer.text(&format!("  {}\n", line.as_str().unwrap_or_default()))?;
            }
        }
        Ok(())
    }
}

/// What of `wanted` is not so `now`: fields that `wanted` does not name stay as they are.
fn differences(path: &str, now: &Value, wanted: &Value, lines: &mut Vec<String>) {
    match (now, wanted) {
        (_, Value::Null) => {}
        (Value::Object(now), Value::Object(wanted)) => {
            for (key, value) in wanted {
                let path = format!("{path}.{key}");
                differences(&path, now.get(key).unwrap_or(&Value::Null), value, lines);
            }
        }
        (now, wanted) if now == wanted => {}
        (Value::Null, wanted) => lines.push(format!("+ {path}: {wanted}")),
        (now, wanted) => lines.push(format!("~ {path}: {now} -> {wanted}")),
    }
}

impl Get {
    pub(crate) async fn run(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let base = collection(&self.kind, &self.namespace)?;
        if let Some(name) = &self.name {
            let value: Value = client.get(&format!("{base}/{}", segment(name))).await?;
            return printer.value(&value);
        }
        let list: Value = client.get(&base).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let columns: &[(&str, &str)] = if base.ends_with("/functions") {
            &[
                ("NAME", "metadata.name"),
                ("ROUTE", "spec.routes.0.path"),
                ("VERSION", "live.version"),
                ("READY", "live.ready"),
                ("WANTED", "spec.placement.replicas"),
                ("REVISION", "metadata.revision"),
            ]
        } else if base.ends_with("/nodes") {
            &[
                ("NAME", "metadata.name"),
                ("ID", "spec.id"),
                ("ADDRESS", "spec.address"),
                ("REGION", "spec.region"),
                ("ZONE", "spec.zone"),
                ("DRAINING", "spec.draining"),
            ]
        } else {
            &[("NAME", "name"), ("NODES", "nodes"), ("CANDIDATES", "candidates")]
        };
        printer.list(&items, columns)
    }

    pub(crate) async fn describe(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let base = collection(&self.kind, &self.namespace)?;
        let Some(name) = &self.name else {
            return Err(Problem::new(codes::USAGE, "describe wants a kind and a name"));
        };
        let value: Value = client.get(&format!("{base}/{}?describe=true", segment(name))).await?;
        printer.value(&value)
    }
}

impl Delete {
    pub(crate) async fn run(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = format!("{}/{}", collection(&self.kind, &self.namespace)?, segment(&self.name));
        let answer = client.json(Method::DELETE, &path, &Value::Null).await?;
        if printer.is_table() {
            printer.text(&format!("{} {} deleted\n", self.kind, self.name))
        } else {
            printer.value(&answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_all_their_names() {
        assert_eq!(collection("Function", "a").unwrap(), "/v1/namespaces/a/functions");
        assert_eq!(collection("nodes", "a").unwrap(), "/v1/nodes");
        let problem = collection("funtion", "a").unwrap_err();
        assert!(problem.detail.contains("did you mean function?"), "{problem}");
        assert_eq!(problem.code.exit_code(), 2);
    }

    #[test]
    fn a_diff_names_only_what_would_change() {
        let now = json!({"limits": {"memory": "64MiB", "timeout": "5s"}, "routes": []});
        let wanted = json!({"limits": {"memory": "32MiB"}, "env": {"A": "b"}});
        let mut lines = Vec::new();
        differences("spec", &now, &wanted, &mut lines);
        lines.sort();
        assert_eq!(
            lines,
            ["+ spec.env: {\"A\":\"b\"}", "~ spec.limits.memory: \"64MiB\" -> \"32MiB\""]
        );
    }
}
