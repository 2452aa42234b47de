//! Ids of clusters and nodes, and the revision of the desired state.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text is not the id that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {digits} lower-case hexadecimal digits, not {value:?}")]
pub struct ParseIdError {
    what: &'static str,
    digits: usize,
    value: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $digits:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// A new id from the system's random source; never zero.
            pub fn random() -> Self {
                loop {
                    let value: $inner = rand::random();
                    if value != 0 {
                        return Self(value);
                    }
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", stringify!($digits), "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let fail = || ParseIdError {
                    what: $what,
                    digits: $digits,
                    value: text.to_owned(),
                };
                let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if text.len() != $digits || !hex {
                    return Err(fail());
                }
                <$inner>::from_str_radix(text, 16).map(Self).map_err(|_| fail())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <$inner>::deserialize(deserializer).map(Self)
                }
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": concat!("^[0-9a-f]{", stringify!($digits), "}$"),
                })
            }
        }
    };
}

hex_id!(
    /// One member for its whole life. Drawn at random when a data directory is made, admitted by
    /// Raft, never used again: a node with a lost disk comes back under another id.
    NodeId, u64, 16, "a node id"
);

hex_id!(
    /// One cluster. Drawn by `swarmer token bootstrap`; every packet between nodes is bound to it.
    ClusterId, u128, 32, "a cluster id"
);

/// The cluster-wide, monotonic number of a change to the desired state. Zero is "before the first".
pub type Revision = u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_are_the_same_id() {
        let id = NodeId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"00000000000000ab\"");
        let cluster = ClusterId::random();
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000ag"] {
            assert!(text.parse::<NodeId>().is_err(), "{text:?}");
        }
    }
}
