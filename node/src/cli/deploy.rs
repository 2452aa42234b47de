//! `deploy`: a component file or an app's folder → artifact, resources, rollout.

use std::path::{Path, PathBuf};

use clap::Args;
use http::{Method, Request, header};
use serde_json::{Value, json};
use swarmer_model::{
    Digest, Function, Labels, Metadata, Millis, PlacementRule, Resource as _, Violations,
};
use swarmer_scheduler::NO_FURTHER_NODES;

use crate::{
    cli::{
        Ask, Client, Printer,
        build::{BuildWatch, build},
        client::{full, segment},
        output::{at, say},
        rollout::until_it_serves,
    },
    codes,
    config::parse_labels,
    manifest::{FILE_NAME, Manifest},
    problem::{Outcome, Problem},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer deploy hello.wasm --name hello --env GREETING=hi\n  \
    swarmer deploy .             # the app described by ./swarmer.toml")]
pub(crate) struct Deploy {
    /// Component file, folder with swarmer.toml, or the manifest itself
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Name of the function [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    #[arg(short, long)]
    namespace: Option<String>,
    /// Environment variable, NAME=value; may be given several times
    #[arg(long = "env")]
    env: Vec<String>,
    /// Path prefix on the ingress [default: /NAME]
    #[arg(long)]
    route: Option<String>,
    /// How many nodes serve it [default: 2]
    #[arg(long)]
    replicas: Option<u32>,
    /// Memory of each instance [default: 64MiB]
    #[arg(long)]
    memory: Option<swarmer_model::ByteSize>,
    /// Time that one request may take [default: 30s]
    #[arg(long)]
    timeout: Option<Millis>,
    /// CPU time that one request may use [default: 10s]
    #[arg(long)]
    cpu: Option<Millis>,
    /// Requests at once on each node [default: 100]
    #[arg(long)]
    concurrency: Option<u32>,
    /// Authority that it may send requests to; may be given several times
    #[arg(long)]
    outgoing: Vec<String>,
    /// Only on nodes with this label, key=value; may be given several times
    #[arg(long = "label")]
    labels: Vec<String>,
    /// What one copy takes of its node's memory for functions, as placement counts it [default: 0B]
    #[arg(long)]
    placement_memory: Option<swarmer_model::ByteSize>,
    /// Who gets scarce room: the higher number, from -1000 to 1000 [default: 0]
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    /// How many copies that serve are left to it, whoever of higher priority wants their room
    /// [default: 1]
    #[arg(long)]
    min_available: Option<u32>,
    /// Function that it is placed near to, as far as all else allows; may be given several times
    #[arg(long)]
    near: Vec<String>,
    /// Function that it is placed apart from, as far as all else allows; may be given several times
    #[arg(long)]
    apart: Vec<String>,
    /// Deploy again with the defaults for all that no flag says, not with what was said before
    #[arg(long)]
    reset: bool,
    /// Return as soon as it is accepted, without waiting until it serves
    #[arg(long)]
    no_wait: bool,
}

impl Ask for Deploy {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        self.carry_out(client, printer, None).await
    }
}

impl Deploy {
    /// Builds and deploys; `watch` is told of builds.
    pub(crate) async fn carry_out(
        &self,
        client: &Client,
        printer: &Printer,
        watch: Option<BuildWatch<'_>>,
    ) -> Outcome<()> {
        let functions = self.functions(client, printer, watch).await?;
        let mut answers = Vec::new();
        for (function, bytes) in functions {
            answers.push(deploy(client, printer, function, bytes, !self.no_wait).await?);
        }
        if printer.is_table() { Ok(()) } else { printer.value(&json!({ "items": answers })) }
    }

    pub(crate) fn of_path(path: PathBuf) -> Self {
        Self {
            path,
            name: None,
            namespace: None,
            env: Vec::new(),
            route: None,
            replicas: None,
            memory: None,
            timeout: None,
            cpu: None,
            concurrency: None,
            outgoing: Vec::new(),
            labels: Vec::new(),
            placement_memory: None,
            priority: None,
            min_available: None,
            near: Vec::new(),
            apart: Vec::new(),
            reset: false,
            no_wait: false,
        }
    }

    /// The functions that the path describes, each with its component's bytes.
    async fn functions(
        &self,
        client: &Client,
        printer: &Printer,
        watch: Option<BuildWatch<'_>>,
    ) -> Outcome<Vec<(Function, Vec<u8>)>> {
        let is_manifest = self.path.extension().is_some_and(|e| e == "toml");
        let manifest =
            if self.path.is_dir() { self.path.join(FILE_NAME) } else { self.path.clone() };
        if self.path.is_dir() || is_manifest {
            return self.app(&manifest, printer, watch).await;
        }
        let bytes = read_component(&self.path)?;
        let stem = self.path.file_stem().map(|s| s.to_string_lossy().replace('_', "-"));
        let name = self.name.clone().or(stem).unwrap_or_default();
        let mut metadata = Metadata::named(name);
        if let Some(namespace) = &self.namespace {
            metadata.namespace.clone_from(namespace);
        }
        let mut function = Function::new(metadata, Digest::of(&bytes));
        let before = if self.reset { None } else { before(client, &function).await? };
        if let Some(before) = before {
            printer.progress(&format!(
                "{}: what no flag says stays as it was deployed (--reset: the defaults)",
                function.metadata.name
            ));
            function = Function { spec: before.spec, metadata: before.metadata, ..function };
            function.spec.template.component = Digest::of(&bytes);
            // All of it to the new version, as when it was deployed first.
            function.spec.traffic.clear();
        }
        self.adjust(&mut function)?;
        Ok(vec![(function, bytes)])
    }

    /// Applies what flags say.
    fn adjust(&self, function: &mut Function) -> Outcome<()> {
        let template = &mut function.spec.template;
        for entry in &self.env {
            let Some((name, value)) = entry.split_once('=') else {
                return Err(Problem::new(
                    codes::USAGE,
                    format!("--env {entry:?}: must be NAME=value"),
                ));
            };
            template.env.insert(name.to_owned(), value.to_owned());
        }
        for authority in &self.outgoing {
            if !template.outgoing.contains(authority) {
                template.outgoing.push(authority.clone());
            }
        }
        let limits = &mut template.limits;
        limits.memory = self.memory.unwrap_or(limits.memory);
        limits.timeout = self.timeout.unwrap_or(limits.timeout);
        limits.cpu = self.cpu.unwrap_or(limits.cpu);
        limits.concurrency = self.concurrency.unwrap_or(limits.concurrency);
        if let Some(route) = &self.route {
            function.spec.routes =
                vec![swarmer_model::Route { path: route.clone(), ..Default::default() }];
        }
        let placement = &mut function.spec.placement;
        placement.replicas = self.replicas.unwrap_or(placement.replicas);
        placement.memory = self.placement_memory.unwrap_or(placement.memory);
        placement.priority = self.priority.unwrap_or(placement.priority);
        placement.min_available = self.min_available.unwrap_or(placement.min_available);
        for (names, flags) in
            [(&mut placement.near, &self.near), (&mut placement.apart, &self.apart)]
        {
            for name in flags {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        let mut violations = Violations::default();
        let labels: Labels = parse_labels("label", &self.labels, &mut violations);
        violations.finish()?;
        placement.labels.extend(labels);
        function.validate().map_err(Problem::from)
    }

    async fn app(
        &self,
        path: &Path,
        printer: &Printer,
        mut watch: Option<BuildWatch<'_>>,
    ) -> Outcome<Vec<(Function, Vec<u8>)>> {
        let manifest = Manifest::read(path)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let mut functions = Vec::new();
        for entry in manifest.in_order() {
            if self.name.as_ref().is_some_and(|name| *name != entry.name) {
                continue;
            }
            if let Some(command) = &entry.build {
                let folder = base.join(entry.source.as_deref().unwrap_or(Path::new(".")));
                printer.progress(&format!("{}: building with `{command}`", entry.name));
                let watch = watch.as_mut().map(|watch| &mut **watch as BuildWatch<'_>);
                build(&entry.name, command, &folder, watch).await?;
            }
            let bytes = read_component(&base.join(&entry.component))?;
            let namespace = self.namespace.as_deref();
            let mut function = manifest.function(entry, Digest::of(&bytes), namespace);
            self.adjust(&mut function)?;
            functions.push((function, bytes));
        }
        if functions.is_empty() {
            let why = format!("{} has no function {:?}", path.display(), self.name);
            return Err(Problem::new(codes::NOT_FOUND, why));
        }
        Ok(functions)
    }
}

/// The function as it stands, as far as a user describes it. A component that is deployed again
/// replaces the code, and nothing else.
async fn before(client: &Client, function: &Function) -> Outcome<Option<Function>> {
    // A name that is none is refused with all that is wrong, not as one that is unknown.
    if function.validate().is_err() {
        return Ok(None);
    }
    let path = format!(
        "/v1/namespaces/{}/functions/{}?consistency=linearizable",
        segment(&function.metadata.namespace),
        segment(&function.metadata.name)
    );
    let mut found: Value = match client.get(&path).await {
        Ok(found) => found,
        Err(problem) if problem.code == codes::NOT_FOUND => return Ok(None),
        Err(problem) => {
            return Err(problem.while_doing(&format!("deploying {}", function.id())));
        }
    };
    if let Some(fields) = found.as_object_mut() {
        // What the API adds to its answers.
        fields.remove("live");
    }
    let mut found: Function = serde_json::from_value(found)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    found.metadata.revision = None;
    Ok(Some(found))
}

fn read_component(path: &Path) -> Outcome<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|error| {
        Problem::new(codes::FILE, format!("cannot read {}: {error}", path.display()))
    })?;
    if bytes.is_empty() {
        return Err(Problem::new(codes::NO_COMPONENT, format!("{} is empty", path.display())));
    }
    // A text form is fine: `wat` files of components are compiled by the node's own engine only
    // in their binary form, so say so here instead of at the end of an upload.
    if bytes.starts_with(b"(") {
        let why = format!("{} is WebAssembly text; give the binary component", path.display());
        return Err(Problem::new(codes::NO_COMPONENT, why));
    }
    Ok(bytes)
}

/// Uploads the component, commits the function and waits until the new version serves.
pub(crate) async fn deploy(
    client: &Client,
    printer: &Printer,
    function: Function,
    bytes: Vec<u8>,
    wait: bool,
) -> Outcome<Value> {
    let name = function.metadata.name.clone();
    let doing = format!("deploying {}", function.id());
    let digest = function.spec.template.component;
    printer.progress(&format!("{name}: uploading {} bytes ({})", bytes.len(), digest.short()));
    let upload = Request::builder()
        .method(Method::PUT)
        .header(header::CONTENT_TYPE, "application/wasm")
        .header(header::CONTENT_LENGTH, bytes.len());
    let path = format!("/v1/artifacts/{digest}");
    client.exchange(upload, &path, full(bytes)).await.map_err(|p| p.while_doing(&doing))?;
    let path = format!(
        "/v1/namespaces/{}/functions/{}",
        segment(&function.metadata.namespace),
        segment(&name)
    );
    let resource = serde_json::to_value(&function)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    let mut answer =
        client.json(Method::PUT, &path, &resource).await.map_err(|p| p.while_doing(&doing))?;
    tell_hints(at(&answer, "live.hints"));
    if wait {
        answer = until_it_serves(client, printer, &path, &name, &answer).await?;
    }
    if wait {
        tell_shortage(&function, &answer);
    }
    let version = at(&answer, "live.target").as_u64().unwrap_or_default();
    let ready = at(&answer, "live.ready").as_u64().unwrap_or_default();
    let serving = if wait { format!(", ready on {ready} node(s)") } else { String::new() };
    if printer.is_table() {
        let routes = answer["spec"]["routes"].as_array().cloned().unwrap_or_default();
        let paths: Vec<&str> = routes.iter().filter_map(|route| route["path"].as_str()).collect();
        printer.text(&format!("{name} version {version} at {}{serving}\n", paths.join(", ")))?;
    }
    Ok(answer)
}

/// Says that fewer copies stand than are wanted. One that nobody asked for by number is not missed
/// where there are no further nodes.
fn tell_shortage(function: &Function, answer: &Value) {
    let reasons = at(answer, "live.reasons").as_array().map(Vec::as_slice).unwrap_or_default();
    let asked = function.spec.placement.replicas != PlacementRule::default().replicas;
    for reason in reasons.iter().filter(|reason| reason["node"].is_null()) {
        let text = reason["text"].as_str().unwrap_or_default();
        if asked || !text.ends_with(NO_FURTHER_NODES) {
            say(&format!("note: {text}"));
        }
    }
}

/// Says what is no fault, and most often a slip.
pub(crate) fn tell_hints(hints: &Value) {
    for hint in hints.as_array().into_iter().flatten().filter_map(Value::as_str) {
        say(&format!("note: {hint}"));
    }
}
