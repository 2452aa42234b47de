//! How a node's process is started.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    binary::Binary, fittings::Fittings, gateway::Port, network::Network, node::Start,
    regions::Regions, site::Site,
};

/// What is the same for all nodes of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) binary: Binary,
    pub(super) token: PathBuf,
    /// Where every founder listens.
    pub(super) seeds: Vec<String>,
    /// How many found the cluster together.
    pub(super) expect: usize,
    /// Where the founders stand.
    pub(super) regions: Option<Regions>,
    /// Where each founder stands and what it can hold, if that is said.
    pub(super) sites: &'static [Site],
}

/// Where a node listens for the others.
pub(super) fn listen(node: usize) -> String {
    format!("{}:7400", Network::address(node))
}

impl Launch {
    /// The start of one node.
    pub(super) fn of(&self, node: usize, name: &str, fittings: &Fittings) -> Start {
        let (launch, name) = (self.clone(), name.to_owned());
        let (by, data) = (fittings.by.clone(), fittings.data.clone());
        Arc::new(move || launch.command(node, &name, &by, &data))
    }

    fn command(&self, node: usize, name: &str, by: &[String], data: &Path) -> Command {
        let mut command = self.binary.command_by(by);
        command.args(["node", "--name", name, "--listen", &listen(node)]);
        command.arg("--data-dir").arg(data).arg("--token-file").arg(&self.token);
        command.args(["--bootstrap-expect", &self.expect.to_string()]);
        if !self.seeds.is_empty() {
            command.args(["--join", &self.seeds.join(",")]);
        }
        command.args(["--api", &format!("127.0.0.1:{}", Port::Api.number())]);
        command.args(["--http", &format!("127.0.0.1:{}", Port::Http.number())]);
        // A founder says it; one that joins has it from its token.
        let region = self.regions.and_then(|regions| regions.name(node));
        if let Some(region) = region.filter(|_| node < self.expect) {
            command.args(["--region", region]);
        }
        command.args(self.sites.get(node).map(Site::flags).unwrap_or_default());
        command.args(["--die-with", &std::process::id().to_string()]);
        command
    }
}
