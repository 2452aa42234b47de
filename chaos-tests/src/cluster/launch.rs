//! How a node's process is started.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{binary::Binary, fittings::Fittings, gateway::Port, network::Network, node::Start};

/// What is the same for all nodes of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) binary: Binary,
    pub(super) token: PathBuf,
    /// Where every founder listens.
    pub(super) seeds: Vec<String>,
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
        command.args(["--bootstrap-expect", &self.seeds.len().to_string()]);
        command.args(["--join", &self.seeds.join(",")]);
        command.args(["--api", &format!("127.0.0.1:{}", Port::Api.number())]);
        command.args(["--http", &format!("127.0.0.1:{}", Port::Http.number())]);
        command.args(["--die-with", &std::process::id().to_string()]);
        command
    }
}
