//! The binary under test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Where it is.
#[derive(Debug, Clone)]
pub struct Binary {
    path: PathBuf,
    /// What its processes are told.
    environment: Vec<(String, String)>,
}

impl Binary {
    /// What `SWARMER_BIN` names; else it is built, with the profile of this harness.
    ///
    /// # Errors
    /// It is not there, or cannot be built.
    pub fn find() -> Result<Self> {
        if let Some(named) = Self::named("SWARMER_BIN")? {
            return Ok(named);
        }
        let folder = own_folder()?;
        let release: &[&str] = if folder.ends_with("release") { &["--release"] } else { &[] };
        build(&["--bin", "swarmer"], release)?;
        Ok(Self::at(folder.join("swarmer")))
    }

    /// The one that can be told to have a bug: what `SWARMER_PLANTED_BIN` names; else it is built,
    /// always with the profile `dev`, as a release cannot have bugs planted.
    ///
    /// # Errors
    /// It is not there, cannot be built, or has no bugs to switch on: then nothing that it passes
    /// would prove anything.
    pub fn planted() -> Result<Self> {
        let binary = match Self::named("SWARMER_PLANTED_BIN")? {
            Some(named) => named,
            None => {
                let folder = own_folder()?;
                build(&["--bin", "swarmer-planted", "--features", "planted"], &[])?;
                let target = folder.parent().context("the harness has no target folder")?;
                Self::at(target.join("debug/swarmer-planted"))
            }
        };
        let output = binary.command().arg("--version").output()?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let path = binary.path.display();
        ensure!(version.contains("PLANTED"), "{path} has no planted bugs: {version}");
        Ok(binary)
    }

    fn at(path: PathBuf) -> Self {
        Self { path, environment: Vec::new() }
    }

    fn named(variable: &str) -> Result<Option<Self>> {
        let Some(path) = std::env::var_os(variable) else { return Ok(None) };
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable} is {}, which is no file", path.display());
        Ok(Some(Self::at(path.canonicalize()?)))
    }

    /// The same, whose processes are told this by their environment.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut binary = self.clone();
        binary.environment.push((name.to_owned(), value.to_owned()));
        binary
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command of it, with nothing of this process's settings.
    pub fn command(&self) -> Command {
        self.command_by(&[])
    }

    /// The same, started by these words: a tool that becomes the command after them.
    pub fn command_by(&self, words: &[String]) -> Command {
        let mut command = match words {
            [] => Command::new(&self.path),
            [tool, args @ ..] => {
                let mut command = Command::new(tool);
                command.args(args).arg(&self.path);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SWARMER_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
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

/// The folder that the harness was built into.
fn own_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // The harness is in target/<profile>, its tests in target/<profile>/deps.
    let folder = own.ancestors().skip(1).find(|at| !at.ends_with("deps"));
    Ok(folder.context("the harness has no folder")?.to_owned())
}

fn build(what: &[&str], how: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "swarmer"]).args(what).args(how);
    command.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
    let status = command.status().context("cargo cannot be run")?;
    ensure!(
        status.success(),
        "the binary cannot be built; SWARMER_BIN and SWARMER_PLANTED_BIN name others"
    );
    Ok(())
}
