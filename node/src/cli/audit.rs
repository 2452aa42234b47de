//! `audit`: what was changed by way of a node, and what it refused.

use clap::Args;
use serde_json::{Value, json};

use crate::{
    cli::{Ask, Client, Printer},
    codes,
    problem::{Outcome, Problem},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Each node has the record of what was asked of it: ask all of them for the whole. \
    Every record holds the hash of the one before; `--verify` finds one that was changed, left out or \
    moved, and says where. Keep the hash that it prints somewhere else: it proves later that the \
    record was not made anew.\n\n\
    Examples:\n  \
    swarmer audit --tail 20\n  \
    swarmer audit --verify\n  \
    swarmer audit -o json --addr https://n2:7401"
)]
pub(crate) struct Audit {
    /// How many of the newest records
    #[arg(long, default_value_t = 100, conflicts_with = "verify")]
    tail: usize,
    /// Check all records of the node instead
    #[arg(long)]
    verify: bool,
}

impl Ask for Audit {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        if self.verify {
            return verify(client, printer).await;
        }
        let answer: Value = client.get(&format!("/v1/audit?tail={}", self.tail)).await?;
        if !printer.is_table() {
            return printer.value(&answer);
        }
        let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows: Vec<Value> = items.iter().map(row).collect();
        printer.list(
            &rows,
            &[
                ("#", "sequence"),
                ("TIME", "time"),
                ("WHO", "who"),
                ("ACTION", "action"),
                ("WHAT", "what"),
                ("OUTCOME", "outcome"),
            ],
        )
    }
}

async fn verify(client: &Client, printer: &Printer) -> Outcome<()> {
    let verdict: Value = client.get("/v1/audit?verify=true").await?;
    let damage = &verdict["damage"];
    if !printer.is_table() {
        printer.value(&verdict)?;
    } else if damage.is_null() {
        let (node, head) = (&verdict["node"], &verdict["head"]);
        printer.text(&format!(
            "{}: {} records, {} to {}, are as they were written; the last one has the hash {}\n",
            node.as_str().unwrap_or_default(),
            verdict["records"],
            verdict["first"],
            verdict["last"],
            head.as_str().unwrap_or_default(),
        ))?;
    }
    if damage.is_null() {
        return Ok(());
    }
    let text = |field: &str| damage[field].as_str().unwrap_or_default();
    let detail = format!("{} line {}: {}", text("file"), damage["line"], text("reason"));
    Err(Problem::new(codes::AUDIT_DAMAGED, detail))
}

/// A record as a line of a table.
fn row(record: &Value) -> Value {
    let who = match &record["who"] {
        Value::Object(fields) => {
            let told =
                fields.iter().map(|(kind, id)| format!("{kind} {}", id.as_str().unwrap_or("")));
            told.collect::<Vec<_>>().join(" ")
        }
        Value::String(who) => who.clone(),
        _ => String::new(),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (what, outcome) = match record["action"].as_str() {
        Some("change") => {
            let changes = record["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let told = changes.iter().map(|change| {
                format!(
                    "{} {} {}",
                    text(&change["verb"]),
                    text(&change["kind"]),
                    text(&change["name"])
                )
            });
            let outcome = match &record["revision"] {
                Value::Null => format!("unknown: {}", text(&record["code"])),
                revision => format!("revision {revision}"),
            };
            (told.collect::<Vec<_>>().join(", "), outcome)
        }
        Some("refuse") => {
            let from =
                record["from"].as_str().map(|from| format!(" from {from}")).unwrap_or_default();
            let outcome = format!("{}: {}", text(&record["code"]), text(&record["reason"]));
            (format!("{}{from}", text(&record["what"])), outcome)
        }
        Some("start") => (format!("start {}", record["boot"]), text(&record["damage"]["reason"])),
        Some("lost") => (format!("{} records", record["records"]), String::new()),
        _ => (text(&record["unreadable"]), String::new()),
    };
    json!({
        "sequence": record["sequence"],
        "time": record["time"],
        "who": who,
        "action": record["action"],
        "what": what,
        "outcome": outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_row() {
        let change = json!({
            "sequence": 3, "time": "t", "action": "change", "who": { "token": "0011" }, "revision": 7,
            "changes": [{ "verb": "create", "kind": "Function", "name": "shop/till" }],
        });
        let row = row(&change);
        assert_eq!(row["who"], "token 0011");
        assert_eq!(row["what"], "create Function shop/till");
        assert_eq!(row["outcome"], "revision 7");
        let refuse = json!({
            "action": "refuse", "who": "nobody", "what": "join", "from": "1.2.3.4:5", "code": "C",
            "reason": "R",
        });
        let row = super::row(&refuse);
        assert_eq!(
            (&row["what"], &row["outcome"]),
            (&json!("join from 1.2.3.4:5"), &json!("C: R"))
        );
    }
}
