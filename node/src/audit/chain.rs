//! The chain of records: each names the hash of the one before it.
//!
//! A record is one line of JSON. `hash`, its last field, is SHA-256 over the line without that
//! field; `previous` is the `hash` of the line before. So a line that was changed, left out, added
//! or moved is found, and where. Whoever may write the file can make the whole chain anew: against
//! that, keep the newest hash somewhere else.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub(crate) type Hash = [u8; 32];
/// What the first record of a chain names as the one before it.
const NONE: Hash = [0; 32];

/// Where a chain goes on: the number of the next record, and the hash of the last one.
///
/// Contract: seal a record, write its line, and go on with this chain only if the line was written;
/// otherwise go on with a copy from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    next: u64,
    head: Hash,
}

/// What every record has; the rest is its content.
#[derive(Serialize)]
struct Unsealed<'a, T> {
    sequence: u64,
    time: &'a str,
    node: &'a str,
    #[serde(flatten)]
    content: &'a T,
    previous: String,
}

/// The fields that make the chain.
#[derive(Deserialize)]
struct Links {
    sequence: u64,
    #[serde(with = "hex::serde")]
    previous: Hash,
}

impl Chain {
    /// A chain without a record before it, whose first has this number.
    pub(crate) fn begin(next: u64) -> Self {
        Self { next, head: NONE }
    }

    /// The number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The hash of the last record.
    pub(crate) fn head(&self) -> Hash {
        self.head
    }

    /// Makes the line of the next record, without a line's end.
    ///
    /// # Errors
    /// The content is no JSON object.
    pub(crate) fn seal<T: Serialize>(
        &mut self,
        time: &str,
        node: &str,
        content: &T,
    ) -> serde_json::Result<String> {
        let previous = hex::encode(self.head);
        let unsealed = Unsealed { sequence: self.next, time, node, content, previous };
        let mut line = serde_json::to_string(&unsealed)?;
        let hash: Hash = Sha256::digest(&line).into();
        line.truncate(line.len() - 1);
        line.push_str(&suffix(&hash));
        *self = Self { next: self.next + 1, head: hash };
        Ok(line)
    }
}

/// How a sealed line ends.
fn suffix(hash: &Hash) -> String {
    format!(",\"hash\":\"{}\"}}", hex::encode(hash))
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is not what was written: its hash is another one.
    Changed,
    /// Its number is not the next one: lines are missing, were added or moved.
    Sequence { expected: u64, found: u64 },
    /// It has the right number, but does not follow on the line before it.
    Detached,
    /// Records that this node wrote are not there any more.
    Missing { expected: u64, found: u64 },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("the record is not as it was written"),
            Self::Sequence { expected, found } => {
                write!(f, "record {expected} should stand here, there is {found}")
            }
            Self::Detached => f.write_str("the record does not follow on the one before it"),
            Self::Missing { expected, found } => {
                write!(f, "the last record should be {expected}, it is {found}")
            }
        }
    }
}

/// Reads a chain, line by line, from any of its records on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Check {
    at: Option<Chain>,
    first: Option<u64>,
}

impl Check {
    /// Takes the next line.
    ///
    /// # Errors
    /// What is wrong with it; the check is then over.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Damage> {
        let ending = suffix(&NONE).len();
        let split = line.len().checked_sub(ending).filter(|at| line.is_char_boundary(*at));
        let body = split.map(|at| format!("{}}}", &line[..at])).ok_or(Damage::Changed)?;
        let hash: Hash = Sha256::digest(&body).into();
        if !line.ends_with(&suffix(&hash)) {
            return Err(Damage::Changed);
        }
        let links: Links = serde_json::from_str(&body).map_err(|_| Damage::Changed)?;
        if let Some(at) = &self.at {
            if links.sequence != at.next {
                return Err(Damage::Sequence { expected: at.next, found: links.sequence });
            }
            if links.previous != at.head {
                return Err(Damage::Detached);
            }
        }
        self.first.get_or_insert(links.sequence);
        self.at = Some(Chain { next: links.sequence + 1, head: hash });
        Ok(())
    }

    /// Where the chain goes on; none before the first line.
    pub(crate) fn chain(&self) -> Option<&Chain> {
        self.at.as_ref()
    }

    /// The number of the first record that was read.
    pub(crate) fn first(&self) -> Option<u64> {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(count: u64) -> Vec<String> {
        let mut chain = Chain::begin(1);
        (0..count).map(|i| chain.seal("now", "n1", &json!({ "i": i })).unwrap()).collect()
    }

    fn check(lines: &[String]) -> Result<Check, (usize, Damage)> {
        let mut check = Check::default();
        for (i, line) in lines.iter().enumerate() {
            check.line(line).map_err(|damage| (i, damage))?;
        }
        Ok(check)
    }

    #[test]
    fn a_chain_is_whole_from_any_of_its_records_on() {
        let lines = lines(5);
        for from in 0..5 {
            let check = check(&lines[from..]).unwrap();
            assert_eq!(check.first(), Some(from as u64 + 1));
            assert_eq!(check.chain().unwrap().next(), 6);
        }
        let value: serde_json::Value = serde_json::from_str(&lines[2]).unwrap();
        assert_eq!(
            (&value["sequence"], &value["node"], &value["i"]),
            (&3.into(), &"n1".into(), &2.into())
        );
        let before: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(value["previous"], before["hash"]);
    }

    #[test]
    fn a_changed_dropped_swapped_added_or_repeated_line_is_found_where_it_is() {
        let good = lines(5);
        let mut changed = good.clone();
        changed[2] = changed[2].replace("\"i\":2", "\"i\":7");
        assert_eq!(check(&changed).unwrap_err(), (2, Damage::Changed));
        for at in 0..good[2].len() {
            let mut bytes = good[2].clone().into_bytes();
            bytes[at] ^= 1;
            let mut flipped = good.clone();
            flipped[2] = String::from_utf8(bytes).unwrap();
            assert_eq!(check(&flipped).unwrap_err().0, 2, "byte {at}");
        }
        let mut dropped = good.clone();
        dropped.remove(2);
        assert_eq!(check(&dropped).unwrap_err(), (2, Damage::Sequence { expected: 3, found: 4 }));
        let mut swapped = good.clone();
        swapped.swap(2, 3);
        assert_eq!(check(&swapped).unwrap_err(), (2, Damage::Sequence { expected: 3, found: 4 }));
        let mut repeated = good.clone();
        repeated.insert(2, good[1].clone());
        assert_eq!(check(&repeated).unwrap_err(), (2, Damage::Sequence { expected: 3, found: 2 }));
        let mut cut = good.clone();
        cut[2].truncate(40);
        assert_eq!(check(&cut).unwrap_err(), (2, Damage::Changed));
        // Made anew, with a right hash of its own: what follows does not follow on it.
        let mut forged = good.clone();
        let mut chain = check(&good[..2]).unwrap().chain().unwrap().clone();
        forged[2] = chain.seal("now", "n1", &json!({ "i": 7 })).unwrap();
        assert_eq!(check(&forged).unwrap_err(), (3, Damage::Detached));
        for odd in ["", "{}", "null", "{\"hash\":\"\"}", "é"] {
            assert_eq!(check(&[odd.to_owned()]).unwrap_err().1, Damage::Changed, "{odd:?}");
        }
    }
}
