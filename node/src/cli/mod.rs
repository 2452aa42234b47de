//! The command line: what is asked, checked and handed to the command that does it.

mod client;
mod cluster;
mod deploy;
mod dev;
mod doctor;
mod explain;
mod functions;
mod janitor;
mod logs;
mod output;
mod resources;
mod server;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::problem::{Outcome, Problem};

pub(crate) use client::{Client, ClientOptions};
pub(crate) use output::{Output, Printer};

/// Functions and services with a mesh built in, on a cluster that organises itself.
#[derive(Debug, Parser)]
#[command(
    name = "swarmer",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        swarmer dev                                  a whole local cluster, with an example function\n  \
        swarmer node --bootstrap-expect 3 --join a:7400,b:7400,c:7400 --token-file founding.token\n  \
        swarmer deploy hello.wasm --name hello       deploy a component\n  \
        swarmer members                              who is there, and why it thinks so"
)]
struct Cli {
    #[command(flatten)]
    client: ClientOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole local cluster; Ctrl-C stops it and leaves nothing behind
    Dev(dev::Dev),
    /// Run one node
    Node(server::Serve),
    /// Make, list and revoke tokens
    Token(token::Token),
    /// List the members, and why they are thought to be alive or not
    Members,
    /// Show leader, revision, quorum and health
    Status,
    /// Find what is wrong with the cluster, and what to do about it
    Doctor(doctor::Doctor),
    /// Deploy a component file, or an app's folder with swarmer.toml
    Deploy(deploy::Deploy),
    /// Create or change resources from a file (YAML or JSON; - reads standard input)
    Apply(resources::Apply),
    /// List resources, or show one
    Get(resources::Get),
    /// Show everything about one resource, with what the cluster makes of it
    Describe(resources::Get),
    /// Delete a resource
    Delete(resources::Delete),
    /// Show what `apply` would change
    Diff(resources::Apply),
    /// Send a request to a function through the ingress
    Invoke(functions::Invoke),
    /// Show what a function wrote
    Logs(logs::Logs),
    /// Look at and steer versions
    Rollout(functions::Rollout),
    /// Empty a node: no new work, what runs is finished
    Drain(cluster::Drain),
    /// Explain an error code
    Explain(explain::Explain),
    /// Print the completion script of a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Compiles one component in a process of its own
    #[command(name = "__compile", hide = true)]
    Compile {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Cleans up after a `dev` that was killed
    #[command(name = "__janitor", hide = true)]
    Janitor(janitor::Janitor),
}

/// Reads the command line, does what it says, and gives the exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, everything else is a usage error: exit code 2.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(problem.code.exit_code())
        }
    }
}

fn run(cli: Cli) -> Outcome<ExitCode> {
    let printer = Printer::new(cli.client.output);
    let done = |outcome: Outcome<()>| outcome.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "swarmer", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain(explain) => done(explain.run(&printer)),
        Command::Compile { .. } => Ok(swarmer_runtime::compile_child_main()),
        Command::Janitor(janitor) => done(janitor.run()),
        Command::Node(serve) => serve.run(),
        Command::Dev(dev) => dev.run(),
        Command::Token(token::Token { command: token::TokenCommand::Bootstrap }) => {
            done(token::bootstrap(&printer))
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Problem::new(crate::codes::FAILED, error.to_string()))?;
            done(runtime.block_on(ask(command, &cli.client, &printer)))
        }
    }
}

/// The commands that talk to a running node.
async fn ask(command: Command, options: &ClientOptions, printer: &Printer) -> Outcome<()> {
    let client = Client::new(options)?;
    match command {
        Command::Token(token) => token.run(&client, printer).await,
        Command::Members => cluster::members(&client, printer).await,
        Command::Status => cluster::status(&client, printer).await,
        Command::Doctor(doctor) => doctor.run(&client, printer).await,
        Command::Drain(drain) => drain.run(&client, printer).await,
        Command::Deploy(deploy) => deploy.run(&client, printer).await,
        Command::Apply(apply) => apply.run(&client, printer).await,
        Command::Diff(apply) => apply.diff(&client, printer).await,
        Command::Get(get) => get.run(&client, printer).await,
        Command::Describe(get) => get.describe(&client, printer).await,
        Command::Delete(delete) => delete.run(&client, printer).await,
        Command::Invoke(invoke) => invoke.run(&client).await,
        Command::Logs(logs) => logs.run(&client, printer).await,
        Command::Rollout(rollout) => rollout.run(&client, printer).await,
        Command::Dev(_)
        | Command::Node(_)
        | Command::Explain(_)
        | Command::Completion { .. }
        | Command::Compile { .. }
        | Command::Janitor(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
