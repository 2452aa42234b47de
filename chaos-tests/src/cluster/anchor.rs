//! A process that does nothing but hold a namespace.
//!
//! It waits for the end of its standard input, which the kernel closes when the harness ends, even by
//! kill -9; nodes end by their own parent-death signal. So no namespace is left, nor what is mounted in
//! it, and there is nothing to clean up at the next start.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// The kinds that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Devices, addresses, packet filters, ports.
    Network,
    /// What is mounted where.
    Mounts,
}

impl Holds {
    /// As `unshare` and `nsenter` call it.
    const fn flag(self) -> &'static str {
        match self {
            Self::Network => "--net",
            Self::Mounts => "--mount",
        }
    }

    /// As `/proc` calls it.
    const fn file(self) -> &'static str {
        match self {
            Self::Network => "net",
            Self::Mounts => "mnt",
        }
    }
}

/// The holder of one namespace.
#[derive(Debug)]
pub(super) struct Anchor {
    child: Child,
    holds: Holds,
}

impl Anchor {
    /// Makes a namespace.
    ///
    /// # Errors
    /// Not root, or `unshare` is missing.
    pub(super) fn new(holds: Holds) -> Result<Self> {
        let mut child = Command::new("unshare")
            .args([holds.flag(), "sh", "-c", "echo ready; exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare cannot be run")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let anchor = Self { child, holds };
        ensure!(line == "ready\n", "no namespace ({}) can be made here", holds.flag());
        Ok(anchor)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that is the namespace.
    pub(super) fn file(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{}", self.pid(), self.holds.file()))
    }

    /// Words before a command that make it run inside. It replaces `nsenter`: the process is the same.
    pub(super) fn enter(&self) -> [String; 3] {
        let file = self.file();
        ["nsenter".into(), format!("{}={}", self.holds.flag(), file.display()), "--".into()]
    }

    /// Runs a tool inside, to its end.
    ///
    /// # Errors
    /// It cannot be run or fails; with what it said.
    pub(super) fn run(&self, words: &[&str], input: &str) -> Result<()> {
        let [tool, args @ ..] = self.enter();
        let mut child = Command::new(tool)
            .args(args)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("nsenter cannot be run")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {told}", words.join(" "));
        Ok(())
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
