//! Sizes and durations as people write them: `64MiB`, `5s`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct ParseQuantityError {
    value: String,
    expected: &'static str,
}

/// A number of bytes; written with KiB, MiB, GiB (1024) or KB, MB, GB (1000), or bare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = &UNITS[..3];
        match binary.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let fail = || ParseQuantityError {
            value: text.chars().take(40).collect(),
            expected: "a size such as 64MiB, 512KiB or 1000000",
        };
        let trimmed = text.trim();
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((trimmed.strip_suffix(name)?, *unit)))
            .unwrap_or((trimmed, 1));
        let number: u64 = digits.trim_end().parse().map_err(|_| fail())?;
        number.checked_mul(unit).map(Self).ok_or_else(fail)
    }
}

/// A duration in milliseconds; written as `5s`, `250ms`, `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// So many seconds.
    pub const fn secs(n: u64) -> Self {
        Self(n * 1000)
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// Nothing longer: months and years have no one length, and who wrote `365d` wants to read it.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (name, unit) in TIMES {
            let (number, before) = (rest / unit, rest != self.0);
            rest %= unit;
            if number > 0 {
                write!(f, "{}{number}{name}", if before { " " } else { "" })?;
            }
        }
        if self.0 == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl FromStr for Millis {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let fail = || ParseQuantityError {
            value: text.chars().take(40).collect(),
            expected: "a duration such as 5s, 250ms or 1m",
        };
        let duration = humantime::parse_duration(text).map_err(|_| fail())?;
        u64::try_from(duration.as_millis()).map(Self).map_err(|_| fail())
    }
}

macro_rules! quantity_serde {
    ($name:ident, $pattern:literal) => {
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
                    text.parse().map_err(D::Error::custom)
                } else {
                    u64::deserialize(deserializer).map(Self)
                }
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

quantity_serde!(ByteSize, "^[0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB)?$");
quantity_serde!(Millis, "^([0-9]+ *[a-z]+ *)+$");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_write_sizes() {
        assert_eq!("64MiB".parse(), Ok(ByteSize::mib(64)));
        assert_eq!("64 MiB".parse(), Ok(ByteSize::mib(64)));
        assert_eq!("1MB".parse(), Ok(ByteSize(1_000_000)));
        assert_eq!("17".parse(), Ok(ByteSize(17)));
        for bad in ["", "MiB", "-1", "1.5GiB", "99999999999GiB", "1 banana"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn people_write_durations() {
        assert_eq!("5s".parse(), Ok(Millis(5000)));
        assert_eq!("250ms".parse(), Ok(Millis(250)));
        assert_eq!(Millis::secs(90).to_string(), "1m 30s");
        assert_eq!(Millis::secs(365 * 86_400).to_string(), "365d");
        assert_eq!(Millis(86_400_001).to_string(), "1d 1ms");
        assert_eq!(Millis(0).to_string(), "0s");
        for bad in ["", "5", "-1s", "soon"] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_read(bytes: u64, ms in 0u64..u64::MAX / 2_000_000) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            prop_assert_eq!(Millis(ms).to_string().parse(), Ok(Millis(ms)));
        }
    }
}
