//! The engine's state machine on the keyspace.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, Snapshot,
    entry::RaftEntry,
    storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine},
};
use parking_lot::Mutex;

use super::types::{LogId, Membership, Position, SnapshotMeta, Types, decode, encode};
use crate::{
    disk::blocking,
    keyspace::{Applied, Batch, Response, Shared, State, StateImage},
    snapshot::{SnapshotFile, SnapshotStore},
};

/// Entries that are applied before those who wait for them are woken.
const APPLY_BATCH: usize = 256;

/// What is applied, and where it is kept. Shared with the owner, who closes it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) position: Position,
    pub(crate) applied: Option<Applied>,
}

/// The state machine. There is one; the engine owns it.
#[derive(Debug)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
    store: Arc<SnapshotStore>,
    kept: Arc<Mutex<Kept>>,
}

impl Machine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: Arc<SnapshotStore>,
        kept: Arc<Mutex<Kept>>,
    ) -> Self {
        Self { shared, store, kept }
    }

    /// Moves the position and notes what changed.
    fn keep(&self, batches: &[Arc<Batch>], last_applied: LogId, membership: Option<Membership>) {
        let mut kept = self.kept.lock();
        kept.position.last_applied = Some(last_applied);
        if let Some(membership) = membership {
            kept.position.membership = membership;
        }
        if let Some(applied) = &mut kept.applied {
            self.shared.read(|state| applied.note(batches, |key| state.get(key).cloned()));
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        let Position { last_applied, membership } = self.kept.lock().position.clone();
        Ok((last_applied, membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_BATCH);
        while let Some(chunk) = chunks.next().await {
            let mut batches = Vec::new();
            let mut answers = Vec::new();
            let mut last = None;
            let mut membership = None;
            for item in chunk {
                let (entry, responder) = item?;
                let log_id = entry.log_id();
                let response = match entry.payload {
                    EntryPayload::Blank => Response::Nothing,
                    EntryPayload::Normal(command) => {
                        let (response, batch) = self.shared.apply(&command.0);
                        batches.extend(batch);
                        response
                    }
                    EntryPayload::Membership(new) => {
                        membership = Some(Membership::new(Some(log_id), new));
                        Response::Nothing
                    }
                };
                last = Some(log_id);
                if let Some(responder) = responder {
                    answers.push((responder, response));
                }
            }
            if let Some(last) = last {
                self.keep(&batches, last, membership);
            }
            self.shared.announce();
            for (responder, response) in answers {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // Nothing is applied meanwhile: the engine calls this and `apply` one after the other.
        let position = self.kept.lock().position.clone();
        let image = self.shared.read(State::image);
        Builder { store: self.store.clone(), position, image: Arc::new(image) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let position: Position = decode("a snapshot's position", &snapshot.header.position)?;
        if position.meta() != *meta {
            return Err(io::Error::other("a snapshot's position is not the one announced"));
        }
        let store = self.store.clone();
        let state = blocking(self.store.disk(), move || {
            let state = snapshot.load()?;
            store.adopt(snapshot)?;
            Ok(state)
        })
        .await?;
        let image = state.image();
        let bytes = encode(&position)?;
        self.shared.replace(state);
        let kept = self.kept.clone();
        blocking(self.store.disk(), move || {
            let mut kept = kept.lock();
            kept.position = position;
            if let Some(applied) = &mut kept.applied {
                applied.refill(&image, &bytes);
            }
            Ok(())
        })
        .await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>>, io::Error>
    {
        self.store.current().map(with_meta).transpose()
    }
}

/// Writes one snapshot.
#[derive(Debug)]
pub(crate) struct Builder {
    store: Arc<SnapshotStore>,
    position: Position,
    image: Arc<StateImage>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>, io::Error> {
        let index = self.position.last_applied.map_or(0, |log_id| log_id.index);
        let position: Bytes = encode(&self.position)?;
        let (store, image) = (self.store.clone(), self.image.clone());
        with_meta(blocking(self.store.disk(), move || store.write(index, position, &image)).await?)
    }
}

fn with_meta(
    file: SnapshotFile,
) -> io::Result<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>> {
    let position: Position = decode("a snapshot's position", &file.header.position)?;
    Ok(Snapshot { meta: position.meta(), snapshot: file })
}
