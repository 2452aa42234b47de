//! Compiling in a process of its own, with limits.
//!
//! A hostile or just large component can cost the compiler gigabytes and minutes. In a process
//! of its own that costs nobody else anything: address space, CPU time and wall clock are
//! limited, the priority is low, and it dies with its parent.

use std::{
    ffi::OsString,
    hash::{Hash as _, Hasher},
    io::{BufRead as _, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wasmtime::Engine;

use super::cache::write_synced;
use crate::{engine::code_config, error::LoadError};

/// The compiler's niceness: any other work goes first.
const NICE: i32 = 10;
/// Longest answer of a compiler: a message, no more.
const ANSWER_BYTES: u64 = 64 << 10;

/// What a compiling process is told, as one line of JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) component: PathBuf,
    pub(super) digest: Digest,
    pub(super) image: PathBuf,
    pub(super) compatibility: String,
    pub(super) memory_bytes: u64,
    pub(super) cpu_s: u64,
}

/// What it answers, as one line of JSON on its standard output.
#[derive(Debug, Serialize, Deserialize)]
enum Done {
    Compiled,
    Invalid(String),
    Failed(String),
}

/// What the engine generates code for, as a short text: images of another engine are not ours.
pub(super) fn compatibility(engine: &Engine) -> String {
    struct Digester(Sha256);
    impl Hasher for Digester {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            // Only the digest itself is used.
            0
        }
    }
    let mut digester = Digester(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut digester);
    hex::encode(&digester.0.finalize()[..8])
}

/// Compiles and writes the image, synced.
pub(super) fn compile(engine: &Engine, component: &[u8], image: &Path) -> Result<(), LoadError> {
    let code = engine.precompile_component(component);
    let code = code.map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
    write_synced(image, &code)
        .map_err(|error| LoadError::Compile(format!("the image cannot be written: {error}")))
}

/// Runs a compiler and waits for its end.
pub(super) async fn run(command: &[OsString], job: &Job, wall: Duration) -> Result<(), LoadError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        LoadError::Compile(format!("the compiler process {what}: {error}"))
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(LoadError::Compile("no compiler command is configured".to_owned()));
    };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot be started", &error))?;
    let mut line = serde_json::to_vec(job).map_err(|error| failed("cannot be told", &error))?;
    line.push(b'\n');
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        let mut answer = Vec::new();
        // The pipe stays open until the compiler is done: its end tells it that we are gone.
        let mut stdin = stdin;
        if let Some(stdin) = &mut stdin {
            // If it died before it read this, its end says so.
            let _ = stdin.write_all(&line).await;
            let _ = stdin.flush().await;
        }
        if let Some(stdout) = stdout {
            stdout.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
        }
        let status = child.wait().await?;
        drop(stdin);
        std::io::Result::Ok((status, answer))
    };
    let (status, answer) = match tokio::time::timeout(wall, talk).await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => return Err(failed("broke off", &error)),
        // The child is killed when it is dropped.
        Err(_) => return Err(LoadError::CompileLimit(format!("it took more than {wall:?}"))),
    };
    let answer = String::from_utf8_lossy(&answer);
    let done = answer.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    match done {
        Some(Done::Compiled) if status.success() => Ok(()),
        Some(Done::Invalid(why)) => Err(LoadError::Invalid(why)),
        Some(Done::Failed(why)) => Err(LoadError::Compile(why)),
        // Killed by a signal: out of CPU time, or aborted for want of memory.
        _ if std::os::unix::process::ExitStatusExt::signal(&status).is_some() => {
            Err(LoadError::CompileLimit(format!(
                "the compiler ended with {status}; it may use {} bytes of memory and {} s of CPU",
                job.memory_bytes, job.cpu_s
            )))
        }
        _ => Err(LoadError::Compile(format!("the compiler ended with {status} and no answer"))),
    }
}

/// The whole of a compiling process: reads its job from standard input, compiles, answers on
/// standard output. Does nothing else, and ends when its parent does.
///
/// The hidden sub-command that [`crate::Config::compile_command`] names must call this and
/// exit with its code.
pub fn compile_child_main() -> ExitCode {
    let mut stdin = std::io::stdin().lock();
    let mut line = String::new();
    let read = (&mut stdin).take(ANSWER_BYTES).read_line(&mut line);
    let job = match read
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_str::<Job>(&line).map_err(|e| e.to_string()))
    {
        Ok(job) => job,
        Err(error) => {
            eprintln!("this command is for the node's own use: {error}");
            return ExitCode::from(2);
        }
    };
    drop(stdin);
    std::thread::spawn(|| {
        // The parent keeps the pipe open; its end means that nobody wants the image any more.
        let _ = std::io::stdin().lock().read(&mut [0]);
        #[expect(
            clippy::disallowed_methods,
            reason = "the compiler cannot be interrupted otherwise, and this process owns nothing"
        )]
        std::process::exit(1);
    });
    limit(&job);
    let done = match work(&job) {
        Ok(()) => Done::Compiled,
        Err(LoadError::Invalid(why)) => Done::Invalid(why),
        Err(error) => Done::Failed(error.to_string()),
    };
    let ok = matches!(done, Done::Compiled);
    let answer = serde_json::to_string(&done).unwrap_or_default();
    let written = writeln!(std::io::stdout(), "{answer}").is_ok();
    if ok && written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(job: &Job) -> Result<(), LoadError> {
    let failed = |what: &str| LoadError::Compile(what.to_owned());
    let engine = Engine::new(&code_config())
        .map_err(|error| LoadError::Compile(format!("no engine: {error:#}")))?;
    if compatibility(&engine) != job.compatibility {
        return Err(failed("the compiler is of another version than the node"));
    }
    let component = std::fs::read(&job.component)
        .map_err(|error| LoadError::Compile(format!("the component cannot be read: {error}")))?;
    if Digest::of(&component) != job.digest {
        return Err(failed("the component changed while it was being read"));
    }
    compile(&engine, &component, &job.image)
}

/// Limits of this process. A limit that cannot be set is no reason not to compile.
fn limit(job: &Job) {
    let set = |resource, value: u64| {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: the pointer is to a valid rlimit, which the call only reads.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            eprintln!("a limit of the compiler cannot be set: {}", std::io::Error::last_os_error());
        }
    };
    set(libc::RLIMIT_AS, job.memory_bytes);
    set(libc::RLIMIT_CPU, job.cpu_s);
    set(libc::RLIMIT_CORE, 0);
    // SAFETY: no pointers; the number only changes this process's priority.
    let _ = unsafe { libc::nice(NICE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_does_not_change_the_code() {
        let (pooled, _) = crate::engine::build(16).unwrap();
        let plain = Engine::new(&code_config()).unwrap();
        assert_eq!(compatibility(&pooled), compatibility(&plain));
        let mut other = code_config();
        other.epoch_interruption(false);
        assert_ne!(compatibility(&Engine::new(&other).unwrap()), compatibility(&plain));
    }
}
