//! How results are printed: tables for people, JSON and YAML for tools.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
}

/// Prints results on standard output and progress on standard error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    output: Output,
    terminal: bool,
}

impl Printer {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, terminal: std::io::stderr().is_terminal() }
    }

    /// Whether people read it.
    pub(crate) fn is_table(&self) -> bool {
        self.output == Output::Table
    }

    /// A line about what is being done; only on a terminal, or never in the way of a pipe.
    pub(crate) fn progress(&self, line: &str) {
        if self.terminal || self.is_table() {
            eprintln!("{line}");
        }
    }

    /// Prints a list: as a table of `columns` (heading, path in the item) or as `{"items": […]}`.
    pub(crate) fn list(&self, items: &[Value], columns: &[(&str, &str)]) -> Outcome<()> {
        if !self.is_table() {
            return self.value(&json!({ "items": items }));
        }
        if items.is_empty() {
            eprintln!("nothing found");
            return Ok(());
        }
        let heading: Vec<String> = columns.iter().map(|(heading, _)| (*heading).into()).collect();
        let rows = items.iter().map(|item| {
            columns.iter().map(|(_, path)| cell(at(item, path))).collect::<Vec<String>>()
        });
        let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..columns.len()).map(|c| width(c).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
            text.push('\n');
        }
        self.text(&text)
    }

    /// Prints one value: as YAML for people, since it reads best.
    pub(crate) fn value(&self, value: &Value) -> Outcome<()> {
        let fail = |why: String| Problem::new(codes::FAILED, why);
        let text = match self.output {
            Output::Json => serde_json::to_string_pretty(value).map_err(|e| fail(e.to_string()))?,
            Output::Yaml | Output::Table => {
                serde_saphyr::to_string(value).map_err(|e| fail(e.to_string()))?
            }
        };
        self.text(&format!("{}\n", text.trim_end()))
    }

    /// Prints text as it is. A closed pipe (`swarmer … | head`) is not an error.
    pub(crate) fn text(&self, text: &str) -> Outcome<()> {
        match std::io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Problem::new(codes::FAILED, format!("cannot print: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// The value at a dotted path.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| match value {
        Value::Array(items) => {
            key.parse().ok().and_then(|i: usize| items.get(i)).unwrap_or(&Value::Null)
        }
        value => value.get(key).unwrap_or(&Value::Null),
    })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.replace('\n', " "),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| format!("{key}={}", cell(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_paths() {
        let value = json!({"a": {"b": [1, "x"]}, "n": null, "t": true});
        assert_eq!(cell(at(&value, "a.b")), "1,x");
        assert_eq!(cell(at(&value, "a.b.1")), "x");
        assert_eq!(cell(at(&value, "a.c.d")), "-");
        assert_eq!(cell(at(&value, "t")), "yes");
    }
}
