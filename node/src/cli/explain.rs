//! `swarmer explain CODE`: what an error code means and what to do.

use clap::Args;
use serde_json::json;
use swarmer_model::nearest;

use crate::{
    cli::Printer,
    codes,
    problem::{Outcome, Problem},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer explain SW-RAFT-NO-QUORUM\n  \
    swarmer explain -o json")]
pub(crate) struct Explain {
    /// The code, such as SW-RAFT-NO-QUORUM; all of them if none is given
    code: Option<String>,
}

impl Explain {
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
