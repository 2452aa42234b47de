//! What nodes ask each other about votes.

use serde::{Deserialize, Serialize};
use swarmer_scheduler::DiskPace;

/// A question; the node that asks is the one that the connection authenticated.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// From the leader: open the log, and take it as a learner. Repeatable.
    Prepare,
    /// From the leader: the log is no longer sent to you; follow the watch again.
    Release,
    /// From a node that hears of no leader any more: am I a voter or learner?
    Standing,
    /// From a voter that lacks one: the keys of the cluster's authorities.
    Authority,
    /// From the leader: how fast is your disk?
    Disk,
}

/// The answer.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Told {
    /// The log is open. `log` tells it from any other that this node ever had.
    Prepared { log: String },
    /// Done, or about to be.
    Released,
    /// Whether the asker is a voter or learner by the committed membership.
    Standing { member: bool },
    /// Its keys, as PEM: of the one that issues, and of the one that is brought in.
    Authority {
        ca_key_pem: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more: Vec<String>,
    },
    /// How fast the disk that holds the log was lately.
    Disk { pace: DiskPace },
    /// Not so.
    Refused { code: String, detail: String },
}
