//! Tokens: what the cluster keeps of them. The secret itself is never stored, only its hash.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::place::Place;

/// A token as the desired state holds it, under the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// First 8 digits of the hash: enough to name it in `token list` and `token revoke`.
    pub id: String,
    /// What it is good for.
    #[serde(flatten)]
    pub kind: TokenKind,
    /// Not valid from this time on: milliseconds since 1970 by the leader's clock.
    pub expires_at_ms: u64,
    /// When it was made: milliseconds since 1970.
    pub created_at_ms: u64,
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum TokenKind {
    /// Admits nodes.
    #[serde(rename_all = "camelCase")]
    Join {
        /// How many nodes it still admits.
        uses_left: u32,
        /// Where the nodes stand that it admits. A node that claims anything else is refused.
        #[serde(flatten)]
        place: Place,
    },
    /// Opens the API.
    Api {
        /// What it may do.
        role: Role,
        /// The only namespace in which it may; all of them if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
}

/// What the bearer of an API token may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look, and change functions and other resources of users.
    Editor,
    /// Everything, nodes and tokens included.
    Admin,
}

impl std::str::FromStr for Role {
    type Err = crate::validation::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "editor" => Ok(Self::Editor),
            "admin" => Ok(Self::Admin),
            _ => Err(crate::validation::Invalid::one("role", text, "viewer, editor or admin")),
        }
    }
}

impl TokenRecord {
    /// Whether it is past its time.
    pub fn expired(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_at_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_flat_and_reads_back() {
        let record = TokenRecord {
            id: "00112233".into(),
            kind: TokenKind::Join {
                uses_left: 1,
                place: Place { region: Some("eu-1".into()), ..Place::default() },
            },
            expires_at_ms: 2,
            created_at_ms: 1,
        };
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["kind"], "join");
        assert_eq!(json["usesLeft"], 1);
        assert_eq!(json["region"], "eu-1");
        assert_eq!(serde_json::from_value::<TokenRecord>(json).unwrap(), record);
        assert!(!record.expired(1));
        assert!(record.expired(2));
    }
}
