//! The checks of this workspace that cargo itself does not have.
//!
//! - `xtask check-deps`: licences, banned crates, duplicate crypto crates, sources, and which room
//!   depends on which, from `cargo metadata`, offline.
//! - `xtask skips <skip log> <test output>`: how many tests were skipped and why; fails if one of
//!   them should have run on this machine.
//! - `xtask needs <step> <capability>...`: says `able` as its last line if this machine has all of
//!   them; else the step is written down as skipped, like a test, and the last line is `unable`.

#![forbid(unsafe_code)]

mod deps;
mod skips;

use std::{
    env, fs,
    process::{Command, ExitCode, Stdio},
    thread,
};

use swarmer_testkit::{Capability, require};

const USAGE: &str = "usage: xtask check-deps | xtask skips <skip log> <test output> | \
                     xtask needs <step> <capability>...";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["check-deps"] => check_deps(),
        ["skips", log, output] => check_skips(log, output),
        ["needs", step, ref capabilities @ ..] => needs(step, capabilities),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(report) => {
            eprintln!("{report}");
            ExitCode::FAILURE
        }
    }
}

fn check_deps() -> Result<String, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo metadata does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}; build once, so that all is there", output.status));
    }
    let graph = deps::Graph::parse(&output.stdout)?;
    let faults = deps::check(&graph, &deps::Rules::ours());
    if faults.is_empty() {
        return Ok(format!("{} crates in the build graph, no fault", graph.len()));
    }
    Err(format!("{}\n{} faults in the dependencies", faults.join("\n"), faults.len()))
}

fn needs(step: &str, capabilities: &[&str]) -> Result<String, String> {
    let wanted: Vec<Capability> =
        capabilities.iter().map(|name| name.parse()).collect::<Result<_, String>>()?;
    // A skip is named after the thread that asks.
    let able = thread::Builder::new()
        .name(step.to_owned())
        .spawn(move || wanted.into_iter().all(require))
        .map_err(|error| error.to_string())?
        .join()
        .map_err(|_| "a skip could not be written down".to_owned())?;
    Ok(if able { "able" } else { "unable" }.to_owned())
}

fn check_skips(log: &str, output: &str) -> Result<String, String> {
    // No log: no test skipped itself.
    let log = fs::read_to_string(log).unwrap_or_default();
    let output = fs::read(output).map_err(|error| format!("{output}: {error}"))?;
    let output = String::from_utf8_lossy(&output);
    let report = skips::report(&log, &output, &|capability| capability.probe());
    if report.faults.is_empty() {
        Ok(report.text)
    } else {
        Err(format!("{}\n{}", report.text, report.faults.join("\n")))
    }
}
