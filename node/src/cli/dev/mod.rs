//! `dev`: a whole local cluster in one command, in the foreground.

mod folder;
mod nodes;
mod watch;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;
use swarmer_model::{Digest, Function, Metadata};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::{
        Client, Format, Printer,
        deploy::{Deploy, deploy},
        say,
    },
    codes,
    problem::{Outcome, Problem},
};
use folder::{Folder, Plan};
use nodes::{DevNode, Janitor, Launch, Ports};

/// The most nodes of a local cluster: each is a process of its own.
const MAX_NODES: u32 = 15;
/// How long the cluster may take to come up.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often readiness is asked for.
const POLL: Duration = Duration::from_millis(50);

/// The example that `dev` deploys when it is given nothing else; made by the build from WAT + WIT.
const EXAMPLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello.wasm"));

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer dev                     # three nodes and an example function\n  \
    swarmer dev --nodes 1 hello.wasm\n  \
    swarmer dev --dir ./cluster     # keeps the cluster; the same command goes on with it\n  \
    swarmer dev --watch ./my-app    # deploys again whenever a file changes")]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Folder for the nodes' data, kept at the end; a cluster that is there goes on [default: a
    /// temporary one, removed]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// First ingress port; the nodes take it and the ones after it [default: free ones]
    #[arg(long)]
    http_port: Option<u16>,
    /// First API port [default: free ones]
    #[arg(long)]
    api_port: Option<u16>,
    /// Deploy again when a file of WHAT changes
    #[arg(long)]
    watch: bool,
    /// Component files, app folders or manifests [default: the bundled example]
    what: Vec<PathBuf>,
}

impl Dev {
    pub(crate) fn run(self) -> Outcome<()> {
        if self.nodes == 0 || self.nodes > MAX_NODES {
            let why = format!("--nodes is {}: must be from 1 to {MAX_NODES}", self.nodes);
            return Err(Problem::new(codes::USAGE, why));
        }
        for path in &self.what {
            if !path.exists() {
                let why = format!("{} does not exist", path.display());
                return Err(Problem::new(codes::FILE, why));
            }
        }
        // On this thread, which lives as long as the process: nodes end with the thread that
        // started them.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Problem::new(codes::FAILED, error.to_string()))?;
        runtime.block_on(self.supervise())
    }

    async fn supervise(self) -> Outcome<()> {
        let mut stop = Stop::new()?;
        let printer = Printer::new(Format::Table);
        let folder = Folder::open(self.dir.as_deref(), self.nodes)?;
        let mut janitor = Janitor::start(folder.temporary.then_some(folder.path.as_path()))?;
        let mut nodes = Vec::new();
        let outcome = tokio::select! {
            biased;
            () = stop.wait() => Ok(()),
            left = printer.reader_left() => Err(left),
            outcome = self.serve(&folder, &mut janitor, &mut nodes, &printer) => outcome,
        };
        if outcome.is_ok() {
            say(&format!("\nstopping {} node(s)", nodes.len()));
        }
        for node in &nodes {
            node.terminate();
        }
        for node in &mut nodes {
            node.wait().await;
        }
        janitor.finish();
        outcome
    }

    /// Brings everything up, and stays; a node that ends is started again.
    async fn serve(
        &self,
        folder: &Folder,
        janitor: &mut Janitor,
        nodes: &mut Vec<DevNode>,
        printer: &Printer,
    ) -> Outcome<()> {
        let start = Instant::now();
        self.start_nodes(folder, janitor, nodes).await?;
        let took = start.elapsed().as_secs_f64();
        say(&format!("cluster of {} ready in {took:.1} s", nodes.len()));
        let client = nodes[0].client()?;
        self.deploy_all(&client, printer, janitor).await?;
        print_summary(&client, nodes, printer).await?;
        let mut changes = watch::Changes::new(&self.what);
        loop {
            tokio::select! {
                ended = nodes::first_exit(nodes) => {
                    let (i, problem) = ended;
                    say(&format!("{}\nstarting it again", problem.detail));
                    nodes[i].start_again(problem)?;
                    janitor.tell(&nodes[i])?;
                }
                () = changes.next(), if self.watch => {
                    say("a file changed: deploying again");
                    if let Err(problem) = self.deploy_all(&client, printer, janitor).await {
                        if problem.code == codes::OUTPUT_CLOSED {
                            return Err(problem);
                        }
                        say(&format!("error: {problem}"));
                    }
                }
            }
        }
    }

    async fn start_nodes(
        &self,
        folder: &Folder,
        janitor: &mut Janitor,
        nodes: &mut Vec<DevNode>,
    ) -> Outcome<()> {
        let before = folder.plan.clone().unwrap_or_default();
        // Voters are an odd number; the others join as any node would.
        let founders = match (before.founders, self.nodes) {
            (0, 1 | 2) => 1,
            (0, _) => 3,
            (founders, _) => founders,
        };
        let path = &folder.path;
        say(&format!("starting {} node(s), data in {}", self.nodes, path.display()));
        let token = path.join("founding.token");
        if !token.exists() {
            let secret = swarmer_mesh::founding::FoundingToken::generate();
            crate::agent::data_dir::write_bytes(&token, secret.text().as_bytes())?;
        }
        let mut taken = BTreeSet::new();
        let mut ports = Vec::new();
        for i in 0..self.nodes {
            let kept = before.ports.get(ports.len()).copied();
            ports.push(Ports::choose(i, self.http_port, self.api_port, kept, &mut taken)?);
        }
        folder.keep(&Plan { founders, ports: ports.clone() })?;
        let seeds: Vec<String> =
            ports.iter().take(founders).map(|ports| ports.listen.to_string()).collect();
        let launch = |i: usize, token: &Path| Launch {
            folder: path.clone(),
            number: i + 1,
            ports: ports[i],
            seeds: seeds.clone(),
            token: token.to_owned(),
            founders,
        };
        for i in 0..founders {
            let node = DevNode::start(launch(i, &token))?;
            janitor.tell(&node)?;
            nodes.push(node);
        }
        wait_ready(nodes, 0).await?;
        if ports.len() == founders {
            return Ok(());
        }
        let client = nodes[0].client()?;
        let uses = ports.len() - founders;
        let request = serde_json::json!({ "kind": "join", "uses": uses, "ttl": "1h" });
        let answer = client.json(http::Method::POST, "/v1/tokens", &request).await?;
        let join = path.join("join.token");
        let text = answer["token"].as_str().unwrap_or_default();
        crate::agent::data_dir::write_bytes(&join, text.as_bytes())?;
        for i in founders..ports.len() {
            let node = DevNode::start(launch(i, &join))?;
            janitor.tell(&node)?;
            nodes.push(node);
        }
        wait_ready(nodes, founders).await
    }

    async fn deploy_all(
        &self,
        client: &Client,
        printer: &Printer,
        janitor: &mut Janitor,
    ) -> Outcome<()> {
        if self.what.is_empty() {
            let function = Function::new(Metadata::named("hello"), Digest::of(EXAMPLE));
            deploy(client, printer, function, EXAMPLE.to_vec(), true).await?;
        }
        for path in &self.what {
            let mut watch = |build| janitor.tell_build(build);
            Deploy::of_path(path.clone()).carry_out(client, printer, Some(&mut watch)).await?;
        }
        Ok(())
    }
}

async fn print_summary(client: &Client, nodes: &[DevNode], printer: &Printer) -> Outcome<()> {
    printer.text("\n")?;
    crate::cli::cluster::members(client, printer).await?;
    let mut text = String::from("\n");
    for node in nodes {
        let (name, ports) = (&node.name, node.ports);
        text.push_str(&format!(
            "{name:<8} ingress http://{}   API http://{}\n",
            ports.http, ports.api
        ));
    }
    let functions: Value = client.get("/v1/namespaces/default/functions").await?;
    let routes = functions["items"].as_array().into_iter().flatten();
    text.push_str("\ntry:\n");
    let ports = nodes[0].ports;
    for path in routes.filter_map(|f| f["spec"]["routes"][0]["path"].as_str()) {
        text.push_str(&format!("  curl http://{}{path}\n", ports.http));
    }
    text.push_str(&format!(
        "  export SWARMER_ADDR=http://{}   # for swarmer members, deploy, logs, …\n\n\
         Ctrl-C stops the cluster\n",
        ports.api
    ));
    printer.text(&text)
}

/// Waits for the nodes from `first` on.
async fn wait_ready(nodes: &mut [DevNode], first: usize) -> Outcome<()> {
    let start = Instant::now();
    for i in first..nodes.len() {
        let client = nodes[i].client()?;
        let mut told = String::new();
        loop {
            if let Some((_, problem)) = nodes::exited(nodes) {
                return Err(problem);
            }
            let why = match client.get::<Value>("/readyz").await {
                Ok(_) => break,
                Err(problem) => problem.detail,
            };
            if start.elapsed() > READY_DEADLINE {
                let why = format!(
                    "{} is not ready after {} s: {why}\n{}",
                    nodes[i].name,
                    READY_DEADLINE.as_secs(),
                    nodes[i].last_lines()
                );
                return Err(Problem::new(codes::FAILED, why));
            }
            // What a node waits for is worth telling when it takes a moment.
            if start.elapsed() > Duration::from_secs(2) && why != told {
                say(&format!("  {}: {why}", nodes[i].name));
                told = why;
            }
            tokio::time::sleep(POLL).await;
        }
        say(&format!("  {} is ready", nodes[i].name));
    }
    Ok(())
}

/// Ctrl-C, SIGTERM and the terminal going away.
struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    fn new() -> Outcome<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| Problem::new(codes::FAILED, error.to_string()));
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
