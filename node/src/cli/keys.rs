//! `keys`: list, rotate.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::{
    cli::{Ask, Asking, Client, Printer},
    problem::Outcome,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer keys list\n  \
    swarmer keys rotate\n  \
    swarmer keys rotate --authority")]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys that members seal gossip with and the authorities, by number, and how far a
    /// rotation is
    List(Asking<List>),
    /// Replace the key of gossip, or the authority; removing a node does so by itself
    Rotate(Asking<Rotate>),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer keys list\n  \
    swarmer keys list -o json")]
pub(crate) struct List;

impl Ask for List {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let list: Value = client.get("/v1/keys").await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        printer.list(
            &items,
            &[
                ("NAME", "name"),
                ("KEY", "key"),
                ("HELD", "held"),
                ("PHASE", "phase"),
                ("WANTED", "wanted"),
                ("FINGERPRINT", "fingerprint"),
            ],
        )
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer keys rotate\n  \
    swarmer keys rotate --authority\n  \
    swarmer keys rotate -o json\n\n\
    After the authority has changed, join tokens made before are of no use, and clients of an API\n\
    with TLS need the new ca.pem of a node's data directory.")]
pub(crate) struct Rotate {
    /// The authority that signs the nodes' certificates, instead of the key of gossip
    #[arg(long)]
    authority: bool,
}

impl Ask for Rotate {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let (path, what) = match self.authority {
            true => ("/v1/keys/authority/rotate", "authority"),
            false => ("/v1/keys/gossip/rotate", "key"),
        };
        let answer = client.json(Method::POST, path, &json!({})).await?;
        if printer.is_table() {
            printer.text(&format!("a new {what} comes; `swarmer keys list` shows how far it is\n"))
        } else {
            printer.value(&answer)
        }
    }
}
