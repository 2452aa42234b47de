//! Builds a component by the command of an app's manifest.

use std::{path::Path, process::Stdio};

use rustix::process::Signal;
use tokio::process::Command;

use crate::{
    codes,
    problem::{Outcome, Problem},
    process::signal_group,
};

/// What becomes of the process group of a build.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Build {
    Begun(u32),
    Over(u32),
}

/// Is told of builds, so that none outlives the one who wanted it.
pub(crate) type BuildWatch<'a> = &'a mut (dyn FnMut(Build) -> Outcome<()> + Send);

/// Runs a command of the shell until it ends. With a watch it has a process group of its own, which
/// ends when this is dropped; without one it ends by what ends this process on its terminal.
pub(crate) async fn build(
    name: &str,
    command: &str,
    folder: &Path,
    watch: Option<BuildWatch<'_>>,
) -> Outcome<()> {
    let fail = |why: String| Problem::new(codes::BUILD, format!("{name}: {why}"));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(folder).stdin(Stdio::null());
    if watch.is_some() {
        shell.process_group(0);
    }
    let mut child =
        shell.spawn().map_err(|error| fail(format!("cannot run `{command}`: {error}")))?;
    let status = match (watch, child.id()) {
        (Some(watch), Some(id)) => {
            let group = Group(Some(id));
            watch(Build::Begun(id))?;
            let status = child.wait().await;
            group.release();
            watch(Build::Over(id))?;
            status
        }
        _ => child.wait().await,
    };
    let status = status.map_err(|error| fail(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(fail(format!("`{command}` ended with {status}"))) }
}

/// The processes of a build, ended with this.
struct Group(Option<u32>);

impl Group {
    /// The build ended by itself; what it left running on purpose goes on.
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            signal_group(leader, Signal::TERM);
        }
    }
}
