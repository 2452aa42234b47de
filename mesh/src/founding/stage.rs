//! How far a founder is, for the operator.

use std::fmt;

use swarmer_model::ClusterId;

/// Where founding stands; `Display` is a line for progress output and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Not all founders have met yet.
    Waiting {
        /// Names of those that are here, this one first.
        have: Vec<String>,
        /// How many are missing.
        missing: usize,
        /// A cluster that stands at a seed, as somebody there said without a proof.
        hearsay: Option<ClusterId>,
    },
    /// The consent is on its way to the disk.
    Consenting,
    /// This founder has consented to another, which makes the cluster.
    AwaitingGrant {
        /// The other's name.
        from: String,
        /// Its address.
        address: String,
        /// Whether there is a connection to it now.
        connected: bool,
    },
    /// This founder makes the cluster, and waits for consents.
    Collecting {
        /// Names of those that have consented.
        have: Vec<String>,
        /// How many are missing.
        missing: usize,
    },
    /// The driver makes CA and first state.
    Initialising,
    /// The cluster stands, and this founder made it.
    Founded,
    /// This founder has its part.
    Granted,
    /// The cluster stands without this node.
    JoinInstead {
        /// A member's address.
        hint: String,
    },
    /// It cannot go on without the operator.
    Stuck {
        /// What is wrong and what to do.
        why: String,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        match self {
            Self::Waiting { have, missing, hearsay } => {
                let s = plural(*missing);
                write!(f, "waiting for {missing} more founder{s}: have {}", have.join(", "))?;
                match hearsay {
                    Some(cluster) => write!(
                        f,
                        "; a node at a seed says that it is a member of cluster {cluster}: if \
                         this node belongs there, start it with a join token of that cluster"
                    ),
                    None => Ok(()),
                }
            }
            Self::Consenting => f.write_str("all founders have met: consenting"),
            Self::AwaitingGrant { from, address, connected: true } => {
                write!(f, "waiting for {from} ({address}) to found the cluster")
            }
            Self::AwaitingGrant { from, address, connected: false } => write!(
                f,
                "waiting for {from} ({address}) to come back: it was chosen to found the cluster"
            ),
            Self::Collecting { have, missing } => write!(
                f,
                "waiting for the consent of {missing} more founder{}: have {}",
                plural(*missing),
                have.join(", ")
            ),
            Self::Initialising => f.write_str("founding the cluster"),
            Self::Founded => f.write_str("the cluster is founded"),
            Self::Granted => f.write_str("member of the founded cluster"),
            Self::JoinInstead { hint } => write!(
                f,
                "the cluster was founded already (a member is at {hint}): make a join token there \
                 with `swarmer token create` and start this node with it"
            ),
            Self::Stuck { why } => f.write_str(why),
        }
    }
}
