//! Options that several commands have. Each command has only those that it uses; they may stand
//! before it or behind it.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::{Client, Format, Printer},
    codes,
    problem::{Outcome, Problem},
};

/// The API of a node with default settings on this machine.
const DEFAULT_ADDR: &str = "http://127.0.0.1:7401";

// The environment is read by hand: a flag before the command must win over it, too.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of the API")]
pub(crate) struct ClientOptions {
    /// The API of any node [env: SWARMER_ADDR] [default: http://127.0.0.1:7401]
    #[arg(long)]
    addr: Option<String>,
    /// API token [env: SWARMER_TOKEN]
    #[arg(long)]
    token: Option<String>,
    /// CA certificate (PEM) that the API's certificate must come from [env: SWARMER_CACERT]
    #[arg(long)]
    cacert: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PrintOptions {
    /// How results are printed [default: table]
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// What stands before the command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    client: ClientOptions,
    #[command(flatten)]
    print: PrintOptions,
}

/// A command that talks to a node and prints what it answers.
#[derive(Debug, Args)]
pub(crate) struct Asking<T: Args> {
    #[command(flatten)]
    command: T,
    #[command(flatten)]
    print: PrintOptions,
    #[command(flatten)]
    client: ClientOptions,
}

/// A command that prints, and talks to nobody.
#[derive(Debug, Args)]
pub(crate) struct Printing<T: Args> {
    #[command(flatten)]
    command: T,
    #[command(flatten)]
    print: PrintOptions,
}

/// What a command does that talks to a node.
pub(crate) trait Ask {
    /// Asks `client`, and prints by `printer`.
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()>;
}

impl Options {
    /// The command, its client and its printer.
    pub(crate) fn asking<T: Args>(self, asking: Asking<T>) -> Outcome<(T, Client, Printer)> {
        let printer = asking.print.over(&self.print).printer();
        Ok((asking.command, asking.client.over(self.client).client()?, printer))
    }

    /// The command and its printer.
    pub(crate) fn printing<T: Args>(self, printing: Printing<T>) -> Outcome<(T, Printer)> {
        self.client.refuse()?;
        Ok((printing.command, printing.print.over(&self.print).printer()))
    }

    /// The client of a command that prints only what a function answers.
    pub(crate) fn client(self, client: ClientOptions) -> Outcome<Client> {
        self.print.refuse()?;
        client.over(self.client).client()
    }

    /// For commands that use none of them.
    pub(crate) fn none(self) -> Outcome<()> {
        self.client.refuse()?;
        self.print.refuse()
    }
}

impl ClientOptions {
    fn over(self, before: Self) -> Self {
        Self {
            addr: self.addr.or(before.addr),
            token: self.token.or(before.token),
            cacert: self.cacert.or(before.cacert),
        }
    }

    fn client(self) -> Outcome<Client> {
        let addr = self.addr.or_else(|| environment("SWARMER_ADDR"));
        let token = self.token.or_else(|| environment("SWARMER_TOKEN"));
        let cacert = self.cacert.or_else(|| environment("SWARMER_CACERT").map(PathBuf::from));
        Client::new(addr.as_deref().unwrap_or(DEFAULT_ADDR), token, cacert.as_deref())
    }

    fn refuse(&self) -> Outcome<()> {
        unused("--addr", self.addr.is_some())?;
        unused("--token", self.token.is_some())?;
        unused("--cacert", self.cacert.is_some())
    }
}

impl PrintOptions {
    fn over(&self, before: &Self) -> Self {
        Self { output: self.output.or(before.output) }
    }

    fn printer(&self) -> Printer {
        Printer::new(self.output.unwrap_or(Format::Table))
    }

    fn refuse(&self) -> Outcome<()> {
        unused("--output", self.output.is_some())
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn unused(flag: &str, given: bool) -> Outcome<()> {
    if given {
        let why = format!("{flag} means nothing to this command");
        return Err(Problem::new(codes::USAGE, why));
    }
    Ok(())
}
