//! `apply`, `get`, `describe`, `delete`, `diff`: resources, as kubectl does it.

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use swarmer_model::{DEFAULT_NAMESPACE, Step, nearest};

use crate::{
    cli::{
        Ask, Client, Printer,
        client::segment,
        deploy::tell_hints,
        document::{self, Document},
        output::at,
    },
    codes,
    problem::{Outcome, Problem},
};

/// A kind: its names as people write them, where its API is, and its name in documents.
struct Kind {
    names: &'static [&'static str],
    scope: Scope,
    plural: &'static str,
    name: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        names: &["function", "functions", "fn"],
        scope: Scope::Namespaced,
        plural: "functions",
        name: "Function",
    },
    Kind { names: &["node", "nodes"], scope: Scope::Cluster, plural: "nodes", name: "Node" },
    Kind {
        names: &["placement", "placements"],
        scope: Scope::Namespaced,
        plural: "placements",
        name: "Placement",
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

/// Resources of a file.
#[derive(Debug, Args)]
struct File {
    /// YAML or JSON file with one or more resources; - reads standard input
    #[arg(short, long)]
    file: String,
    /// Namespace of resources that name none
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer apply -f hello.yaml\n  \
    swarmer get function hello -o yaml | swarmer apply -f -")]
pub(crate) struct Apply {
    #[command(flatten)]
    file: File,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer diff -f hello.yaml")]
pub(crate) struct Diff {
    #[command(flatten)]
    file: File,
}

/// By kind and name.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer get functions\n  \
    swarmer get function hello -o yaml\n  \
    swarmer get nodes -o json")]
pub(crate) struct Get {
    /// function, node or placement
    kind: String,
    /// All of them if none is given
    name: Option<String>,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer describe function hello\n  \
    swarmer describe node b")]
pub(crate) struct Describe {
    /// function, node or placement
    kind: String,
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer delete function hello\n  \
    swarmer delete node d     # ends the admission of a node")]
pub(crate) struct Delete {
    /// function or node
    kind: String,
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

fn kind(name: &str) -> Outcome<&'static Kind> {
    let lower = name.to_ascii_lowercase();
    KINDS.iter().find(|kind| kind.names.contains(&lower.as_str())).ok_or_else(|| {
        let known = KINDS.iter().flat_map(|kind| kind.names.iter().copied());
        let hint = nearest(&lower, known).map(|n| format!("; did you mean {n}?"));
        let why = format!("there is no kind {name:?}{}", hint.unwrap_or_default());
        Problem::new(codes::USAGE, why)
    })
}

impl Kind {
    fn collection(&self, namespace: &str) -> String {
        match self.scope {
            Scope::Namespaced => format!("/v1/namespaces/{}/{}", segment(namespace), self.plural),
            Scope::Cluster => format!("/v1/{}", self.plural),
        }
    }
}

fn collection(name: &str, namespace: &str) -> Outcome<String> {
    Ok(kind(name)?.collection(namespace))
}

/// A resource of a file, and where it goes.
struct Wanted {
    document: Document,
    path: String,
    /// Kind, namespace and name, for people.
    what: String,
}

impl File {
    /// All resources, or the first fault of any: nothing is sent before all can be read.
    fn wanted(&self) -> Outcome<Vec<Wanted>> {
        document::read(&self.file)?.into_iter().map(|document| self.place(document)).collect()
    }

    fn place(&self, mut document: Document) -> Outcome<Wanted> {
        let text = |field: &str| at(&document.value, field).as_str().unwrap_or_default().to_owned();
        let (written, name) = (text("kind"), text("metadata.name"));
        if written.is_empty() || name.is_empty() {
            let why = format!("{}: a resource has kind and metadata.name", document.place(&[]));
            return Err(Problem::new(codes::MANIFEST, why));
        }
        let place = document.place(&[Step::Field("kind".to_owned())]);
        let kind = kind(&written).map_err(|problem| problem.while_doing(&place))?;
        document.check(kind.name)?;
        let namespace = match text("metadata.namespace") {
            none if none.is_empty() => self.namespace.clone(),
            given => given,
        };
        if let Some(metadata) = document.value["metadata"].as_object_mut() {
            metadata.entry("namespace").or_insert_with(|| json!(namespace));
        }
        let path = format!("{}/{}", kind.collection(&namespace), segment(&name));
        let what = format!("{} {namespace}/{name}", written.to_ascii_lowercase());
        Ok(Wanted { document, path, what })
    }
}

impl Wanted {
    async fn put(&self, client: &Client, query: &str) -> Outcome<Value> {
        let path = format!("{}{query}", self.path);
        let answer = client.json(Method::PUT, &path, &self.document.value).await;
        answer.map_err(|problem| self.document.placed(problem).while_doing(&self.what))
    }
}

impl Ask for Apply {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let mut written = Vec::new();
        for wanted in self.file.wanted()? {
            let answer = wanted.put(client, "").await?;
            tell_hints(at(&answer, "live.hints"));
            if printer.is_table() {
                let revision = at(&answer, "metadata.revision");
                printer.text(&format!("{} applied at revision {revision}\n", wanted.what))?;
            }
            written.push(answer);
        }
        if printer.is_table() { Ok(()) } else { printer.value(&json!({ "items": written })) }
    }
}

impl Ask for Diff {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let mut changes = Vec::new();
        for wanted in self.file.wanted()? {
            // The cluster itself says what it would become, or why it may not.
            let next = wanted.put(client, "?dryRun=true").await?;
            let now = match client.get::<Value>(&wanted.path).await {
                Ok(now) => now,
                Err(problem) if problem.code == codes::NOT_FOUND => Value::Null,
                Err(problem) => return Err(problem),
            };
            let mut lines = Vec::new();
            for part in ["metadata.labels", "metadata.annotations", "spec"] {
                differences(part, at(&now, part), at(&next, part), &mut lines);
            }
            changes
                .push(json!({ "resource": wanted.what, "new": now.is_null(), "changes": lines }));
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

/// What of `next` is not so `now`, field by field.
fn differences(path: &str, now: &Value, next: &Value, lines: &mut Vec<String>) {
    let none = Map::new();
    let fields = |value: &'_ Value| value.is_object() || value.is_null();
    match (now, next) {
        (now, next) if now == next => {}
        (now, next) if fields(now) && fields(next) => {
            let (now, next) = (now.as_object().unwrap_or(&none), next.as_object().unwrap_or(&none));
            let gone = now.keys().filter(|key| !next.contains_key(*key));
            for key in next.keys().chain(gone) {
                let of = |side: &Map<String, Value>| side.get(key).cloned().unwrap_or_default();
                differences(&format!("{path}.{key}"), &of(now), &of(next), lines);
            }
        }
        (Value::Null, next) => lines.push(format!("+ {path}: {next}")),
        (now, Value::Null) => lines.push(format!("- {path}: {now}")),
        (now, next) => lines.push(format!("~ {path}: {now} -> {next}")),
    }
}

impl Ask for Get {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
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
}

impl Ask for Describe {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let base = collection(&self.kind, &self.namespace)?;
        let path = format!("{base}/{}?describe=true", segment(&self.name));
        printer.value(&client.get::<Value>(&path).await?)
    }
}

impl Ask for Delete {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
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
        let now = json!({"limits": {"memory": "64MiB", "timeout": "5s"}, "routes": [], "old": "x"});
        let next = json!({
            "limits": {"memory": "32MiB", "timeout": "5s"}, "routes": [], "env": {"A": "b"},
        });
        let mut lines = Vec::new();
        differences("spec", &now, &next, &mut lines);
        lines.sort();
        assert_eq!(
            lines,
            [
                "+ spec.env.A: \"b\"",
                "- spec.old: \"x\"",
                "~ spec.limits.memory: \"64MiB\" -> \"32MiB\"",
            ]
        );
    }
}
