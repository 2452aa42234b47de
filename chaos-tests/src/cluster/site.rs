//! Where a node stands and what it can hold, as it is told by flags.

use swarmer_model::ByteSize;

/// A node's place and capacity.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// Its region.
    pub region: &'static str,
    /// Its zone within the region.
    pub zone: &'static str,
    /// Its one label.
    pub label: (&'static str, &'static str),
    /// How many functions it can hold.
    pub functions: u32,
    /// How much of their memory, in bytes.
    pub memory: u64,
}

impl Site {
    pub(super) fn flags(&self) -> Vec<String> {
        let Self { region, zone, label: (key, value), functions, memory } = *self;
        let (functions, memory) = (functions.to_string(), ByteSize(memory).to_string());
        let label = format!("{key}={value}");
        let flags = [
            ["--region", region],
            ["--zone", zone],
            ["--label", &label],
            ["--capacity-functions", &functions],
            ["--capacity-memory", &memory],
        ];
        flags.iter().flatten().map(|word| (*word).to_owned()).collect()
    }
}
