//! How commands print: the one way to standard output and standard error.
//!
//! Whoever reads them may go away before the end (`swarmer … | head`). On standard output that ends
//! the command, quietly and with the exit status that shells give to a program which a closed pipe
//! ended. On standard error it changes nothing: there is only talk.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

/// A line for people, on standard error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints results on standard output and progress on standard error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    format: Format,
    terminal: bool,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, terminal: std::io::stderr().is_terminal() }
    }

    /// Whether people read it.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// A line about what is being done; only on a terminal, or never in the way of a pipe.
    pub(crate) fn progress(&self, line: &str) {
        if self.terminal || self.is_table() {
            say(line);
        }
    }

    /// Prints a list: as a table of `columns` (heading, path in the item) or as `{"items": […]}`.
    pub(crate) fn list(&self, items: &[Value], columns: &[(&str, &str)]) -> Outcome<()> {
        if !self.is_table() {
            return self.value(&json!({ "items": items }));
        }
        if items.is_empty() {
            say("nothing found");
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
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value).map_err(|e| fail(e.to_string()))?,
            Format::Yaml | Format::Table => {
                serde_saphyr::to_string(value).map_err(|e| fail(e.to_string()))?
            }
        };
        self.text(&format!("{}\n", text.trim_end()))
    }

    /// Prints text as it is.
    pub(crate) fn text(&self, text: &str) -> Outcome<()> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are, at once.
    ///
    /// # Errors
    /// [`codes::OUTPUT_CLOSED`] if nobody reads them, [`codes::FAILED`] if they cannot be written.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Outcome<()> {
        let mut out = std::io::stdout();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| unprinted(&error))
    }

    /// Waits until nobody reads standard output any more; for ever if that cannot be known, as of
    /// a file. For commands that may have nothing to print for long.
    #[expect(unsafe_code, reason = "whether a pipe is read can be asked only of its descriptor")]
    pub(crate) async fn reader_left(&self) -> Problem {
        // SAFETY: nothing in this process closes standard output or puts another file there.
        let out = unsafe { AsyncFd::register_with_interest(std::io::stdout(), Interest::ERROR) };
        if let Ok(out) = out
            && out.ready(Interest::ERROR).await.is_ok()
        {
            return unprinted(&std::io::ErrorKind::BrokenPipe.into());
        }
        std::future::pending().await
    }
}

/// Why something could not be printed.
pub(crate) fn unprinted(error: &std::io::Error) -> Problem {
    let code = match error.kind() {
        std::io::ErrorKind::BrokenPipe => codes::OUTPUT_CLOSED,
        _ => codes::FAILED,
    };
    Problem::new(code, format!("cannot print: {error}"))
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
