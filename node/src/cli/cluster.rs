//! `members`, `status`, `drain`: the cluster as a whole.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::{
    cli::{Ask, Client, Printer, client::segment, output::at},
    problem::Outcome,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer members\n  \
    swarmer members -o json")]
pub(crate) struct Members;

impl Ask for Members {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        members(client, printer).await
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer status\n  \
    swarmer status --addr https://a:7401 --cacert ca.pem")]
pub(crate) struct Status;

impl Ask for Status {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        status(client, printer).await
    }
}

pub(crate) async fn members(client: &Client, printer: &Printer) -> Outcome<()> {
    let list: Value = client.get("/v1/members").await?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    printer.list(
        &items,
        &[
            ("NAME", "name"),
            ("ID", "id"),
            ("ADDRESS", "address"),
            ("STATE", "state"),
            ("REGION", "region"),
            ("ZONE", "zone"),
            ("VOTER", "voter"),
            ("VERSION", "version"),
            ("RTT MS", "rttMs"),
            ("WHY", "reason"),
        ],
    )
}

async fn status(client: &Client, printer: &Printer) -> Outcome<()> {
    let status: Value = client.get("/v1/status").await?;
    if !printer.is_table() {
        return printer.value(&status);
    }
    let text = |path: &str| match at(&status, path) {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let names = |path: &str| {
        let nodes = status[path].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<&str> = nodes.iter().filter_map(|node| node["name"].as_str()).collect();
        names.join(", ")
    };
    let quorum =
        if status["quorum"] == true { "yes" } else { "NO: changes are refused until it is back" };
    printer.text(&format!(
        "cluster    {}\nthis node  {} ({}), {}\nleader     {}\nterm       {}\nrevision   {}\nquorum     {quorum}\nvoters     {}\nmembers    {}\n",
        text("cluster"), text("node.name"), text("node.id"), text("node.role"),
        text("leader.name"), text("term"), text("revision"), names("voters"),
        status["members"].as_array().map_or_else(|| text("members"), |m| m.len().to_string()),
    ))
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer drain b           # its copies move to other nodes\n  \
    swarmer drain b --undo    # it takes work again")]
pub(crate) struct Drain {
    /// Name or id of the node
    node: String,
    /// Let it take work again
    #[arg(long)]
    undo: bool,
}

impl Ask for Drain {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = format!("/v1/nodes/{}/drain", segment(&self.node));
        let answer = client.json(Method::POST, &path, &json!({ "draining": !self.undo })).await?;
        if printer.is_table() {
            let what = if self.undo { "takes work again" } else { "is being emptied" };
            printer.text(&format!("node {} {what}\n", self.node))
        } else {
            printer.value(&answer)
        }
    }
}
