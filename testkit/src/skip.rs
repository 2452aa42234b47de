//! The line that a skipped test leaves.

use std::{env, fmt, fs::OpenOptions, io::Write as _, str::FromStr, thread};

use crate::capability::Capability;

/// The environment variable that names the file to which skips are appended.
pub const SKIP_LOG: &str = "SWARMER_SKIP_LOG";

/// The environment variable with which a developer leaves tests out: capabilities, separated by
/// commas, that [`require`] takes as missing. CI does not believe it.
pub const WITHOUT: &str = "SWARMER_WITHOUT";

/// One skipped test.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skip {
    /// The test's name.
    pub test: String,
    /// What it would need.
    pub needs: Capability,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SKIPPED {}: needs {}", self.test, self.needs)
    }
}

impl FromStr for Skip {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (test, needs) = line
            .strip_prefix("SKIPPED ")
            .and_then(|rest| rest.rsplit_once(": needs "))
            .ok_or_else(|| format!("{line:?} is not \"SKIPPED <test>: needs <capability>\""))?;
        Ok(Self { test: test.to_owned(), needs: needs.parse()? })
    }
}

/// Whether the calling test can run here as far as `needs` is concerned. If not, the skip is
/// written down and the test returns at once.
pub fn require(needs: Capability) -> bool {
    let left_out = env::var(WITHOUT).unwrap_or_default();
    if !left_out.split(',').any(|name| name.trim() == needs.name()) && needs.probe() {
        return true;
    }
    skip(needs);
    false
}

/// Writes down that the calling test is skipped: for a test that finds out by itself, later than
/// [`require`] could.
///
/// # Panics
/// If the file that [`SKIP_LOG`] names cannot be written: a skip that nobody sees is a lie.
pub fn skip(needs: Capability) {
    let thread = thread::current();
    // The test harness names a test's thread after the test.
    let test = thread.name().unwrap_or("a test on a thread without a name").to_owned();
    let line = Skip { test, needs }.to_string();
    println!("{line} ({})", needs.remedy());
    if let Some(path) = env::var_os(SKIP_LOG) {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            // One write, so that lines of tests that run at once do not mix.
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
            .expect("the skip log can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back() {
        let skip = Skip { test: "a::b: needs c".into(), needs: Capability::Xfs };
        assert_eq!(skip.to_string().parse(), Ok(skip));
        for bad in ["", "SKIPPED a", "SKIPPED a: needs gpu", "a: needs xfs"] {
            assert!(bad.parse::<Skip>().is_err(), "{bad:?}");
        }
    }

    /// Run in a process of its own: what is in the environment is for the whole process.
    #[test]
    #[ignore = "child of skip::tests::a_skip_is_written_to_the_log"]
    fn child() {
        assert!(!require(Capability::Ipv6));
    }

    #[test]
    fn a_skip_is_written_to_the_log() {
        let path = env::temp_dir().join(format!("swarmer-skip-{}", std::process::id()));
        let output = std::process::Command::new(env::current_exe().expect("the test program"))
            .args(["--exact", "skip::tests::child", "--ignored", "--nocapture"])
            .env(SKIP_LOG, &path)
            .env(WITHOUT, "xfs, ipv6")
            .output()
            .expect("the test program runs");
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        assert!(output.status.success());
        assert_eq!(log, "SKIPPED skip::tests::child: needs ipv6\n");
        assert!(String::from_utf8_lossy(&output.stdout).contains("SKIPPED skip::tests::child"));
    }
}
