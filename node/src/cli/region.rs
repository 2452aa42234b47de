//! `region`: all nodes of a region at once.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use swarmer_model::Millis;

use crate::{
    cli::{Ask, Asking, Client, Printer, client::segment, say},
    codes,
    problem::{Outcome, Problem},
};

/// How often a region that is waited for is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Copies that have not moved for so long, and that the planner says fit nowhere else, stay.
const STUCK_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer region list\n  \
    swarmer region drain eu-1 --wait\n  \
    swarmer region resume eu-1\n  \
    swarmer region lead us-1")]
pub(crate) struct Region {
    #[command(subcommand)]
    pub(crate) command: RegionCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// List regions with their nodes, votes and functions, and which are drained
    List(Asking<List>),
    /// Empty all nodes of a region, those too that join it later
    Drain(Asking<Drain>),
    /// Let a region take work again: what its drain took away comes back
    Resume(Asking<Resume>),
    /// Choose the region in which the leader stands; without a choice it goes where the writes come from
    Lead(Asking<Lead>),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer region list\n  \
    swarmer region list -o json")]
pub(crate) struct List;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer region drain eu-1                    # copies, votes and requests move to other regions\n  \
    swarmer region drain eu-1 --wait --reason upgrade")]
pub(crate) struct Drain {
    /// Name of the region
    region: String,
    /// Why, for whoever looks at the list
    #[arg(long)]
    reason: Option<String>,
    /// Wait until no copy of a function is left in it
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "2m", requires = "wait")]
    timeout: Millis,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer region resume eu-1")]
pub(crate) struct Resume {
    /// Name of the region
    region: String,
}

#[derive(Debug, Args)]
#[command(override_usage = "swarmer region lead [OPTIONS] <REGION | --any>")]
#[command(after_help = "Examples:\n  \
    swarmer region lead eu-1                     # it leads while one of its voters can\n  \
    swarmer region lead --any                    # the choice is over")]
pub(crate) struct Lead {
    /// Name of the region
    #[arg(required_unless_present = "any", conflicts_with = "any")]
    region: Option<String>,
    /// No region in particular
    #[arg(long)]
    any: bool,
}

impl Ask for Lead {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let (method, region) = match &self.region {
            Some(region) => (Method::POST, region.clone()),
            None => {
                let list: Value = client.get("/v1/regions").await?;
                let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
                let chosen = items.iter().find(|item| item["chosen"] == true);
                let Some(name) = chosen.and_then(|item| item["name"].as_str()) else {
                    return match printer.is_table() {
                        true => printer.text("no region was chosen to lead\n"),
                        false => printer.value(&json!({ "changed": false })),
                    };
                };
                (Method::DELETE, name.to_owned())
            }
        };
        let path = format!("/v1/regions/{}/lead", segment(&region));
        let told = client.json(method, &path, &json!({})).await?;
        if !printer.is_table() {
            return printer.value(&told);
        }
        let what = match (self.any, told["changed"] == true, told["leads"] == true) {
            (true, true, _) => "is not chosen to lead any more",
            (true, false, _) => "was not chosen to lead: somebody changed that just now",
            (false, true, _) if told["drained"] == true => {
                "is chosen to lead, and is drained: it does once it takes work again"
            }
            (false, true, false) if told["voters"] == 0 => {
                "is chosen to lead: one of its nodes gets a vote first, if one can"
            }
            (false, true, false) => "is chosen to lead: one of its voters does in a moment",
            (false, true, true) => "is chosen to lead, and does",
            (false, false, _) => "was chosen to lead already",
        };
        printer.text(&format!("region {region} {what}\n"))
    }
}

impl Ask for List {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let list: Value = client.get("/v1/regions").await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        printer.list(
            &items,
            &[
                ("NAME", "name"),
                ("STATE", "state"),
                ("SINCE", "since"),
                ("NODES", "nodes"),
                ("ALIVE", "alive"),
                ("VOTERS", "voters"),
                ("LEADS", "leads"),
                ("CHOSEN", "chosen"),
                ("FUNCTIONS", "functions"),
                ("COPIES", "copies"),
                ("REASON", "reason"),
            ],
        )
    }
}

fn counted(value: &Value, one: &str, many: &str) -> String {
    let count = value.as_u64().unwrap_or_default();
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

fn since(told: &Value) -> &str {
    told["since"].as_str().unwrap_or("-")
}

/// What cannot leave, in the planner's words.
fn held(told: &Value) -> Vec<&str> {
    let conflicts = told["conflicts"].as_array().map(Vec::as_slice).unwrap_or_default();
    conflicts.iter().filter_map(|conflict| conflict["text"].as_str()).collect()
}

impl Drain {
    async fn say(&self, client: &Client) -> Outcome<Value> {
        let path = format!("/v1/regions/{}/drain", segment(&self.region));
        client.json(Method::POST, &path, &json!({ "reason": self.reason })).await
    }

    /// Looks until no copy is left.
    async fn until_empty(&self, client: &Client, mut told: Value) -> Outcome<Value> {
        let start = Instant::now();
        let mut moved = start;
        loop {
            let copies = told["copies"].as_u64().unwrap_or_default();
            if copies == 0 {
                return Ok(told);
            }
            let late = start.elapsed() >= self.timeout.duration();
            if late || moved.elapsed() >= STUCK_AFTER {
                // Said again it changes nothing, and tells what the planner says by now.
                let now = self.say(client).await?;
                if late || now["held"].as_u64() == now["functions"].as_u64() {
                    return Err(self.not_empty(&now));
                }
                moved = Instant::now();
            }
            tokio::time::sleep(POLL).await;
            let list: Value = client.get("/v1/regions").await?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let found = items.into_iter().find(|item| item["name"] == self.region.as_str());
            let Some(now) = found else { return Ok(told) };
            if now["drained"] == false {
                let why = format!("region {} takes work again since {}", self.region, since(&now));
                return Err(Problem::new(codes::CONFLICT, why));
            }
            if now["copies"] != told["copies"] {
                moved = Instant::now();
            }
            told = now;
        }
    }

    fn not_empty(&self, told: &Value) -> Problem {
        let mut why = format!(
            "region {} is drained and holds {} of {} still",
            self.region,
            counted(&told["copies"], "copy", "copies"),
            counted(&told["functions"], "function", "functions"),
        );
        for text in held(told) {
            why.push_str("; ");
            why.push_str(text);
        }
        Problem::new(codes::REGION_HELD, why)
    }
}

impl Ask for Drain {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let mut told = self.say(client).await?;
        let changed = told["changed"] == true;
        if printer.is_table() {
            let (name, nodes) = (&self.region, counted(&told["nodes"], "node", "nodes"));
            let what = if changed { "is being emptied" } else { "is drained already" };
            let since = if changed { String::new() } else { format!(", since {}", since(&told)) };
            printer.text(&format!("region {name} {what}{since}: {nodes}\n"))?;
            for text in held(&told) {
                say(&format!("stays there: {text}"));
            }
        }
        if self.wait {
            told = self.until_empty(client, told).await?;
            told["changed"] = json!(changed);
            if printer.is_table() {
                printer.text(&format!("region {} holds no copy any more\n", self.region))?;
            }
        }
        if printer.is_table() { Ok(()) } else { printer.value(&told) }
    }
}

impl Ask for Resume {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = format!("/v1/regions/{}/resume", segment(&self.region));
        let told = client.json(Method::POST, &path, &json!({})).await?;
        if !printer.is_table() {
            return printer.value(&told);
        }
        let what = if told["changed"] == true { "takes work again" } else { "was not drained" };
        printer.text(&format!("region {} {what}\n", self.region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_in_the_planners_words() {
        let drain =
            Drain { region: "eu".into(), reason: None, wait: true, timeout: Millis::secs(1) };
        let told = json!({
            "copies": 1, "functions": 1,
            "conflicts": [{ "code": "SW-SCHEDULER-SHORT", "text": "default/f: 0 of 1" }],
        });
        let problem = drain.not_empty(&told);
        assert_eq!(problem.code, codes::REGION_HELD);
        assert_eq!(
            problem.detail,
            "region eu is drained and holds 1 copy of 1 function still; default/f: 0 of 1"
        );
    }
}
