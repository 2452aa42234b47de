//! `swarmer explain`: an error code, a placement, a decision that was recorded.

use std::{io::Read as _, path::PathBuf};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::{Coded as _, DEFAULT_NAMESPACE, nearest};
use swarmer_scheduler::Record;

use crate::{
    cli::{Ask, Asking, Client, Printer, Printing, client::segment},
    codes,
    problem::{Outcome, Problem},
};

/// The largest recorded decision that is read, in bytes.
const MAX_RECORD_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  \
    swarmer explain SW-RAFT-NO-QUORUM\n  \
    swarmer explain -o json\n  \
    swarmer explain placement hello")]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) code: Printing<ExplainCode>,
    #[command(subcommand)]
    pub(crate) command: Option<ExplainCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Say for every node why a function stands there or not
    Placement(Asking<ExplainPlacement>),
    /// Decide again from a recorded decision, and see that the same comes of it
    Replay(Printing<Replay>),
}

#[derive(Debug, Args)]
pub(crate) struct ExplainCode {
    /// The code, such as SW-RAFT-NO-QUORUM; all of them if none is given
    code: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer explain placement hello\n  \
    swarmer explain placement hello --namespace shop -o json\n  \
    swarmer explain placement hello --record > decision.json\n\n\
    It is told by the leader, whose planner decides. Decisions are kept in its memory, the last 64\n\
    that moved anything; a new leader begins anew.")]
pub(crate) struct ExplainPlacement {
    /// The function's name
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Print instead, as JSON, the last decision that moved it (if none is kept: the last look at it)
    /// with all that it was made from: what `swarmer explain replay` reads
    #[arg(long)]
    record: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer explain replay decision.json")]
pub(crate) struct Replay {
    /// What `swarmer explain placement NAME --record` printed
    file: PathBuf,
}

impl ExplainCode {
    pub(crate) fn run(&self, printer: &Printer) -> Outcome<()> {
        let all = codes::all();
        let row = |code: &swarmer_model::Code| {
            json!({
                "code": code.name, "status": code.status, "exitCode": code.exit_code(),
                "meaning": code.summary, "remedy": code.remedy,
            })
        };
        let Some(name) = &self.code else {
            let rows: Vec<_> = all.iter().map(row).collect();
            return printer.list(
                &rows,
                &[
                    ("CODE", "code"),
                    ("HTTP", "status"),
                    ("EXIT", "exitCode"),
                    ("MEANING", "meaning"),
                    ("WHAT TO DO", "remedy"),
                ],
            );
        };
        let wanted = name.to_ascii_uppercase();
        if let Some(code) = all.iter().find(|code| code.name == wanted) {
            return printer.value(&row(code));
        }
        let near = nearest(&wanted, all.iter().map(|code| code.name));
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Err(Problem::new(codes::NOT_FOUND, format!("there is no code {name}{hint}")))
    }
}

const COLUMNS: &[(&str, &str)] = &[
    ("NODE", "node"),
    ("REGION", "region"),
    ("ZONE", "zone"),
    ("VERDICT", "verdict"),
    ("WHY", "text"),
];

impl Ask for ExplainPlacement {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let (namespace, name) = (segment(&self.namespace), segment(&self.name));
        if self.record {
            let made: Value =
                client.get(&format!("/v1/decision?namespace={namespace}&name={name}")).await?;
            return printer.text(&format!("{made}\n"));
        }
        let path = format!("/v1/namespaces/{namespace}/placements/{name}/explanation");
        let told: Value = client.get(&path).await?;
        if !printer.is_table() {
            return printer.value(&told);
        }
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let mut nodes = list(&told["nodes"]);
        nodes.sort_by_key(|node| text(&node["node"]));
        let stands = |node: &&Value| node["verdict"] == "placed" || node["verdict"] == "kept";
        printer.text(&format!(
            "{}/{}: on {} of {} nodes, {} wanted, by the planner's look at {}\n",
            self.namespace,
            self.name,
            nodes.iter().filter(stands).count(),
            nodes.len(),
            told["wanted"],
            text(&told["lookedAt"]),
        ))?;
        printer.list(&nodes, COLUMNS)?;
        let candidates = list(&told["candidates"]);
        let candidates: Vec<&str> = candidates.iter().filter_map(Value::as_str).collect();
        if !candidates.is_empty() {
            printer.text(&format!(
                "\ncandidates, which start it where no copy answers and they have room: {}\n",
                candidates.join(", ")
            ))?;
        }
        for conflict in list(&told["conflicts"]) {
            let (code, why) = (text(&conflict["code"]), text(&conflict["text"]));
            printer.text(&format!("\ncannot be had: {code}: {why}\n"))?;
        }
        let moved = &told["moved"];
        if moved.is_object() {
            printer.text(&format!("\nlast moved at {}\n", text(&moved["at"])))?;
            printer.list(&list(&moved["decisions"]), COLUMNS)?;
        }
        Ok(())
    }
}

/// A recorded decision, as the API gives it.
#[derive(Deserialize)]
struct Recorded {
    record: Record,
}

impl Replay {
    pub(crate) fn run(&self, printer: &Printer) -> Outcome<()> {
        let name = self.file.display();
        let usage = |why: String| Problem::new(codes::USAGE, format!("{name}: {why}"));
        let fail = |error: std::io::Error| {
            Problem::new(codes::FILE, format!("cannot read {name}: {error}"))
        };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&self.file).map_err(fail)?;
        file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(usage(format!("no recorded decision has over {MAX_RECORD_BYTES} bytes")));
        }
        let Recorded { record } = serde_json::from_slice(&bytes)
            .map_err(|error| usage(format!("not a recorded decision: {error}")))?;
        let plan =
            record.replay().map_err(|error| Problem::new(error.code(), error.to_string()))?;
        if !printer.is_table() {
            return printer.value(&json!({ "same": true, "plan": plan }));
        }
        let commands: String =
            plan.commands.iter().map(|command| format!("  {command}\n")).collect();
        printer.text(&format!(
            "the same comes of it again: {}, for {} on {}\n{commands}",
            counted(plan.commands.len(), "command"),
            counted(record.desired.functions.len(), "function"),
            counted(record.observed.nodes.len(), "node"),
        ))
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
