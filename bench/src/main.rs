//! Measures Swarmer beside its peers: everything in one run on one machine, so that the figures
//! may be compared with each other. Prints Markdown on standard output, progress on standard
//! error.
//!
//! Everything runs on loopback, on free ports and in temporary folders, and ends with the bench.

mod ceiling;
mod cluster;
mod component;
mod connection;
mod control;
mod deploy;
mod gossip;
mod health;
mod histogram;
mod isolation;
mod load;
mod machine;
mod members;
mod planner;
mod process;
mod rest;
mod room;
mod serve;
mod tail;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures Swarmer beside its peers.
#[derive(Debug, Parser)]
#[command(
    name = "swarmer-bench",
    after_help = "Examples:\n  \
        cargo build --release -p swarmer\n  \
        cargo run --release -p swarmer-bench -- serve --wasmtime ~/.local/bin/wasmtime\n  \
        cargo run --release -p swarmer-bench -- control > control.md\n  \
        cargo run --release -p swarmer-bench -- all > bench.md"
)]
struct Cli {
    /// The binary under test [default: `swarmer` beside this program]
    #[arg(long, global = true)]
    swarmer: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Requests per second, latency, CPU and memory: here, from another node, and of peers
    Serve(serve::Serve),
    /// What three nodes cost that do nothing
    Rest(rest::Rest),
    /// From `swarmer deploy` to the first answer, and from a cached image to the first answer
    Deploy(deploy::Deploy),
    /// What copied artifacts and looping guests do to the round trips of AppendEntries
    Isolation(isolation::Isolation),
    /// The control state beside etcd: puts, gets, watches, failover, memory, disk
    Control(control::Control),
    /// Placing functions on many nodes, and again after a zone is lost; runs no node
    Planner(planner::Planner),
    /// Membership of many nodes in several regions, simulated; runs no node
    Gossip(gossip::Gossip),
    /// Membership of many real nodes beside serf: bytes, CPU, memory, deaths, a healed half
    Members(members::Members),
    /// How soon all nodes leave a copy alone that fails, or whose node dies or goes
    Health(health::Health),
    /// All of them but `control`, `planner`, `gossip`, `members` and `health`, with their defaults
    All,
    /// The ceiling, in a process of its own
    #[command(name = "__hello", hide = true)]
    Hello { address: SocketAddr },
}

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<()> {
    if let Command::Hello { address } = cli.command {
        return ceiling::serve(address);
    }
    // One thread: it starts the processes, which end when the thread that started them does.
    // The load has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = measure(cli) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    // Whatever load still runs has nobody left to talk to.
    runtime.shutdown_background();
    outcome
}

async fn measure(cli: &Cli) -> Result<()> {
    if let Command::Planner(planner) = &cli.command {
        planner.run();
        return Ok(());
    }
    if let Command::Gossip(gossip) = &cli.command {
        return gossip.run();
    }
    let swarmer = swarmer(cli.swarmer.as_deref())?;
    match &cli.command {
        Command::Serve(serve) => {
            machine::print(&swarmer, serve.wasmtime().as_deref()).await?;
            serve.run(&swarmer).await
        }
        Command::Rest(rest) => {
            machine::print(&swarmer, None).await?;
            rest.run(&swarmer).await
        }
        Command::Deploy(deploy) => {
            machine::print(&swarmer, None).await?;
            deploy.run(&swarmer).await
        }
        Command::Isolation(isolation) => {
            machine::print(&swarmer, None).await?;
            isolation.run(&swarmer).await
        }
        Command::Control(control) => {
            machine::print(&swarmer, None).await?;
            control.run(&swarmer).await
        }
        Command::Members(members) => {
            machine::print(&swarmer, None).await?;
            members.run(&swarmer).await
        }
        Command::Health(health) => {
            machine::print(&swarmer, None).await?;
            health.run(&swarmer).await
        }
        Command::All => {
            // Their defaults stand where the command line reads them.
            let of = |name: &str| Cli::try_parse_from(["swarmer-bench", name]);
            let parts = [of("serve")?, of("rest")?, of("deploy")?, of("isolation")?];
            let Command::Serve(serve) = &parts[0].command else { bail!("no such part: serve") };
            machine::print(&swarmer, serve.wasmtime().as_deref()).await?;
            for part in &parts {
                match &part.command {
                    Command::Serve(serve) => serve.run(&swarmer).await?,
                    Command::Rest(rest) => rest.run(&swarmer).await?,
                    Command::Deploy(deploy) => deploy.run(&swarmer).await?,
                    Command::Isolation(isolation) => isolation.run(&swarmer).await?,
                    Command::Control(_)
                    | Command::Planner(_)
                    | Command::Gossip(_)
                    | Command::Members(_)
                    | Command::Health(_)
                    | Command::All
                    | Command::Hello { .. } => {}
                }
            }
            Ok(())
        }
        Command::Planner(_) | Command::Gossip(_) | Command::Hello { .. } => Ok(()),
    }
}

/// The binary under test.
fn swarmer(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("swarmer"),
    };
    std::fs::canonicalize(&path).with_context(|| {
        let profile = if cfg!(debug_assertions) { "" } else { " --release" };
        format!("{} is not there; `cargo build{profile} -p swarmer` makes it", path.display())
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for part in [
            "serve",
            "rest",
            "deploy",
            "isolation",
            "control",
            "gossip",
            "members",
            "health",
            "all",
        ] {
            Cli::try_parse_from(["swarmer-bench", part]).unwrap();
        }
    }
}
