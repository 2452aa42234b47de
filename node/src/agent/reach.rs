//! Whether a node is where it says that the others reach it. It would not notice itself: its own dials
//! work.

use std::{net::SocketAddr, time::Duration};

use swarmer_mesh::transport::DialError;
use tokio::time::Instant;

use crate::{agent::Context, problem};

/// What came of dialling the node of this key (DER, SubjectPublicKeyInfo) where it advertises that it
/// is.
///
/// # Errors
/// What is there instead, for people of both sides.
pub(crate) fn judge(
    address: SocketAddr,
    spki: &[u8],
    found: Result<Vec<u8>, DialError>,
) -> Result<(), String> {
    match found {
        Ok(key) if key == spki => Ok(()),
        Ok(_) => Err(format!("it advertises {address}, where another node answers")),
        Err(error) => {
            let why = problem::chain(&error);
            Err(format!("it advertises {address}, where this node does not reach it: {why}"))
        }
    }
}

impl Context {
    /// Dials the node of this key where it advertises that it is.
    ///
    /// # Errors
    /// As of [`judge`].
    pub(crate) async fn reach(
        &self,
        address: SocketAddr,
        spki: &[u8],
        within: Duration,
    ) -> Result<(), String> {
        let found = self.transport.key_at(address, Instant::now() + within).await;
        judge(address, spki, found)
    }
}
