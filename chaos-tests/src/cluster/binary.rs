//! The binary under test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Where it is.
#[derive(Debug, Clone)]
pub struct Binary(PathBuf);

impl Binary {
    /// What `SWARMER_BIN` names; else it is built, with the profile of this harness.
    ///
    /// # Errors
    /// It is not there, or cannot be built.
    pub fn find() -> Result<Self> {
        if let Some(path) = std::env::var_os("SWARMER_BIN") {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "SWARMER_BIN is {}, which is no file", path.display());
            return Ok(Self(path.canonicalize()?));
        }
        let own = std::env::current_exe()?;
        // The harness is in target/<profile>, its tests in target/<profile>/deps.
        let folder = own.ancestors().skip(1).find(|at| !at.ends_with("deps"));
        let folder = folder.context("the harness has no folder")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--package", "swarmer", "--bin", "swarmer"]);
        command.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        if folder.ends_with("release") {
            command.arg("--release");
        }
        let status = command.status().context("cargo cannot be run")?;
        ensure!(status.success(), "the binary cannot be built; SWARMER_BIN names another one");
        Ok(Self(folder.join("swarmer")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A command of it, with nothing of this process's settings.
    pub fn command(&self) -> Command {
        self.command_by(&[])
    }

    /// The same, started by these words: a tool that becomes the command after them.
    pub fn command_by(&self, words: &[String]) -> Command {
        let mut command = match words {
            [] => Command::new(&self.0),
            [tool, args @ ..] => {
                let mut command = Command::new(tool);
                command.args(args).arg(&self.0);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SWARMER_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// A new founding token.
    ///
    /// # Errors
    /// The binary cannot be run, or says so.
    pub fn founding_token(&self) -> Result<Vec<u8>> {
        let output = self.command().args(["token", "bootstrap"]).output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "token bootstrap: {told}");
        Ok(output.stdout)
    }
}
