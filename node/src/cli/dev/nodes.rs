//! The processes of a local cluster.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{Client, build::Build, janitor::JanitorLine, say},
    codes,
    problem::{Outcome, Problem},
    process,
};

/// How long a node may take to stop by itself before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Where free ports are looked for.
const FREE_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// How many ports are tried; if so many are taken, something else is wrong.
const PORT_TRIES: usize = 1_000;
/// How many of a node's last log lines are shown when it failed.
const LAST_LINES: usize = 12;

/// A node that ended so often in [`ENDED_WITHIN`] is not started again.
const ENDED_OFTEN: usize = 5;
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// Where a local node listens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) listen: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) api: SocketAddr,
}

impl Ports {
    /// The ports of node `i`: where none is given those that it had, or free ones; `taken` are
    /// those of other nodes.
    pub(super) fn choose(
        i: u32,
        http: Option<u16>,
        api: Option<u16>,
        kept: Option<Self>,
        taken: &mut BTreeSet<u16>,
    ) -> Outcome<Self> {
        let mut port = |flag: &str, first: Option<u16>, kept: Option<SocketAddr>| {
            let kept = kept.filter(|kept| unused(*kept) && taken.insert(kept.port()));
            match (first, kept) {
                (Some(first), _) => given(flag, first, i),
                (None, Some(kept)) => Ok(kept),
                (None, None) => free(taken),
            }
        };
        Ok(Self {
            listen: port("", None, kept.map(|kept| kept.listen))?,
            http: port("--http-port", http, kept.map(|kept| kept.http))?,
            api: port("--api-port", api, kept.map(|kept| kept.api))?,
        })
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The `i`th port from `first` on, if nobody has it.
fn given(flag: &str, first: u16, i: u32) -> Outcome<SocketAddr> {
    let port = u16::try_from(i).ok().and_then(|i| first.checked_add(i)).ok_or_else(|| {
        Problem::new(codes::USAGE, format!("{flag} {first} leaves no ports for all nodes"))
    })?;
    TcpListener::bind(local(port)).map_err(|error| {
        Problem::new(codes::PORT_IN_USE, format!("{flag}: port {port}: {error}"))
    })?;
    Ok(local(port))
}

fn unused(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

/// A port that nobody has. Below the range from which the system takes ports for outgoing
/// connections: one of those may be taken again before the node binds it.
fn free(taken: &mut BTreeSet<u16>) -> Outcome<SocketAddr> {
    for _ in 0..PORT_TRIES {
        let address = local(rand::random_range(FREE_PORTS));
        if unused(address) && taken.insert(address.port()) {
            return Ok(address);
        }
    }
    Err(Problem::new(codes::PORT_IN_USE, "no free port was found on the loopback address"))
}

/// How a node is started.
pub(super) struct Launch {
    pub(super) folder: PathBuf,
    /// Counted from one.
    pub(super) number: usize,
    pub(super) ports: Ports,
    pub(super) seeds: Vec<String>,
    pub(super) token: PathBuf,
    pub(super) founders: usize,
}

impl Launch {
    fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name()))
    }

    fn spawn(&self) -> Outcome<Child> {
        let name = self.name();
        let fail = |error: std::io::Error| {
            Problem::new(codes::FAILED, format!("cannot start {name}: {error}"))
        };
        let output = File::options().create(true).append(true).open(self.log()).map_err(fail)?;
        let program = std::env::current_exe().map_err(fail)?;
        let mut command = Command::new(program);
        // A configuration meant for a real node must not leak into this one.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("SWARMER_") && key != "SWARMER_LOG" {
                command.env_remove(key);
            }
        }
        command
            .arg("node")
            .args(["--name", &name])
            .arg("--data-dir")
            .arg(self.folder.join(&name))
            .args(["--listen", &self.ports.listen.to_string()])
            .args(["--http", &self.ports.http.to_string()])
            .args(["--api", &self.ports.api.to_string()])
            .args(["--join", &self.seeds.join(",")])
            .arg("--token-file")
            .arg(&self.token)
            .args(["--bootstrap-expect", &self.founders.to_string()])
            .args(["--die-with", &std::process::id().to_string()])
            // Ctrl-C of the terminal reaches `dev` alone, which stops the nodes in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(fail)?)
            .stderr(output)
            .spawn()
            .map_err(fail)
    }
}

/// One node of the local cluster.
pub(super) struct DevNode {
    pub(super) name: String,
    pub(super) ports: Ports,
    launch: Launch,
    child: Child,
    /// When it ended, the last times.
    ended: Vec<Instant>,
}

impl DevNode {
    pub(super) fn start(launch: Launch) -> Outcome<Self> {
        let child = launch.spawn()?;
        Ok(Self { name: launch.name(), ports: launch.ports, launch, child, ended: Vec::new() })
    }

    /// Starts it once more after it ended; gives its end back if it does so all the time.
    pub(super) fn start_again(&mut self, problem: Problem) -> Outcome<()> {
        self.ended.push(Instant::now());
        self.ended.retain(|ended| ended.elapsed() < ENDED_WITHIN);
        if self.ended.len() >= ENDED_OFTEN {
            return Err(problem);
        }
        self.child = self.launch.spawn()?;
        Ok(())
    }

    pub(super) fn client(&self) -> Outcome<Client> {
        Client::new(&format!("http://{}", self.ports.api), None, None)
    }

    pub(super) fn terminate(&self) {
        process::signal(self.child.id(), rustix::process::Signal::TERM);
    }

    /// Waits until it is gone, and kills it if that takes too long.
    pub(super) async fn wait(&mut self) {
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > STOP_DEADLINE {
                say(&format!("{} does not stop; killing it", self.name));
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of its log.
    pub(super) fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(self.launch.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LAST_LINES);
        lines[from..].iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// The first node that ended by itself, if one did, and how.
pub(super) fn exited(nodes: &mut [DevNode]) -> Option<(usize, Problem)> {
    nodes.iter_mut().enumerate().find_map(|(i, node)| {
        let status = node.child.try_wait().ok().flatten()?;
        let why =
            format!("{} ended with {status}; its last lines:\n{}", node.name, node.last_lines());
        Some((i, Problem::new(codes::FAILED, why)))
    })
}

/// Waits until a node ends by itself.
pub(super) async fn first_exit(nodes: &mut [DevNode]) -> (usize, Problem) {
    loop {
        if let Some(ended) = exited(nodes) {
            return ended;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The process that cleans up when this one is killed.
pub(super) struct Janitor {
    child: Child,
}

impl Janitor {
    pub(super) fn start(remove: Option<&Path>) -> Outcome<Self> {
        let fail = |error: std::io::Error| Problem::new(codes::FAILED, error.to_string());
        let mut command = Command::new(std::env::current_exe().map_err(fail)?);
        command.arg("__janitor");
        if let Some(folder) = remove {
            command.arg("--remove").arg(folder);
        }
        let child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        Ok(Self { child })
    }

    pub(super) fn tell(&mut self, node: &DevNode) -> Outcome<()> {
        self.write(&JanitorLine::Node(node.child.id()))
    }

    pub(super) fn tell_build(&mut self, build: Build) -> Outcome<()> {
        self.write(&match build {
            Build::Begun(group) => JanitorLine::Build(group),
            Build::Over(group) => JanitorLine::Built(group),
        })
    }

    fn write(&mut self, line: &JanitorLine) -> Outcome<()> {
        let pipe = self.child.stdin.as_mut();
        let told = pipe.map(|pipe| writeln!(pipe, "{line}").and_then(|()| pipe.flush()));
        match told {
            Some(Ok(())) => Ok(()),
            _ => Err(Problem::new(codes::FAILED, "the process that cleans up is gone")),
        }
    }

    /// Lets it clean up, and waits for that.
    pub(super) fn finish(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
