//! Measures failover and keeps what came of it.

use std::path::Path;

use anyhow::{Result, bail};
use chaos_tests::{
    cluster::{Binary, Need, missing_tools},
    failover::{self, Plan},
    run::Ending,
};

/// Measures, prints the table, and keeps it as text and JSON, with the nodes' logs.
///
/// # Errors
/// The machine lacks something, or it could not be measured.
pub(crate) fn measure(plan: &Plan, out: &Path) -> Result<Ending> {
    let mut missing = missing_tools();
    missing.extend(Need::Switch.lacking());
    if !missing.is_empty() {
        bail!("this machine lacks\n  {}", missing.join("\n  "));
    }
    let binary = Binary::find()?;
    println!("failover seed {}: {} kills, {} cuts", plan.seed, plan.kills, plan.cuts);
    let folder = out.join(format!("failover-{}", plan.seed));
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(failover::run(&binary, plan, &folder))?;
    let text = report.markdown();
    std::fs::write(folder.join("failover.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(folder.join("table.md"), &text)?;
    println!("\n{text}\nall of it: {}", folder.join("failover.json").display());
    Ok(if report.missed().is_empty() { Ending::Passed } else { Ending::Invalid })
}
