//! `token`: founding tokens (offline), join tokens, API tokens.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use swarmer_mesh::founding::FoundingToken;
use swarmer_model::Role;

use crate::{
    cli::{Client, Printer, client::segment},
    problem::Outcome,
};

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make the one-time secret that the first nodes found a cluster with; works offline
    Bootstrap,
    /// Make a join token, or with --api one for the API; printed once
    Create(Create),
    /// List the tokens, without their secrets
    List,
    /// Make a token worthless
    Revoke {
        /// The token's id, as `token list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// How many nodes it admits
    #[arg(long, default_value_t = 1, conflicts_with = "api")]
    uses: u32,
    /// How long it is good for
    #[arg(long, default_value = "1h")]
    ttl: String,
    /// The region of the nodes that it admits [default: local]
    #[arg(long, conflicts_with = "api")]
    region: Option<String>,
    /// The zone of the nodes that it admits [default: none]
    #[arg(long, conflicts_with = "api")]
    zone: Option<String>,
    /// Label of the nodes that it admits, key=value; may be given several times
    #[arg(long = "label", conflicts_with = "api")]
    labels: Vec<String>,
    /// A token for the API instead
    #[arg(long)]
    api: bool,
    /// What the API token may do
    #[arg(long, requires = "api", default_value = "editor")]
    role: Role,
    /// The only namespace of the API token
    #[arg(long, requires = "api")]
    namespace: Option<String>,
}

/// Prints a new founding token.
pub(crate) fn bootstrap(printer: &Printer) -> Outcome<()> {
    printer.text(&format!("{}\n", FoundingToken::generate().text()))
}

impl Token {
    pub(crate) async fn run(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        match &self.command {
            TokenCommand::Bootstrap => bootstrap(printer),
            TokenCommand::Create(create) => create.run(client, printer).await,
            TokenCommand::List => {
                let list: Value = client.get("/v1/tokens").await?;
                let items = list["items"].as_array().cloned().unwrap_or_default();
                printer.list(
                    &items,
                    &[
                        ("ID", "id"),
                        ("KIND", "kind"),
                        ("USES LEFT", "usesLeft"),
                        ("ROLE", "role"),
                        ("NAMESPACE", "namespace"),
                        ("REGION", "region"),
                        ("ZONE", "zone"),
                        ("LABELS", "labels"),
                        ("EXPIRES", "expires"),
                    ],
                )
            }
            TokenCommand::Revoke { id } => {
                let path = format!("/v1/tokens/{}", segment(id));
                client.json(Method::DELETE, &path, &Value::Null).await?;
                printer.progress(&format!("token {id} is revoked"));
                Ok(())
            }
        }
    }
}

impl Create {
    async fn run(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let request = if self.api {
            json!({ "kind": "api", "ttl": self.ttl, "role": self.role, "namespace": self.namespace })
        } else {
            json!({
                "kind": "join", "ttl": self.ttl, "uses": self.uses, "region": self.region,
                "zone": self.zone, "labels": self.labels,
            })
        };
        let answer = client.json(Method::POST, "/v1/tokens", &request).await?;
        if printer.is_table() {
            printer.text(&format!("{}\n", answer["token"].as_str().unwrap_or_default()))
        } else {
            printer.value(&answer)
        }
    }
}
