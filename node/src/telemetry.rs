//! Logs of the node itself: structured events on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogFormat;

/// What is logged unless `SWARMER_LOG` says otherwise: our own events, and warnings of libraries;
/// not the Raft engine's, which calls a clean stop an error: what is fatal there we say ourselves.
const DEFAULT_FILTER: &str = "warn,swarmer=info,openraft=off,foca=error,quinn=error";

/// Starts logging. To be called once.
pub(crate) fn init(format: LogFormat) {
    let filter = std::env::var("SWARMER_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|error| {
        crate::cli::say(&format!(
            "warning: SWARMER_LOG is not understood ({error}); using {DEFAULT_FILTER}"
        ));
        EnvFilter::new(DEFAULT_FILTER)
    });
    // A log that nobody takes is no reason to fail; to say so, it would have to be written.
    let builder =
        fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let ansi = std::io::stderr().is_terminal();
    match format {
        LogFormat::Text => builder.with_ansi(ansi).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
