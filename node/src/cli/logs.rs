//! `logs`: what a function wrote, from all nodes.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use swarmer_model::DEFAULT_NAMESPACE;

use crate::{
    cli::{Ask, Client, Printer, client::segment},
    problem::Outcome,
};

/// How often new lines are asked for.
const FOLLOW_POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer logs hello --tail 20\n  \
    swarmer logs hello --follow")]
pub(crate) struct Logs {
    /// The function's name
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Go on with what it writes from now on
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines
    #[arg(long, default_value_t = 100)]
    tail: usize,
}

impl Ask for Logs {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let base = format!(
            "/v1/namespaces/{}/functions/{}/logs",
            segment(&self.namespace),
            segment(&self.name)
        );
        // From where on to read on each node, as the answer before said.
        let mut after = String::new();
        let mut tail = self.tail;
        loop {
            let list: Value = client.get(&format!("{base}?tail={tail}&after={after}")).await?;
            for line in list["items"].as_array().into_iter().flatten() {
                if printer.is_table() {
                    let text = |key: &str| line[key].as_str().unwrap_or("-");
                    printer.text(&format!(
                        "{} {} v{} {} {}\n",
                        text("time"),
                        text("node"),
                        line["version"],
                        text("stream"),
                        text("text")
                    ))?;
                } else {
                    printer.text(&format!("{line}\n"))?;
                }
            }
            if !self.follow {
                return Ok(());
            }
            after = list["next"].as_str().unwrap_or_default().to_owned();
            tail = 10_000;
            tokio::select! {
                left = printer.reader_left() => return Err(left),
                () = tokio::time::sleep(FOLLOW_POLL) => {}
            }
        }
    }
}
