//! The promises of the protocol.
