//! `token`: founding tokens (offline), join tokens, API tokens.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use swarmer_mesh::founding::FoundingToken;
use swarmer_model::Role;

use crate::{
    cli::{Ask, Asking, Client, Format, Printer, client::segment, deploy::tell_hints},
    codes,
    problem::{Outcome, Problem},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer token bootstrap --out founding.token\n  \
    swarmer token create --uses 3 --out join.token\n  \
    swarmer token list")]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make the one-time secret that the first nodes found a cluster with; works offline
    Bootstrap(Bootstrap),
    /// Make a join token, or with --api one for the API; given once
    Create(Asking<Create>),
    /// List the tokens, without their secrets
    List(Asking<List>),
    /// Make a token worthless
    Revoke(Asking<Revoke>),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer token bootstrap --out founding.token\n  \
    swarmer token bootstrap")]
pub(crate) struct Bootstrap {
    /// Write it to a new file that only you may read, instead of printing it
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer token create --uses 3 --ttl 1h --out join.token\n  \
    swarmer token create --region eu-1 --zone z1 --label disk=ssd --out join.token\n  \
    swarmer token create --api --role editor --namespace shop --ttl 720h --out editor.token")]
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
    /// Write it to a new file that only you may read, instead of printing it
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer token list\n  \
    swarmer token list -o json")]
pub(crate) struct List;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer token revoke 3f6c0d5a91b2e874")]
pub(crate) struct Revoke {
    /// The token's id, as `token list` shows it
    id: String,
}

impl Bootstrap {
    pub(crate) fn run(&self) -> Outcome<()> {
        let token = FoundingToken::generate();
        match &self.out {
            Some(path) => SecretFile::create(path)?.write(&token.text()),
            None => Printer::new(Format::Table).text(&format!("{}\n", token.text())),
        }
    }
}

impl Ask for List {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
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
}

impl Ask for Revoke {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = format!("/v1/tokens/{}", segment(&self.id));
        client.json(Method::DELETE, &path, &Value::Null).await?;
        printer.progress(&format!("token {} is revoked", self.id));
        Ok(())
    }
}

impl Ask for Create {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let request = if self.api {
            json!({ "kind": "api", "ttl": self.ttl, "role": self.role, "namespace": self.namespace })
        } else {
            json!({
                "kind": "join", "ttl": self.ttl, "uses": self.uses, "region": self.region,
                "zone": self.zone, "labels": self.labels,
            })
        };
        // The file comes first: the token is told only once.
        let file = self.out.as_deref().map(SecretFile::create).transpose()?;
        let mut answer = client.json(Method::POST, "/v1/tokens", &request).await?;
        tell_hints(&answer["hints"]);
        let Some(file) = file else {
            return match answer["token"].as_str() {
                Some(token) if printer.is_table() => printer.text(&format!("{token}\n")),
                _ => printer.value(&answer),
            };
        };
        let token = answer.as_object_mut().and_then(|fields| fields.remove("token"));
        file.write(token.as_ref().and_then(Value::as_str).unwrap_or_default())?;
        if !printer.is_table() {
            return printer.value(&answer);
        }
        let id = answer["id"].as_str().unwrap_or("?");
        printer.progress(&format!(
            "token {id}, good until {}",
            answer["expires"].as_str().unwrap_or("?")
        ));
        Ok(())
    }
}

/// A new file that only its owner may read; gone again unless it is written.
struct SecretFile<'a> {
    path: &'a Path,
    file: fs::File,
    written: bool,
}

impl<'a> SecretFile<'a> {
    fn create(path: &'a Path) -> Outcome<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    "it exists; a token is only written to a new file".to_owned()
                }
                _ => error.to_string(),
            };
            Problem::new(codes::USAGE, format!("--out {}: {why}", path.display()))
        })?;
        Ok(Self { path, file, written: false })
    }

    fn write(mut self, secret: &str) -> Outcome<()> {
        let written = writeln!(self.file, "{secret}").and_then(|()| self.file.sync_all());
        self.written = written.is_ok();
        written.map_err(|error| {
            Problem::new(codes::FAILED, format!("cannot write {}: {error}", self.path.display()))
        })
    }
}

impl Drop for SecretFile<'_> {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(self.path);
        }
    }
}
