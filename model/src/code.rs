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

    /// The exit code of a client command that ends with this error: 3 not found, 4 conflict,
    /// 5 refused, 6 unreachable, 2 usage, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self.status {
            400 | 422 => 2,
            404 => 3,
            409 | 412 => 4,
            401 | 403 => 5,
            502..=504 => 6,
            _ => 1,
        }
    }
}

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
