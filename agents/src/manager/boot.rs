//! Rebuilding a seat from the journal: every record is read, checked against the chain and applied; nothing is decided anew.
//!
//! A journal that is shorter than what this node remembers, or differs from it, is an old backup or an emptied disk: the Manager
//! refuses to lead on it.

use std::collections::VecDeque;
use std::sync::Arc;

use amphi_coordination::State;
use amphi_coordination::seat::{FollowError, Seat};
use amphi_ports::{Journal, ObjectStore, StoreError};
use amphi_protocol::document::EpicSpec;
use amphi_protocol::event::Event;
use amphi_protocol::ids::Timestamp;
use amphi_protocol::journal::{Decision, Record, RecordError};
use futures::StreamExt as _;
use ractor::ActorRef;

use crate::manager::{ManagerArguments, ManagerMessage};

/// Events that are kept of a replay, to fill an empty event stream: the stream is a bounded view.
pub const EVENTS_KEPT: usize = 20_000;

/// Messages of commits that are not older than this are sent again: less than the time in which the stream recognises them.
const TELL_AGAIN_MS: u64 = 15 * 60 * 1000;

/// A seat that has followed the whole journal.
#[derive(Debug)]
pub struct Booted {
    /// The seat.
    pub seat: Seat,
    /// The last events.
    pub events: Vec<Event>,
}

/// Why no seat could be built.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The journal or the object store cannot be read.
    #[error("the journal cannot be read")]
    Store(#[from] StoreError),
    /// A record cannot be read.
    #[error("journal record at sequence {sequence}")]
    Record {
        /// Where it stands.
        sequence: u64,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// A record does not follow.
    #[error("the journal does not hold together")]
    Follow(#[from] FollowError),
    /// The journal is not the one that this node knows.
    #[error(
        "this node remembers commit {index} of the journal, which {found}: an old backup was restored or a disk was lost; nothing is started on it"
    )]
    Replaced {
        /// The commit remembered.
        index: u64,
        /// What was found in its place.
        found: &'static str,
    },
}

/// Boots and reports to the Manager.
pub(super) async fn run(arguments: ManagerArguments, manager: ActorRef<ManagerMessage>) {
    let booted = rebuild(&arguments).await.inspect_err(|error| {
        tracing::error!(error = error as &(dyn std::error::Error + 'static), "the Manager cannot start");
    });
    // The Manager may have been stopped meanwhile.
    let _gone = manager.cast(ManagerMessage::Booted(Box::new(booted)));
}

async fn rebuild(arguments: &ManagerArguments) -> Result<Booted, BootError> {
    let remembered = arguments.memory.recall(arguments.shard)?;
    let mut seat = Seat::new(arguments.node.clone(), State::new(arguments.shard));
    seat.tell_since(Timestamp(arguments.clock.now().0.saturating_sub(TELL_AGAIN_MS)));
    let mut events = VecDeque::new();
    let mut records = arguments.journal.read(0);
    while let Some(next) = records.next().await {
        let (sequence, bytes) = next?;
        let record = decode(sequence, &bytes, &*arguments.objects).await?;
        events.extend(seat.follow(sequence, &bytes, &record)?);
        let surplus = events.len().saturating_sub(EVENTS_KEPT);
        events.drain(..surplus);
        if let Some((index, hash)) = &remembered
            && *index == record.index.0
            && *hash != seat.tail().1
        {
            return Err(BootError::Replaced { index: *index, found: "differs" });
        }
        // A long replay shares the thread with heartbeats.
        tokio::task::yield_now().await;
    }
    match remembered {
        Some((index, _)) if index > seat.state().index.0 => Err(BootError::Replaced { index, found: "is missing" }),
        Some(_) | None => Ok(Booted { seat, events: events.into() }),
    }
}

/// Reads a stored record and fetches the specifications that are not in it.
///
/// # Errors
/// The record cannot be read, or the object store fails. A specification that is missing is found out when the record is applied.
pub async fn decode(sequence: u64, bytes: &[u8], objects: &dyn ObjectStore) -> Result<Record, BootError> {
    let mut record = Record::decode(bytes).map_err(|source| BootError::Record { sequence, source })?;
    for decision in record.decisions.iter_mut().flatten() {
        if let Decision::EpicAccepted { spec, .. } = decision
            && spec.inline.is_none()
            && let Some(bytes) = objects.get(&spec.hash).await?
        {
            let resolved: EpicSpec =
                serde_json::from_slice(&bytes).map_err(|error| BootError::Record { sequence, source: RecordError::Malformed(error) })?;
            spec.resolved = Some(Arc::new(resolved));
        }
    }
    Ok(record)
}

/// All records up to `last_sequence`, with their bytes, for whoever reads history.
pub async fn history(
    journal: &dyn Journal,
    objects: &dyn ObjectStore,
    last_sequence: u64,
    mut each: impl FnMut(u64, &[u8], &Record) -> Result<(), BootError> + Send,
) -> Result<(), BootError> {
    let mut records = journal.read(0);
    while let Some(next) = records.next().await {
        let (sequence, bytes) = next?;
        if sequence > last_sequence {
            break;
        }
        let record = decode(sequence, &bytes, objects).await?;
        each(sequence, &bytes, &record)?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
