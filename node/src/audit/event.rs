//! What a record tells.

use serde::Serialize;
use swarmer_model::{Kind, NodeId, Revision};
use swarmer_raft::{Expect, Op, Txn};

use super::files::Place;

/// Digits of a token's hash that are told: its id.
const TOKEN_ID_DIGITS: usize = 8;
/// Entries that one record tells by name; a transaction may have a few more.
const MAX_TOUCHED: usize = 64;
/// Characters of a text that came from outside.
pub(super) const MAX_TEXT_CHARS: usize = 256;

/// Who did it, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Who {
    /// The bearer of an API token, by its id.
    Token(String),
    /// Whoever reaches an API that asks for no token.
    Open,
    /// A node that is none of the cluster's yet.
    Joiner(NodeId),
    /// This node by itself.
    Node,
    /// Nobody that is known.
    Nobody,
}

impl Who {
    /// Whether it is asked for from outside.
    pub(super) fn outside(&self) -> bool {
        !matches!(self, Self::Node)
    }
}

/// One entry of the desired state that a change touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Touched {
    pub(crate) verb: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

impl Touched {
    /// All that a transaction touches, and how many more there are.
    pub(crate) fn of(txn: &Txn) -> (Vec<Self>, usize) {
        let absent = |key: &str| {
            txn.checks.iter().any(|check| check.key == key && check.revision == Expect::Absent)
        };
        let all = txn.ops.iter().take(MAX_TOUCHED).map(|op| {
            let (verb, key) = match op {
                Op::Put { key, .. } if absent(key) => ("create", key),
                Op::Put { key, .. } => ("update", key),
                Op::Delete { key } => ("delete", key),
            };
            let (kind, name) = kind_and_name(key);
            Self { verb, kind, name }
        });
        (all.collect(), txn.ops.len().saturating_sub(MAX_TOUCHED))
    }
}

fn kind_and_name(key: &str) -> (&'static str, String) {
    const KINDS: [(Kind, &str); 8] = [
        (Kind::Function, "Function"),
        (Kind::Node, "Node"),
        (Kind::Region, "Region"),
        (Kind::Token, "Token"),
        (Kind::Placement, "Placement"),
        (Kind::RouteClaim, "RouteClaim"),
        (Kind::Lease, "Lease"),
        (Kind::Cluster, "Cluster"),
    ];
    for (kind, name) in KINDS {
        if let Some(rest) = key.strip_prefix(kind.prefix()) {
            let shown = if kind == Kind::Token { TOKEN_ID_DIGITS } else { MAX_TEXT_CHARS };
            return (name, rest.chars().take(shown).collect());
        }
    }
    ("Other", key.chars().take(MAX_TEXT_CHARS).collect())
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Event {
    /// The node started, or the log goes on after a while without.
    Start {
        boot: u64,
        /// Of a record that was not written to its end.
        cut_bytes: u64,
        /// Where the log before this was found damaged; a new chain begins here.
        damage: Option<Place>,
    },
    /// The desired state was changed.
    Change {
        who: Who,
        changes: Vec<Touched>,
        /// Entries beyond those that are named.
        more: usize,
        /// None: whether it was committed is not known.
        revision: Option<Revision>,
        /// Why it is not known.
        code: Option<&'static str>,
    },
    /// Somebody was refused.
    Refuse {
        who: Who,
        /// Method and path, or the protocol between nodes.
        what: String,
        /// The address it came from, where that is known.
        from: Option<String>,
        code: &'static str,
        reason: String,
        /// Refusals of the same caller with this code since the last record of one, that have no
        /// record of their own.
        suppressed: u64,
    },
    /// Records that could neither be written nor kept.
    Lost { records: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::Key;

    #[test]
    fn a_transaction_is_told_by_verb_kind_and_name_and_no_token_is_told_whole() {
        let hash = "0123456789abcdef0123456789abcdef";
        let txn = Txn::new()
            .check(Key::function("shop", "till"), Expect::Absent)
            .put(Key::function("shop", "till"), "x")
            .put(Key::node(NodeId(7)), "x")
            .delete(Key::token(hash))
            .put("other", "x");
        let (touched, more) = Touched::of(&txn);
        let told: Vec<(&str, &str, &str)> =
            touched.iter().map(|one| (one.verb, one.kind, one.name.as_str())).collect();
        let node = NodeId(7).to_string();
        assert_eq!(
            told,
            [
                ("create", "Function", "shop/till"),
                ("update", "Node", &node),
                ("delete", "Token", "01234567"),
                ("update", "Other", "other"),
            ]
        );
        assert_eq!(more, 0);
    }
}
