//! `doctor`: what is wrong, and what to do about it.

use clap::Args;
use serde_json::Value;

use crate::{
    cli::{Ask, Client, Printer},
    codes,
    problem::{Outcome, Problem},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Asks one node, which asks all others: quorum, who can be reached, clocks, \
    certificates, data directories, seeds, versions. Ends with exit code 1 if something is broken; \
    a warning is none.\n\n\
    Examples:\n  \
    swarmer doctor\n  \
    swarmer doctor --all      # what is well, too"
)]
pub(crate) struct Doctor {
    /// Show what is well, too
    #[arg(short, long)]
    all: bool,
}

impl Ask for Doctor {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let answer: Value = client.get("/v1/doctor").await?;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let broken = items.iter().filter(|item| item["state"] == "fail").count();
        if printer.is_table() {
            printer.text(&shown(&items, self.all))?;
        } else {
            printer.value(&answer)?;
        }
        if broken == 0 {
            return Ok(());
        }
        Err(Problem::new(codes::UNHEALTHY, format!("{broken} of {} checks failed", items.len())))
    }
}

/// One line for each check, what to do below it.
fn shown(items: &[Value], all: bool) -> String {
    let mut text = String::new();
    let well = items.iter().filter(|item| item["state"] == "ok").count();
    for item in items.iter().filter(|item| all || item["state"] != "ok") {
        let field = |key: &str| item[key].as_str().unwrap_or_default();
        let node = item["node"].as_str().map(|node| format!(" of {node}")).unwrap_or_default();
        let (state, check, detail) = (field("state"), field("check"), field("detail"));
        text.push_str(&format!("{state:<4}  {check}{node}: {detail}\n"));
        if !field("remedy").is_empty() {
            text.push_str(&format!("      {}\n", field("remedy")));
        }
    }
    text.push_str(&format!("{well} of {} checks are well\n", items.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_ill_comes_with_what_to_do() {
        let items = [
            json!({ "check": "clock", "node": "b", "state": "warn", "detail": "2 s", "remedy": "Set it." }),
            json!({ "check": "quorum", "node": null, "state": "ok", "detail": "a leads", "remedy": "" }),
        ];
        let text = shown(&items, false);
        assert_eq!(text, "warn  clock of b: 2 s\n      Set it.\n1 of 2 checks are well\n");
        assert!(shown(&items, true).contains("ok    quorum: a leads\n"));
    }
}
