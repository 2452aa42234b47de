//! On what was measured: without that no figure means anything.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;

use crate::cluster::output;

/// More load than this before a run, and its figures are those of a busy machine.
const QUIET: f64 = 0.3;

/// Prints the facts above a table.
pub(crate) async fn print(swarmer: &Path, wasmtime: Option<&Path>) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let memory_kib: u64 = memory.trim().trim_end_matches("kB").trim().parse().unwrap_or_default();
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    println!(
        "- machine: {cores} cores ({}), {} MiB",
        cpu.trim_start_matches([' ', '\t', ':']),
        memory_kib >> 10
    );
    println!("- kernel: {}", read("/proc/sys/kernel/osrelease").trim());
    println!("- load average before the run: {}", load.join(" "));
    println!("- swarmer: {}, {}", version(swarmer).await?, profile(swarmer));
    if let Some(wasmtime) = wasmtime {
        println!("- wasmtime: {}", version(wasmtime).await?);
    }
    let own = if cfg!(debug_assertions) { "debug: the load generator is slow" } else { "release" };
    println!("- bench: {own}\n");
    if load.first().and_then(|load| load.parse().ok()).is_some_and(|load: f64| load > QUIET) {
        println!("> The machine was not quiet: compare rows of this run, quote none of them.\n");
    }
    Ok(())
}

/// What `--version` says.
pub(crate) async fn version(program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--version");
    let output = output(command).await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn profile(program: &Path) -> String {
    match program.parent().and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("debug") => "a DEBUG build: its figures say nothing of a release".to_owned(),
        Some("release") => "release build".to_owned(),
        _ => program.display().to_string(),
    }
}

/// What loopback carried, of all processes of this network (proc(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    /// With all headers, those of Ethernet too.
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

/// What it carried since the machine started, or since the network was made.
pub(crate) fn loopback() -> Option<Carried> {
    let text = std::fs::read_to_string("/proc/net/dev").ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"))?;
    let mut fields = line.split_whitespace().map(|field| field.parse().ok());
    Some(Carried { bytes: fields.next()??, packets: fields.next()?? })
}

pub(crate) fn micros(duration: Duration) -> String {
    format!("{:.0}", duration.as_secs_f64() * 1e6)
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}
