//! Stable error codes: the same in API, CLI, logs, metrics and docs.

use std::fmt;

/// A stable error code with all that a user is told about it.
///
/// Every crate lists its own codes as constants of this type; the binary collects them for
/// `docs/errors.md` and for the API's problem documents.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The text that never changes, such as `SW-RAFT-NO-QUORUM`.
    pub name: &'static str,
    /// The HTTP status that an answer with this code has.
    pub status: u16,
    /// What the code means, in one sentence.
    pub summary: &'static str,
    /// What to do about it, in one sentence.
    pub remedy: &'static str,
}

impl Code {
    /// A code; `name` starts with `SW-` and the room it belongs to.
    pub const fn new(
        name: &'static str,
        status: u16,
        summary: &'static str,
        remedy: &'static str,
    ) -> Self {
        Self { name, status, summary, remedy }
    }

    /// The exit code of a command that ends with this error, by [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        let row = EXIT_CODES.iter().find(|(_, _, statuses)| statuses.contains(&self.status));
        row.map_or(1, |(exit, _, _)| *exit)
    }
}

/// The one table of exit codes other than 0 (done) and 1 (failed: every other status): the code,
/// what it means, and the HTTP statuses of the errors that end a command with it. Every fault of
/// whoever asked (4xx) is in it.
pub const EXIT_CODES: &[(u8, &str, &[u16])] = &[
    (2, "usage: what was given cannot be taken", &[400, 405, 413, 422, 431]),
    (3, "not found", &[404, 410]),
    (4, "conflict", &[409, 412]),
    (5, "refused by policy or authentication", &[401, 403]),
    (6, "unreachable, or not to be had now", &[421, 429, 502, 503, 504]),
    // What shells give to a program that a closed pipe ended: 128 + SIGPIPE.
    (141, "the reader of the output went away", &[499]),
];

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// An error that has a stable code.
pub trait Coded: std::error::Error {
    /// The code under which users find this error explained.
    fn code(&self) -> Code;
}

/// The codes of this crate.
pub mod codes {
    use super::Code;

    /// A resource breaks a rule.
    pub const INVALID: Code = Code::new(
        "SW-MODEL-INVALID",
        422,
        "A resource breaks a rule of its kind.",
        "Correct the field that the message names.",
    );
    /// A text is no resource at all.
    pub const MALFORMED: Code = Code::new(
        "SW-MODEL-MALFORMED",
        400,
        "The document cannot be read as the resource that it says it is.",
        "Correct the document at the line and column that the message names.",
    );

    /// All of them, for the docs.
    pub const ALL: &[Code] = &[INVALID, MALFORMED];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_exit_code() {
        let statuses = || EXIT_CODES.iter().flat_map(|(_, _, statuses)| statuses.iter());
        for status in statuses() {
            assert_eq!(statuses().filter(|other| *other == status).count(), 1, "{status}");
        }
        let exit = |status| Code::new("SW-X", status, "", "").exit_code();
        for (status, code) in [(400, 2), (413, 2), (404, 3), (409, 4), (403, 5), (503, 6), (500, 1)]
        {
            assert_eq!(exit(status), code, "{status}");
        }
    }
}
