//! The command line: what is asked, checked and handed to the command that does it.

mod audit;
mod backup;
mod build;
mod chaos;
mod client;
mod cluster;
mod completion;
mod deploy;
mod dev;
mod doctor;
mod document;
mod explain;
mod functions;
mod janitor;
mod keys;
mod lease;
mod logs;
mod options;
mod output;
mod recover;
mod region;
mod resources;
mod rollout;
mod server;
mod token;

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

pub(crate) use client::Client;
pub(crate) use options::{Ask, Asking, ClientOptions, Options, Printing};
pub(crate) use output::{Format, Printer, say};

/// Functions and services with a mesh built in, on a cluster that organises itself.
#[derive(Debug, Parser)]
#[command(
    name = "swarmer",
    version = crate::planted::VERSION,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        swarmer dev                                # a whole local cluster, with an example function\n  \
        swarmer node --bootstrap-expect 3 --join a:7400,b:7400,c:7400 --token-file founding.token\n  \
        swarmer deploy hello.wasm --name hello     # deploy a component\n  \
        swarmer members                            # who is there, and why it thinks so"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
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
    Members(Asking<cluster::Members>),
    /// Show leader, revision, quorum and health
    Status(Asking<cluster::Status>),
    /// Find what is wrong with the cluster, and what to do about it
    Doctor(Asking<doctor::Doctor>),
    /// Deploy a component file, or an app's folder with swarmer.toml
    Deploy(Asking<deploy::Deploy>),
    /// Create or change resources from a file (YAML or JSON; - reads standard input)
    Apply(Asking<resources::Apply>),
    /// List resources, or show one
    Get(Asking<resources::Get>),
    /// Show everything about one resource, with what the cluster makes of it
    Describe(Asking<resources::Describe>),
    /// Delete a resource
    Delete(Asking<resources::Delete>),
    /// Show what `apply` would change, and refuse what it would refuse
    Diff(Asking<resources::Diff>),
    /// Send a request to a function through the ingress
    Invoke(functions::Invoke),
    /// Show what a function wrote
    Logs(Asking<logs::Logs>),
    /// Look at and steer versions
    Rollout(functions::Rollout),
    /// Hold a name alone, for a bounded time, with a token that fences off earlier holders
    Lease(lease::Lease),
    /// Empty a node: no new work, what runs is finished
    Drain(Asking<cluster::Drain>),
    /// List regions, and empty all nodes of one at once
    Region(region::Region),
    /// List and rotate the keys that the members share
    Keys(keys::Keys),
    /// Show what was changed by way of a node and what it refused, or check that record
    Audit(Asking<audit::Audit>),
    /// Write all functions with their components to one file, from a cluster that goes on serving
    Backup(Asking<backup::Backup>),
    /// Put the functions of a backup into a cluster that has none of them
    Restore(Asking<backup::Restore>),
    /// Let a cluster go on from one voter when a majority is gone for good
    Recover(recover::Recover),
    /// Strike the nodes of a cluster that may fail, and see what its users would see
    Chaos(Asking<chaos::Chaos>),
    /// Explain an error code, or why a function stands where it stands
    Explain(explain::Explain),
    /// Print the completion script of a shell
    Completion(completion::Completion),
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
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli),
        // Help and version are no errors, everything else is a usage error.
        Err(error) if error.use_stderr() => {
            let text = error.render().to_string();
            let why = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let (code, summary) = (codes::USAGE, codes::USAGE.summary);
            say(&format!("error: {code} {summary}\n  why:  {why}"));
            return ExitCode::from(code.exit_code());
        }
        Err(help) => {
            help.print().map_err(|error| output::unprinted(&error)).map(|()| ExitCode::SUCCESS)
        }
    };
    match outcome {
        Ok(code) => code,
        Err(problem) => {
            if problem.code != codes::OUTPUT_CLOSED {
                say(&format!("error: {problem}"));
            }
            ExitCode::from(problem.code.exit_code())
        }
    }
}

fn run(cli: Cli) -> Outcome<ExitCode> {
    let options = cli.options;
    match cli.command {
        Command::Dev(dev) => options.none().and_then(|()| dev.run())?,
        Command::Node(serve) => options.none().and_then(|()| serve.run())?,
        Command::Token(token) => match token.command {
            token::TokenCommand::Bootstrap(bootstrap) => {
                options.none().and_then(|()| bootstrap.run())?;
            }
            token::TokenCommand::Create(create) => ask(options, create)?,
            token::TokenCommand::List(list) => ask(options, list)?,
            token::TokenCommand::Revoke(revoke) => ask(options, revoke)?,
        },
        Command::Members(members) => ask(options, members)?,
        Command::Status(status) => ask(options, status)?,
        Command::Doctor(doctor) => ask(options, doctor)?,
        Command::Deploy(deploy) => ask(options, deploy)?,
        Command::Apply(apply) => ask(options, apply)?,
        Command::Get(get) => ask(options, get)?,
        Command::Describe(describe) => ask(options, describe)?,
        Command::Delete(delete) => ask(options, delete)?,
        Command::Diff(diff) => ask(options, diff)?,
        Command::Invoke(invoke) => {
            let client = options.client(invoke.client.clone())?;
            talk(invoke.run(&client))?;
        }
        Command::Logs(logs) => ask(options, logs)?,
        Command::Rollout(rollout) => match rollout.command {
            functions::RolloutCommand::Status(status) => ask(options, status)?,
            functions::RolloutCommand::Undo(undo) => ask(options, undo)?,
        },
        Command::Lease(lease) => match lease.command {
            lease::LeaseCommand::Acquire(acquire) => ask(options, acquire)?,
            lease::LeaseCommand::Renew(renew) => ask(options, renew)?,
            lease::LeaseCommand::Release(release) => ask(options, release)?,
            lease::LeaseCommand::List(list) => ask(options, list)?,
        },
        Command::Drain(drain) => ask(options, drain)?,
        Command::Region(region) => match region.command {
            region::RegionCommand::List(list) => ask(options, list)?,
            region::RegionCommand::Drain(drain) => ask(options, drain)?,
            region::RegionCommand::Resume(resume) => ask(options, resume)?,
            region::RegionCommand::Lead(lead) => ask(options, lead)?,
        },
        Command::Chaos(chaos) => ask(options, chaos)?,
        Command::Keys(keys) => match keys.command {
            keys::KeysCommand::List(list) => ask(options, list)?,
            keys::KeysCommand::Rotate(rotate) => ask(options, rotate)?,
        },
        Command::Audit(audit) => ask(options, audit)?,
        Command::Backup(backup) => ask(options, backup)?,
        Command::Restore(restore) => ask(options, restore)?,
        Command::Recover(recover) => options.none().and_then(|()| recover.run())?,
        Command::Explain(explain) => match explain.command {
            Some(explain::ExplainCommand::Placement(placement)) => ask(options, placement)?,
            Some(explain::ExplainCommand::Replay(replay)) => {
                let (replay, printer) = options.printing(replay)?;
                replay.run(&printer)?;
            }
            None => {
                let (code, printer) = options.printing(explain.code)?;
                code.run(&printer)?;
            }
        },
        Command::Completion(completion) => {
            options.none()?;
            completion.run(&mut Cli::command())?;
        }
        Command::Compile { .. } => return Ok(swarmer_runtime::compile_child_main()),
        Command::Janitor(janitor) => janitor.run()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Does a command that talks to a node.
fn ask<T: Args + Ask>(options: Options, asking: Asking<T>) -> Outcome<()> {
    let (command, client, printer) = options.asking(asking)?;
    talk(command.ask(&client, &printer))
}

/// One thread is enough for a client.
fn talk(task: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new(codes::FAILED, error.to_string()))?;
    runtime.block_on(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command that is shown, with the words that lead to it.
    fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        found.push((path.to_owned(), command.clone()));
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            commands(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        commands(&Cli::command(), "swarmer", &mut found);
        found
    }

    #[test]
    fn the_help_of_every_command_has_examples_that_are_understood() {
        for (path, command) in all() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n"), "`{path} --help` has no examples");
            let lines: Vec<&str> =
                help.lines().map(str::trim).filter(|line| line.starts_with("swarmer ")).collect();
            assert!(
                lines.iter().any(|line| line.starts_with(&path)),
                "none of them is of `{path}`"
            );
            for line in lines {
                let line = line.split(['#', '>', '|']).next().unwrap_or_default();
                let words = line.split_whitespace().map(|word| word.trim_matches('"'));
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("`{path} --help` shows `{line}`: {error}");
                }
            }
        }
    }

    #[test]
    fn options_stand_only_where_they_mean_something() {
        let silent = ["dev", "node", "completion", "recover", "token bootstrap"];
        // They print, and ask nobody.
        let printing = ["explain", "explain replay"];
        for (path, command) in all() {
            let has = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
            let name = path.strip_prefix("swarmer ").unwrap_or_default();
            let group = command.has_subcommands() && !name.is_empty();
            let client = !group && !silent.contains(&name) && !printing.contains(&name);
            for flag in ["addr", "token", "cacert"] {
                assert_eq!(has(flag), client, "--{flag} of `{path}`");
            }
            let prints = (client && name != "invoke") || printing.contains(&name);
            assert_eq!(has("output"), prints, "--output of `{path}`");
        }
    }

    #[test]
    fn options_may_stand_before_the_command_but_not_without_a_meaning() {
        for words in [
            "swarmer --addr http://127.0.0.1:1 members -o json",
            "swarmer -o json members --addr http://127.0.0.1:1",
        ] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            let Command::Members(members) = cli.command else { panic!("{words}") };
            let (_, client, printer) = cli.options.asking(members).unwrap();
            assert!(!printer.is_table(), "{words}");
            assert_eq!(client.base(), "http://127.0.0.1:1", "{words}");
        }
        let cli = Cli::try_parse_from(["swarmer", "--addr", "x", "completion", "bash"]).unwrap();
        assert!(run(cli).unwrap_err().detail.contains("--addr"));
    }
}
