//! The versions of what nodes say to each other: the one place that says what each of them means.
//!
//! On each connection two nodes speak the newest version that both know. So a cluster is upgraded node
//! by node, and goes on serving while it is mixed.
//!
//! | version | what is said since then |
//! |---|---|
//! | 1 | a write that a node sends on to the leader goes alone in its message |
//! | 2 | those that come while others are on their way go together in one |
//! | 3 | members ask each other for an answer by which the way between them is measured |
//! | 4 | members tell each other by a fingerprint what they know of all, and by a list only where that differs |
//! | 5 | members leave out of a datagram what its receiver knows |
//! | 6 | a peer at rest is asked now and then on its control connection whether it lives, and a feed without news is silent for longer |
//!
//! Whatever an older node would not understand is a version of its own: a line here, a constant that
//! names it, and where it is sent the question whether the other side speaks it. What was said before
//! goes on being understood until [`OLDEST`] is raised past it.

/// The newest version that this build speaks.
pub const NEWEST: u8 = RESTING;
/// The oldest version that this build speaks.
pub const OLDEST: u8 = 1;
/// The version since which many writes go to the leader in one message.
pub const MANY_WRITES: u8 = 2;
/// The version since which members measure how far they are from each other.
pub const DISTANCES: u8 = 3;
/// The version since which members compare what they know by fingerprints.
pub const SUMMARIES: u8 = 4;
/// The version since which datagrams between members leave out what the receiver knows.
pub const BRIEF: u8 = 5;
/// The version since which control connections take the question whether a peer lives, a DATAGRAM frame,
/// and are not kept alive all the time; and since which a feed may be silent for five seconds.
pub const RESTING: u8 = 6;
