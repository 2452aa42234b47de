//! The receiving side of a snapshot that comes in pieces.

use std::io;

use openraft::async_runtime::watch::WatchReceiver;
use swarmer_model::NodeId;

use super::{
    engine::{Engine, fatal_error},
    wire::{SnapshotChunk, SnapshotReply},
};
use crate::{disk::blocking, error::RaftError, snapshot::Incoming};

/// A snapshot that is coming in.
pub(super) struct Receiving {
    transfer: u64,
    incoming: Incoming,
}

impl Engine {
    /// Takes the next piece; the last one is checked and installed.
    pub(super) async fn take_chunk(
        &self,
        from: NodeId,
        chunk: SnapshotChunk,
    ) -> Result<SnapshotReply, RaftError> {
        let SnapshotChunk { vote, transfer, offset, bytes, finish } = chunk;
        let failed = |error: io::Error| RaftError::Storage(error.to_string());
        let mine = self.core.metrics().borrow_watched().vote;
        if mine > vote {
            return Ok(SnapshotReply::Done(openraft::raft::SnapshotResponse::new(mine)));
        }
        self.heard.lock().now(from);
        let mut receiving = self.receiving.lock().await;
        // Where a sending broke off, the next one of the same file goes on.
        let asks = offset == 0 && bytes.is_empty() && finish.is_none();
        if asks && let Some(there) = receiving.as_ref().filter(|there| there.transfer == transfer) {
            return Ok(SnapshotReply::Continue { received: there.incoming.bytes() });
        }
        if offset == 0 {
            let store = self.store.clone();
            let incoming =
                blocking(self.store.disk(), move || store.receive()).await.map_err(failed)?;
            *receiving = Some(Receiving { transfer, incoming });
        }
        let mut current = match receiving.take() {
            Some(current) if current.transfer == transfer && current.incoming.bytes() == offset => {
                current
            }
            other => {
                *receiving = other;
                return Ok(SnapshotReply::Restart("chunks arrived out of order".to_owned()));
            }
        };
        let incoming = blocking(self.store.disk(), move || {
            current.incoming.write(&bytes)?;
            Ok(current.incoming)
        })
        .await
        .map_err(failed)?;
        let Some(meta) = finish else {
            let received = incoming.bytes();
            *receiving = Some(Receiving { transfer, incoming });
            return Ok(SnapshotReply::Continue { received });
        };
        let file = match blocking(self.store.disk(), move || incoming.finish()).await {
            Ok(file) => file,
            // It was damaged on its way, or on either disk: told apart by trying again.
            Err(error) => return Ok(SnapshotReply::Restart(error.to_string())),
        };
        let snapshot = openraft::Snapshot { meta, snapshot: file };
        let response = self.core.install_full_snapshot(vote, snapshot).await;
        Ok(SnapshotReply::Done(response.map_err(|fatal| fatal_error(&fatal))?))
    }
}
