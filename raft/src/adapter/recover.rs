//! The way out when a majority is gone for good: a log whose last membership is one node alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, mpsc},
};

use openraft::{EmptyNode, EntryPayload, Membership, entry::RaftEntry, vote::RaftLeaderId};
use swarmer_model::NodeId;

use super::{
    log::read,
    open::{Opened, open_disk},
    types::{Command, Entry, LogId, Vote, decode, encode},
};
use crate::{
    disk::Disk,
    error::RaftError,
    keyspace::Shared,
    raft::Config,
    recover::Recovered,
    txn::Txn,
    view::View,
    wal::{Wal, WalError},
};

/// Bytes of log read at a time.
const READ_BYTES: usize = 4 << 20;

fn failed(error: impl std::fmt::Display) -> RaftError {
    RaftError::Storage(error.to_string())
}

/// See [`crate::recover()`]. Blocks.
pub(crate) fn recover(
    config: &Config,
    disk: Arc<dyn Disk>,
    change: impl FnOnce(&View, &BTreeSet<NodeId>) -> Txn,
) -> Result<Recovered, RaftError> {
    // What sled keeps is rebuilt from snapshot and log by the next start.
    let config = Config { applied_dir: None, ..config.clone() };
    let Opened { wal, mut state, position, .. } = open_disk(&config, disk)?;
    let vote: Option<Vote> = match wal.vote() {
        Some(bytes) => Some(decode("the vote", &bytes).map_err(failed)?),
        None => None,
    };
    let (Some(vote), Some(applied)) = (vote, position.last_applied.or(first(&wal)?)) else {
        return Err(RaftError::Membership("this node never was part of a cluster".to_owned()));
    };
    let mut membership = position.membership.membership().clone();
    let mut next = position.last_applied.map_or(wal.first_index(), |log_id| log_id.index + 1);
    let mut last = applied.index;
    while wal.last_index().is_some_and(|end| next <= end) {
        let entries = read(&wal, next..u64::MAX, READ_BYTES).map_err(failed)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            last = entry.log_id().index;
            next = last + 1;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    state.apply(&command.0);
                }
                EntryPayload::Membership(new) => membership = new,
            }
        }
    }
    let before: BTreeSet<NodeId> = membership.voter_ids().map(NodeId).collect();
    if !before.contains(&config.node) {
        return Err(RaftError::Membership(format!(
            "node {} is no voter by its own log: it may lack more than its last moments",
            config.node
        )));
    }
    let revision = state.revision();
    let shared = Shared::new(state, 0);
    let txn = change(&View::new(shared), &before);
    // A term that nobody else can have voted in knows nothing of what others wrote in it.
    let term = vote.leader_id().term() + 1;
    let vote = Vote::new(term, config.node.0);
    let leader = vote.leader_id().to_committed();
    let alone = BTreeMap::from([(config.node.0, EmptyNode {})]);
    let alone = Membership::new(vec![BTreeSet::from([config.node.0])], alone).map_err(failed)?;
    let entries = [
        Entry::new(LogId::new(leader, last + 1), EntryPayload::Membership(alone)),
        Entry::new(LogId::new(leader, last + 2), EntryPayload::Normal(Command(txn))),
    ];
    let bodies = entries.iter().map(encode).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    durable(|done| wal.save_vote(encode(&vote).unwrap_or_default(), done))?;
    durable(|done| wal.append(last + 1, bodies, done))?;
    wal.close()?;
    Ok(Recovered { revision, term, voters: before })
}

/// The first entry of a log that has no snapshot yet.
fn first(wal: &Wal) -> Result<Option<LogId>, RaftError> {
    if wal.last_index().is_none() {
        return Ok(None);
    }
    let first = wal.first_index();
    let entries = read(wal, first..first + 1, READ_BYTES).map_err(failed)?;
    Ok(entries.first().map(RaftEntry::log_id))
}

fn durable(
    write: impl FnOnce(Box<dyn FnOnce(Result<(), WalError>) + Send>),
) -> Result<(), RaftError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    write(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    Ok(receiver.recv().map_err(failed)??)
}
