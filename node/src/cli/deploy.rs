//! `deploy`: a component file or an app's folder → artifact, resources, rollout.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

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
    },
    codes,
    config::parse_labels,
    manifest::{FILE_NAME, Manifest},
    problem::{Outcome, Problem},
};

/// How long a new version may take until it serves.
const ROLLOUT_DEADLINE: Duration = Duration::from_secs(120);
/// Trouble that lasts so long is the answer: before, another node may be about to serve.
const TROUBLE_AFTER: Duration = Duration::from_secs(4);
/// How long the other nodes may take to see what serves: then it is done all the same.
const EVERYWHERE_DEADLINE: Duration = Duration::from_secs(5);
/// How often the rollout is looked at.
const POLL: Duration = Duration::from_millis(50);

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

/// Waits until what `accepted` is the answer to serves: until a placement was planned for its
/// revision, and requests go by it.
pub(crate) async fn until_it_serves(
    client: &Client,
    printer: &Printer,
    path: &str,
    name: &str,
    accepted: &Value,
) -> Outcome<Value> {
    let start = Instant::now();
    let mut troubled = None;
    let ours = Ours::of(name, accepted);
    let mut revision = ours.revision;
    loop {
        let function = ours.look(client, path).await?;
        let newer = revision_of(&function);
        if newer > revision {
            printer.progress(&format!(
                "{name}: revision {revision} was followed by {newer}, which has the same version; \
                 waiting for that one"
            ));
            revision = newer;
        }
        match judge(name, revision, &function["live"]) {
            Rollout::Done => return until_everywhere(client, printer, path, &ours).await,
            Rollout::Failed(why) => return Err(Problem::new(codes::ROLLOUT_FAILED, why)),
            Rollout::Waiting(why) if start.elapsed() > ROLLOUT_DEADLINE => {
                let seconds = ROLLOUT_DEADLINE.as_secs();
                let why =
                    format!("{name} is accepted, but does not serve after {seconds} s: {why}");
                return Err(Problem::new(codes::ROLLOUT_FAILED, why));
            }
            Rollout::Troubled(why) => {
                if troubled.get_or_insert_with(Instant::now).elapsed() > TROUBLE_AFTER {
                    return Err(Problem::new(codes::ROLLOUT_FAILED, why));
                }
                tokio::time::sleep(POLL).await;
            }
            Rollout::Waiting(_) => {
                troubled = None;
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

/// Waits, not for long, until the ingress of every living node knows what serves.
async fn until_everywhere(
    client: &Client,
    printer: &Printer,
    path: &str,
    ours: &Ours,
) -> Outcome<Value> {
    let start = Instant::now();
    let (path, name) = (format!("{path}?everywhere=true"), &ours.name);
    loop {
        let function = ours.look(client, &path).await?;
        let behind = at(&function, "live.behind").as_array().cloned().unwrap_or_default();
        let behind: Vec<&str> = behind.iter().filter_map(Value::as_str).collect();
        if behind.is_empty() {
            return Ok(function);
        }
        if start.elapsed() > EVERYWHERE_DEADLINE {
            printer.progress(&format!(
                "{name}: it serves, but {} has not seen that yet, and may answer 404 or 503 until \
                 it has; see `swarmer doctor`",
                behind.join(", ")
            ));
            return Ok(function);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn revision_of(function: &Value) -> u64 {
    at(function, "metadata.revision").as_u64().unwrap_or_default()
}

/// The change that is waited for.
struct Ours {
    name: String,
    revision: u64,
    /// The version that it wants to serve, and the digest of its component: a function that was
    /// deleted and made anew counts from 1 again.
    version: (Value, Value),
}

impl Ours {
    fn of(name: &str, accepted: &Value) -> Self {
        let (revision, version) = (revision_of(accepted), Self::wanted(accepted));
        Self { name: name.to_owned(), revision, version }
    }

    fn wanted(function: &Value) -> (Value, Value) {
        let target = at(function, "live.target").clone();
        let versions = at(function, "live.versions").as_array();
        let version = versions.into_iter().flatten().find(|v| v["number"] == target);
        (target, version.map_or(Value::Null, |version| version["component"].clone()))
    }

    /// The function as it stands now, as long as it is still ours.
    async fn look(&self, client: &Client, path: &str) -> Outcome<Value> {
        match client.get(path).await {
            Ok(function) => self.still(function),
            Err(problem) if problem.code == codes::NOT_FOUND => {
                let why = format!(
                    "{} was accepted at revision {}, and deleted since",
                    self.name, self.revision
                );
                Err(Problem::new(codes::ROLLOUT_OVERTAKEN, why))
            }
            Err(problem) => Err(problem),
        }
    }

    /// A change that came after ours wants another version to serve: ours need not come to serve
    /// any more, and must not be told as if it did.
    fn still(&self, function: Value) -> Outcome<Value> {
        let (newer, wanted) = (revision_of(&function), Self::wanted(&function));
        if newer <= self.revision || wanted == self.version {
            return Ok(function);
        }
        let why = format!(
            "{} was accepted at revision {} with version {}; the change of revision {newer} came \
             after it and wants version {} to serve",
            self.name, self.revision, self.version.0, wanted.0
        );
        Err(Problem::new(codes::ROLLOUT_OVERTAKEN, why))
    }
}

/// How far a change has come.
#[derive(Debug, PartialEq, Eq)]
enum Rollout {
    Done,
    /// Why not yet.
    Waiting(String),
    /// A node cannot make it ready; another may be about to.
    Troubled(String),
    Failed(String),
}

/// What `live` says of a function's revision. A placement of another revision says nothing.
fn judge(name: &str, revision: u64, live: &Value) -> Rollout {
    // The copy of the state that answers may be older than the one that accepted it.
    if live["plannedRevision"].as_u64().unwrap_or_default() < revision {
        return Rollout::Waiting("the leader has not planned where it runs".to_owned());
    }
    let still = match live["version"].as_u64() {
        Some(version) if live["version"] != live["target"] && live["ready"] != 0 => {
            format!("; version {version} goes on serving")
        }
        _ => String::new(),
    };
    if let Some(conflict) = live["conflict"].as_str() {
        let why = format!("{name} is accepted, but no node is given a copy: {conflict}{still}");
        return Rollout::Failed(why);
    }
    let ready = live["ready"].as_u64().unwrap_or_default();
    if live["upToDate"] == true && (ready > 0 || live["switchedOff"] == true) {
        return Rollout::Done;
    }
    if let Some(error) = live["error"].as_str() {
        return Rollout::Troubled(format!("{name}: {error}{still}"));
    }
    let reasons = live["reasons"].as_array().cloned().unwrap_or_default();
    let reasons: Vec<&str> = reasons.iter().filter_map(|r| r["text"].as_str()).collect();
    Rollout::Waiting(if reasons.is_empty() {
        format!("no node told why{still}")
    } else {
        format!("{}{still}", reasons.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_change_to_another_version_is_told_and_one_of_the_same_is_not() {
        let function = |revision: u64, target: u64, component: &str| {
            let versions = json!([
                { "number": 1, "component": "sha256:one" },
                { "number": 2, "component": component },
                { "number": 3, "component": "sha256:three" },
            ]);
            json!({
                "metadata": { "revision": revision },
                "live": { "target": target, "versions": versions },
            })
        };
        let ours = Ours::of("f", &function(7, 2, "sha256:two"));
        for same in [
            function(7, 2, "sha256:two"),
            function(9, 2, "sha256:two"),
            // A copy of the state that is older than what was accepted.
            function(6, 1, "sha256:two"),
        ] {
            assert!(ours.still(same).is_ok());
        }
        for other in [function(9, 3, "sha256:two"), function(9, 2, "sha256:another")] {
            let problem = ours.still(other).unwrap_err();
            assert_eq!((problem.code, problem.code.exit_code()), (codes::ROLLOUT_OVERTAKEN, 4));
            assert!(problem.detail.contains("revision 9"), "{problem}");
        }
    }

    #[test]
    fn only_the_plan_of_its_own_revision_is_an_answer() {
        let live = |planned: u64, version: u64, conflict: Option<&str>| {
            json!({
                "plannedRevision": planned, "version": version, "target": 2, "ready": 1,
                "switchedOff": false, "conflict": conflict, "error": null, "reasons": [],
                "upToDate": planned == 7 && version == 2 && conflict.is_none(),
            })
        };
        let waits = |live: &Value| matches!(judge("f", 7, live), Rollout::Waiting(_));
        assert!(waits(&live(5, 2, None)), "ready endpoints of the placement before");
        assert!(waits(&live(5, 1, Some("no node"))), "a conflict of the placement before");
        assert!(waits(&live(7, 1, None)), "placed, and not ready yet");
        assert_eq!(judge("f", 7, &live(7, 2, None)), Rollout::Done);
        let Rollout::Failed(why) = judge("f", 7, &live(7, 1, Some("no node"))) else {
            panic!("a conflict at its own revision is the answer")
        };
        assert!(why.contains("no node") && why.contains("version 1 goes on serving"), "{why}");
        // One node's trouble is no answer while another serves, and else only if it lasts.
        let mut trouble = live(7, 1, None);
        trouble["error"] = json!("n2: no room");
        assert!(
            matches!(judge("f", 7, &trouble), Rollout::Troubled(why) if why.contains("no room"))
        );
        let mut served = live(7, 2, None);
        served["error"] = json!("n2: no room");
        assert_eq!(judge("f", 7, &served), Rollout::Done);
    }
}
