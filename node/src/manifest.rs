//! `swarmer.toml`: the short form for one app, turned into resources.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use swarmer_model::{
    ByteSize, Digest, Distribute, Failover, Function, Labels, Metadata, Millis, PlacementRule,
    Resource as _, Route, nearest,
};
use toml::Spanned;

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// The file's name in an app's folder.
pub(crate) const FILE_NAME: &str = "swarmer.toml";
/// The most functions of one app.
const MAX_FUNCTIONS: usize = 64;

/// One app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Name of the app; becomes the label `app` of its functions.
    pub(crate) name: String,
    /// Namespace of all its functions.
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default, rename = "function")]
    functions: Vec<Spanned<FunctionEntry>>,
}

/// One function of an app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionEntry {
    pub(crate) name: String,
    /// The component file, relative to the manifest.
    pub(crate) component: PathBuf,
    /// Command that makes the component, run in `source` (or beside the manifest) by `sh -c`.
    #[serde(default)]
    pub(crate) build: Option<String>,
    /// Folder in which `build` runs.
    #[serde(default)]
    pub(crate) source: Option<PathBuf>,
    /// Path prefix on the ingress.
    #[serde(default)]
    pub(crate) route: Option<String>,
    /// Host names of the route.
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    /// Which regions take the route's requests over, and how they are spread over regions.
    #[serde(default)]
    pub(crate) failover: Vec<Failover>,
    #[serde(default)]
    pub(crate) distribute: Vec<Distribute>,
    #[serde(default)]
    pub(crate) timeout: Option<Millis>,
    #[serde(default)]
    pub(crate) cpu: Option<Millis>,
    #[serde(default)]
    pub(crate) memory: Option<ByteSize>,
    #[serde(default)]
    pub(crate) concurrency: Option<u32>,
    #[serde(default)]
    pub(crate) outgoing: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) replicas: Option<u32>,
    #[serde(default)]
    pub(crate) regions: Vec<String>,
    #[serde(default)]
    pub(crate) zones: Vec<String>,
    #[serde(default)]
    pub(crate) labels: Labels,
    /// What one copy takes of its node's capacity.
    #[serde(default, rename = "placement-memory")]
    pub(crate) placement_memory: Option<ByteSize>,
    #[serde(default)]
    pub(crate) priority: Option<i32>,
    #[serde(default, rename = "min-available")]
    pub(crate) min_available: Option<u32>,
    /// Functions that it is placed near to, and those that it is placed apart from.
    #[serde(default)]
    pub(crate) near: Vec<String>,
    #[serde(default)]
    pub(crate) apart: Vec<String>,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::new(codes::FILE, format!("cannot read {}: {error}", path.display()))
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Outcome<Self> {
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let why = toml_error(path, text, &error);
            Problem::new(codes::MANIFEST, why + &misplaced(error.message()) + single(text))
        })?;
        let told = |at: Option<Range<usize>>, why: String| {
            let place = at.map_or_else(String::new, |span| place(text, span.start));
            format!("{}{place}: {why}", path.display())
        };
        // All that is wrong at once, each with its place.
        let mut wrong = Vec::new();
        if manifest.functions.is_empty() {
            wrong.push(told(None, "there is no [[function]]".to_owned()));
        }
        if let Some(over) = manifest.functions.get(MAX_FUNCTIONS) {
            let why = format!("more than {MAX_FUNCTIONS} functions");
            wrong.push(told(Some(over.span()), why));
        }
        for (i, spanned) in manifest.functions.iter().enumerate().take(MAX_FUNCTIONS) {
            let (span, entry) = (Some(spanned.span()), spanned.get_ref());
            if manifest.functions().take(i).any(|other| other.name == entry.name) {
                let why = format!("two functions are named {:?}", entry.name);
                wrong.push(told(span.clone(), why));
            }
            let function = manifest.function(entry, Digest([0; 32]), None);
            if let Err(invalid) = function.validate() {
                wrong.push(told(span, format!("function {:?}: {invalid}", entry.name)));
            }
        }
        if wrong.is_empty()
            && let Err(names) = manifest.sorted()
        {
            let (circle, first) = (names.join(" → "), names.first().copied().unwrap_or_default());
            let why = format!("{circle} → {first}: each is to be near to the next");
            return Err(Problem::new(codes::NEAR_CIRCLE, told(None, why)));
        }
        if !wrong.is_empty() {
            return Err(Problem::new(codes::MANIFEST, wrong.join("\n")));
        }
        Ok(manifest)
    }

    /// The functions, in the order of the file.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &FunctionEntry> {
        self.functions.iter().map(Spanned::get_ref)
    }

    /// The same in the order in which they are deployed, one after the other: those first that others
    /// are to be near to, as nothing moves for what comes later.
    pub(crate) fn in_order(&self) -> Vec<&FunctionEntry> {
        self.sorted().expect("a manifest with a circle is not read")
    }

    /// The order, or functions of which each is to be near to the next, and the last to the first: of
    /// these the cluster would take some and refuse the rest.
    fn sorted(&self) -> Result<Vec<&FunctionEntry>, Vec<&str>> {
        let mut left: Vec<&FunctionEntry> = self.functions().collect();
        let mut ordered = Vec::with_capacity(left.len());
        while let Some(first) = left.first() {
            let waits_for = |entry: &FunctionEntry| {
                left.iter()
                    .find(|other| other.name != entry.name && entry.near.contains(&other.name))
                    .copied()
            };
            if let Some(next) = left.iter().position(|entry| waits_for(entry).is_none()) {
                ordered.push(left.remove(next));
                continue;
            }
            // Each waits for another one: following them comes round.
            let mut way: Vec<&str> = Vec::new();
            let mut at = *first;
            loop {
                if let Some(from) = way.iter().position(|name| *name == at.name) {
                    return Err(way.split_off(from));
                }
                way.push(&at.name);
                match waits_for(at) {
                    Some(other) => at = other,
                    None => return Err(way),
                }
            }
        }
        Ok(ordered)
    }

    /// The resource of one entry, once its component's digest is known.
    pub(crate) fn function(
        &self,
        entry: &FunctionEntry,
        component: Digest,
        namespace: Option<&str>,
    ) -> Function {
        let mut metadata = Metadata::named(&entry.name);
        if let Some(namespace) = namespace.or(self.namespace.as_deref()) {
            metadata.namespace = namespace.to_owned();
        }
        metadata.labels.insert("app".to_owned(), self.name.clone());
        let mut function = Function::new(metadata, component);
        let template = &mut function.spec.template;
        template.env = entry.env.clone();
        template.outgoing = entry.outgoing.clone();
        let limits = &mut template.limits;
        limits.timeout = entry.timeout.unwrap_or(limits.timeout);
        limits.cpu = entry.cpu.unwrap_or(limits.cpu);
        limits.memory = entry.memory.unwrap_or(limits.memory);
        limits.concurrency = entry.concurrency.unwrap_or(limits.concurrency);
        let route = Route {
            path: match &entry.route {
                Some(path) => path.clone(),
                None if entry.hosts.is_empty() => format!("/{}", entry.name),
                None => "/".to_owned(),
            },
            hosts: entry.hosts.clone(),
            failover: entry.failover.clone(),
            distribute: entry.distribute.clone(),
        };
        // One that says nothing has the default route, which the cluster fills in.
        if entry.route.is_some()
            || route != (Route { path: route.path.clone(), ..Route::default() })
        {
            function.spec.routes = vec![route];
        }
        let default = PlacementRule::default();
        function.spec.placement = PlacementRule {
            replicas: entry.replicas.unwrap_or(default.replicas),
            regions: entry.regions.clone(),
            zones: entry.zones.clone(),
            labels: entry.labels.clone(),
            memory: entry.placement_memory.unwrap_or(default.memory),
            priority: entry.priority.unwrap_or(default.priority),
            min_available: entry.min_available.unwrap_or(default.min_available),
            near: entry.near.clone(),
            apart: entry.apart.clone(),
        };
        function
    }
}

/// What is wrong with a TOML file: file, line, column, and the name that was probably meant.
pub(crate) fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let place = error.span().map_or_else(String::new, |span| place(text, span.start));
    format!("{}{place}: {}", path.display(), with_nearest(error.message()))
}

/// Where a field belongs that is one of a function's, and stands above all functions.
fn misplaced(message: &str) -> String {
    if !message.starts_with("unknown field") || with_nearest(message) != message {
        return String::new();
    }
    let unknown = message.split('`').nth(1).unwrap_or_default();
    // The names as serde knows them.
    let known = toml::from_str::<FunctionEntry>("\"\" = 0").err();
    let known = known.as_ref().map_or("", |error| error.message());
    match nearest(unknown, known.split('`').skip(3).step_by(2)) {
        Some(meant) => format!("; `{meant}` belongs into a [[function]]"),
        None => String::new(),
    }
}

/// What to write instead of a table of functions with single brackets.
fn single(text: &str) -> &'static str {
    let table = |line: &str| line.trim_start().starts_with("[function]");
    if text.lines().any(table) {
        "; each function begins with [[function]], in two brackets"
    } else {
        ""
    }
}

/// Line and column of a byte, as editors take them behind a file's name.
fn place(text: &str, at: usize) -> String {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(":{line}:{column}")
}

/// Adds the nearest known name to serde's message of an unknown field.
pub(crate) fn with_nearest(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let known = names.iter().skip(1).copied();
    match names.first().and_then(|unknown| nearest(unknown, known)) {
        Some(meant) if message.starts_with("unknown field") => {
            format!("{message}; did you mean `{meant}`?")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Manifest> {
        Manifest::parse(Path::new("swarmer.toml"), text)
    }

    #[test]
    fn the_contracts_example_becomes_a_function() {
        let manifest = parse(
            "name = \"hello\"\n[[function]]\nname = \"hello\"\ncomponent = \"hello.wasm\"\n\
             route = \"/hello\"\ntimeout = \"5s\"\nmemory = \"64MiB\"\nconcurrency = 100\n\
             [function.env]\nGREETING = \"hi\"\n",
        )
        .unwrap();
        let function =
            manifest.function(manifest.functions().next().unwrap(), Digest::of(b""), None);
        assert_eq!(function.spec.routes[0].path, "/hello");
        assert_eq!(function.spec.template.limits.timeout, Millis::secs(5));
        assert_eq!(function.spec.template.env["GREETING"], "hi");
        assert_eq!(function.metadata.labels["app"], "hello");
    }

    #[test]
    fn a_route_says_which_regions_take_over_and_what_each_gets() {
        let text = |more: &str| {
            format!("name = \"x\"\n[[function]]\nname = \"f\"\ncomponent = \"x\"\n{more}\n")
        };
        let route = |more: &str| {
            let manifest = parse(&text(more)).unwrap();
            let entry = manifest.functions().next().unwrap();
            manifest.function(entry, Digest::of(b""), None).spec.routes
        };
        let failover = "failover = [{ from = \"eu\", to = [\"us\", \"ap\"] }]";
        let routes = route(failover);
        assert_eq!((routes.len(), routes[0].path.as_str()), (1, "/f"), "the default route");
        assert_eq!(
            (routes[0].failover[0].from.as_str(), routes[0].failover[0].to.len()),
            ("eu", 2)
        );
        let tables =
            "route = \"/r\"\n[[function.distribute]]\nfrom = \"eu\"\nto = { eu = 70, us = 30 }";
        let routes = route(tables);
        assert_eq!((routes[0].path.as_str(), routes[0].distribute[0].to["us"]), ("/r", 30));
        assert!(route("").is_empty());
        assert_eq!(route("hosts = [\"a.example\"]")[0].path, "/");
        let detail = parse(&text(&tables.replace("70", "60"))).unwrap_err().detail;
        assert!(detail.contains("spec.routes[0].distribute[0].to"), "{detail}");
    }

    #[test]
    fn those_that_others_are_near_to_are_deployed_first() {
        let read = |near: &[(&str, &str)]| {
            let mut text = "name = \"x\"\n".to_owned();
            for (name, near) in near {
                text += &format!(
                    "[[function]]\nname = \"{name}\"\ncomponent = \"x\"\nnear = [{near}]\n"
                );
            }
            parse(&text)
        };
        let order = |near: &[(&str, &str)]| {
            let manifest = read(near).unwrap();
            let order = manifest.in_order().into_iter().map(|entry| entry.name.clone());
            order.collect::<Vec<String>>().join(" ")
        };
        assert_eq!(
            order(&[("web", "\"api\""), ("api", "\"db\", \"other\""), ("db", "")]),
            "db api web"
        );
        assert_eq!(order(&[("b", ""), ("a", "")]), "b a", "else that of the file");
        // Of a circle nothing is deployed.
        let circle = [("a", "\"b\""), ("b", "\"c\""), ("c", "\"b\", \"d\""), ("d", "")];
        let problem = read(&circle).unwrap_err();
        assert_eq!(problem.code, codes::NEAR_CIRCLE);
        assert!(problem.detail.contains("b → c → b: each is to be near"), "{problem}");
        let manifest =
            parse("name = \"x\"\n[[function]]\nname = \"a\"\ncomponent = \"x\"\napart = [\"b\"]\n");
        let manifest = manifest.unwrap();
        let entry = manifest.functions().next().unwrap();
        let function = manifest.function(entry, Digest::of(b""), None);
        assert_eq!(function.spec.placement.apart, ["b"]);
    }

    #[test]
    fn faults_are_told_with_line_column_and_the_nearest_name() {
        let problem = parse("name = \"x\"\n[[function]]\nname = \"x\"\ncomponnent = \"x\"\n");
        let detail = problem.unwrap_err().detail;
        assert!(detail.contains("swarmer.toml:4:1"), "{detail}");
        assert!(detail.contains("did you mean `component`"), "{detail}");
        // Above the functions too: a slip, a longer word, one that belongs below.
        for (line, says) in [
            ("nmae = \"x\"", "did you mean `name`?"),
            ("namespcae = \"x\"", "did you mean `namespace`?"),
            ("timeout = \"5s\"", "`timeout` belongs into a [[function]]"),
            ("rout = \"/x\"", "`route` belongs into a [[function]]"),
            ("colour = 1", "`name`, `namespace`, `function`"),
        ] {
            let text = format!("{line}\n[[function]]\nname = \"x\"\ncomponent = \"x\"\n");
            let detail = parse(&text).unwrap_err().detail;
            assert!(detail.contains("swarmer.toml:1:1") && detail.contains(says), "{detail}");
        }
        let detail = parse("name = \n").unwrap_err().detail;
        assert!(detail.contains("swarmer.toml:1:"), "{detail}");
    }

    #[test]
    fn rules_of_functions_hold_here_too() {
        let text = "name = \"x\"\n[[function]]\nname = \"X!\"\ncomponent = \"x\"\n";
        assert!(parse(text).unwrap_err().detail.contains("metadata.name"));
        let text = "name = \"x\"\n[[function]]\nname = \"x\"\ncomponent = \"x\"\n\
                    [[function]]\nname = \"x\"\ncomponent = \"y\"\n";
        assert!(parse(text).unwrap_err().detail.contains("two functions"));
        assert!(parse("name = \"x\"\n").unwrap_err().detail.contains("no [[function]]"));
        let text = "name = \"x\"\n[function]\nname = \"x\"\ncomponent = \"x\"\n";
        assert!(parse(text).unwrap_err().detail.contains("in two brackets"));
        // All at once.
        let text = "name = \"x\"\n[[function]]\nname = \"X!\"\ncomponent = \"x\"\n\
                    [[function]]\nname = \"y\"\ncomponent = \"y\"\nroute = \"y\"\n";
        let detail = parse(text).unwrap_err().detail;
        assert!(detail.contains(":2:1: function \"X!\""), "{detail}");
        assert!(detail.contains(":5:1: function \"y\""), "{detail}");
    }
}
