//! `lease`: acquire, renew, release, list.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use swarmer_model::DEFAULT_NAMESPACE;

use crate::{
    cli::{Ask, Asking, Client, Printer, client::segment, output::at},
    codes,
    problem::{Outcome, Problem},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer lease acquire leader --holder worker-1 --ttl 15s\n  \
    swarmer lease renew leader --lease-token 1204\n  \
    swarmer lease release leader --lease-token 1204\n  \
    swarmer lease list")]
pub(crate) struct Lease {
    #[command(subcommand)]
    pub(crate) command: LeaseCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Hold a lease that nobody holds; prints its fencing token
    Acquire(Asking<Acquire>),
    /// Go on holding a lease: its whole time from now on
    Renew(Asking<Renew>),
    /// Give a lease back
    Release(Asking<Release>),
    /// List the leases that are held
    List(Asking<List>),
}

#[derive(Debug, Args)]
struct Which {
    /// The lease's name
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

impl Which {
    fn path(&self, verb: &str) -> String {
        let (namespace, name) = (segment(&self.namespace), segment(&self.name));
        format!("/v1/namespaces/{namespace}/leases/{name}/{verb}")
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer lease acquire leader --holder worker-1 --ttl 15s\n  \
    swarmer lease acquire leader --holder worker-1 --annotation address=10.0.0.1:80 -o json")]
pub(crate) struct Acquire {
    #[command(flatten)]
    which: Which,
    /// Who holds it, for people to see
    #[arg(long)]
    holder: String,
    /// It ends when it is not renewed for so long: from 2s to 1h
    #[arg(long, default_value = "15s")]
    ttl: String,
    /// Note for others, key=value; may be given several times
    #[arg(long = "annotation")]
    annotations: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer lease renew leader --lease-token 1204\n  \
    swarmer lease renew leader --lease-token 1204 --ttl 1m")]
pub(crate) struct Renew {
    #[command(flatten)]
    which: Which,
    /// The fencing token that `lease acquire` printed
    #[arg(long)]
    lease_token: u64,
    /// As before if not given
    #[arg(long)]
    ttl: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer lease release leader --lease-token 1204")]
pub(crate) struct Release {
    #[command(flatten)]
    which: Which,
    /// The fencing token that `lease acquire` printed
    #[arg(long)]
    lease_token: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer lease list\n  \
    swarmer lease list --namespace shop -o json")]
pub(crate) struct List {
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

/// The token alone for people and scripts, the whole lease otherwise.
fn told(printer: &Printer, lease: &Value) -> Outcome<()> {
    match at(lease, "status.token").as_u64() {
        Some(token) if printer.is_table() => printer.text(&format!("{token}\n")),
        _ => printer.value(lease),
    }
}

impl Ask for Acquire {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let mut annotations = BTreeMap::new();
        for text in &self.annotations {
            let Some((key, value)) = text.split_once('=') else {
                let why = format!("--annotation {text:?}: must be key=value");
                return Err(Problem::new(codes::USAGE, why));
            };
            annotations.insert(key, value);
        }
        let wanted = json!({ "holder": self.holder, "ttl": self.ttl, "annotations": annotations });
        let lease = client.json(Method::POST, &self.which.path("acquire"), &wanted).await?;
        told(printer, &lease)
    }
}

impl Ask for Renew {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let wanted = json!({ "token": self.lease_token, "ttl": self.ttl });
        let lease = client.json(Method::POST, &self.which.path("renew"), &wanted).await?;
        told(printer, &lease)
    }
}

impl Ask for Release {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let wanted = json!({ "token": self.lease_token });
        client.json(Method::POST, &self.which.path("release"), &wanted).await?;
        printer.progress(&format!("lease {} is released", self.which.name));
        Ok(())
    }
}

impl Ask for List {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = format!("/v1/namespaces/{}/leases", segment(&self.namespace));
        let list: Value = client.get(&path).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        printer.list(
            &items,
            &[
                ("NAME", "metadata.name"),
                ("HOLDER", "spec.holder"),
                ("TTL", "spec.ttl"),
                ("TOKEN", "status.token"),
                ("REVISION", "metadata.revision"),
            ],
        )
    }
}
