//! Transactions: conditions and changes that happen together or not at all.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_model::Revision;

use crate::error::RaftError;

/// The longest key in bytes. Keys are paths such as `functions/default/hello`.
pub const MAX_KEY_BYTES: usize = 512;
/// The longest value in bytes: sled's write amplification grows sharply above this, and the
/// desired state is made of small records. Bulk goes into artifacts.
pub const MAX_VALUE_BYTES: usize = 8 * 1024;
/// The most operations, and the most checks, of a transaction: one batch is one watch item.
pub const MAX_TXN_OPS: usize = 128;
/// The most bytes of keys and values in a transaction, so that its batch, with all headers, fits
/// into one frame of the feed (256 KiB).
pub const MAX_TXN_BYTES: usize = 240 * 1024;
/// The longest deadline of a write; longer ones are shortened to it. De-duplication remembers
/// far more requests than can be made in this time.
pub const MAX_DEADLINE: Duration = Duration::from_secs(60);

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// Random, the same in each retry: a committed transaction is applied once.
    pub request_id: u128,
    /// All must hold, or nothing happens.
    pub checks: Vec<Check>,
    /// The changes, in order; each key at most once. All get the same, one new revision.
    pub ops: Vec<Op>,
}

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The key.
    pub key: String,
    /// What must be true of it.
    pub revision: Expect,
}

/// What a check expects of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last changed at exactly this revision.
    At(Revision),
    /// The key exists.
    Exists,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates or replaces.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
    },
    /// Removes; nothing happens if the key does not exist.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key that it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It happened. (Without any effective change, `revision` is the current one.)
    Committed {
        /// The revision of its changes.
        revision: Revision,
    },
    /// A check failed; nothing happened.
    Conflict {
        /// The key of the first check that failed.
        key: String,
        /// The revision found there; none if the key does not exist.
        found: Option<Revision>,
        /// The revision of the state when it was checked.
        revision: Revision,
    },
}

impl Txn {
    /// An empty transaction with a random request id.
    pub fn new() -> Self {
        Self { request_id: rand::random(), checks: Vec::new(), ops: Vec::new() }
    }

    /// Adds a check.
    #[must_use]
    pub fn check(mut self, key: impl Into<String>, revision: Expect) -> Self {
        self.checks.push(Check { key: key.into(), revision });
        self
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into() });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`RaftError::Invalid`] names the key, what is wrong with it and the bound.
    pub fn validate(&self) -> Result<(), RaftError> {
        let invalid = |text: String| Err(RaftError::Invalid(text));
        for (what, count) in [("operations", self.ops.len()), ("checks", self.checks.len())] {
            if count > MAX_TXN_OPS {
                return invalid(format!("{count} {what}, at most {MAX_TXN_OPS}: split it"));
            }
        }
        let mut bytes = 0;
        for key in self.checks.iter().map(|c| c.key.as_str()).chain(self.ops.iter().map(Op::key)) {
            check_key(key)?;
            bytes += key.len();
        }
        let mut keys: Vec<&str> = self.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("key {:?} is changed twice in it", pair[0]));
        }
        for op in &self.ops {
            let Op::Put { key, value } = op else { continue };
            if value.len() > MAX_VALUE_BYTES {
                return invalid(format!(
                    "the value of {key:?} has {} bytes, at most {MAX_VALUE_BYTES}: keep bulk in \
                     an artifact and name it here",
                    value.len()
                ));
            }
            bytes += value.len();
        }
        if bytes > MAX_TXN_BYTES {
            return invalid(format!("{bytes} bytes in all, at most {MAX_TXN_BYTES}: split it"));
        }
        Ok(())
    }
}

impl Default for Txn {
    fn default() -> Self {
        Self::new()
    }
}

fn check_key(key: &str) -> Result<(), RaftError> {
    let shown: String = key.chars().take(80).collect();
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(RaftError::Invalid(format!(
            "key {shown:?} has {} bytes, must have 1 to {MAX_KEY_BYTES}",
            key.len()
        )));
    }
    if key.chars().any(char::is_control) {
        return Err(RaftError::Invalid(format!("key {shown:?} has a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_told() {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        let mut many = Txn::new();
        for i in 0..=MAX_TXN_OPS {
            many = many.delete(format!("k{i}"));
        }
        let mut large = Txn::new();
        for i in 0..31 {
            large = large.put(format!("k{i}"), vec![0; MAX_VALUE_BYTES]);
        }
        for (txn, part) in [
            (Txn::new().put("", "x"), "0 bytes"),
            (Txn::new().put(long, "x"), "513 bytes"),
            (Txn::new().put("a\n", "x"), "control"),
            (Txn::new().put("a", vec![0; MAX_VALUE_BYTES + 1]), "8193 bytes"),
            (Txn::new().put("a", "1").delete("a"), "twice"),
            (Txn::new().check("", Expect::Exists), "0 bytes"),
            (many, "129 operations"),
            (large, "bytes in all"),
        ] {
            let error = txn.validate().expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        Txn::new().check("a", Expect::Absent).put("a", "1").validate().expect("good");
    }
}
