//! `node`: one node in the foreground.

use std::path::PathBuf;

use clap::Args;

use crate::{
    agent::Agent,
    config::{LogFormat, NodeOptions},
    problem::{Outcome, Problem},
    telemetry,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    # three nodes found a cluster, each with the same token file\n  \
    swarmer token bootstrap --out founding.token\n  \
    swarmer node --name a --bootstrap-expect 3 --join a:7400,b:7400,c:7400 --token-file founding.token\n  \
    # another one joins, with a token that is made on a member\n  \
    swarmer token create --out join.token\n  \
    swarmer node --name d --join a:7400 --token-file join.token")]
pub(crate) struct Serve {
    /// Configuration file (TOML); flags and SWARMER_* win over it
    #[arg(long, env = "SWARMER_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: NodeOptions,
}

impl Serve {
    pub(crate) fn run(self) -> Outcome<()> {
        let file = self.config.as_deref().map(NodeOptions::from_file).transpose()?;
        let options = self.options.or(file.unwrap_or_default());
        telemetry::init(options.log_format.unwrap_or(LogFormat::Text));
        crate::planted::choose()?;
        if let Some(parent) = options.die_with {
            crate::process::die_with_parent(parent)?;
        }
        let config = options.check()?;
        // Guests, and the connections between nodes, have threads of their own; these serve
        // ingress, API and everything else.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("swarmer")
            .build()
            .map_err(|error| Problem::new(crate::codes::INTERNAL, error.to_string()))?;
        let outcome = runtime.block_on(async { Agent::start(config).await?.run().await });
        runtime.shutdown_timeout(std::time::Duration::from_secs(2));
        outcome
    }
}
