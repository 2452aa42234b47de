//! Validation that names field, value and rule, and reports all violations at once.

use std::fmt;

use serde::Serialize;

use crate::code::{Code, Coded, codes};

/// The most violations that one answer lists; the rest are counted.
const MAX_LISTED: usize = 16;
/// The most characters of a bad value that an answer repeats.
const MAX_VALUE_CHARS: usize = 80;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Path of the field, such as `spec.routes[0].path`.
    pub field: String,
    /// The value found there, shortened.
    pub value: String,
    /// The rule that it breaks.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?}: must be {}", self.field, self.value, self.rule)
    }
}

/// Collects violations while a resource is checked.
#[derive(Debug, Default)]
pub struct Violations {
    listed: Vec<Violation>,
    more: usize,
}

impl Violations {
    /// Notes a broken rule.
    pub fn add(&mut self, field: &str, value: impl fmt::Display, rule: impl Into<String>) {
        if self.listed.len() == MAX_LISTED {
            self.more += 1;
            return;
        }
        let value: String = value.to_string().chars().take(MAX_VALUE_CHARS).collect();
        self.listed.push(Violation { field: field.to_owned(), value, rule: rule.into() });
    }

    /// Whether no rule was broken so far.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Ok if nothing was broken.
    pub fn finish(self) -> Result<(), Invalid> {
        if self.listed.is_empty() {
            Ok(())
        } else {
            Err(Invalid { violations: self.listed, more: self.more })
        }
    }
}

/// A resource breaks one or more rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// What is wrong, in the order of the fields; never empty.
    pub violations: Vec<Violation>,
    more: usize,
}

impl Invalid {
    /// A single violation.
    pub fn one(field: &str, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, value, rule);
        Self { violations: violations.listed, more: 0 }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.violations.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            violation.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

impl Coded for Invalid {
    fn code(&self) -> Code {
        codes::INVALID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_are_told_and_the_list_is_bounded() {
        let mut violations = Violations::default();
        for i in 0..20 {
            violations.add(&format!("f{i}"), "x".repeat(500), "short");
        }
        let invalid = violations.finish().unwrap_err();
        assert_eq!(invalid.violations.len(), MAX_LISTED);
        let text = invalid.to_string();
        assert!(text.ends_with("; and 4 more"), "{text}");
        assert!(text.len() < 4096);
    }
}
