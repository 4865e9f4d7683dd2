//! Rebuilding a seat: from the newest snapshot that holds and the journal after it, or, where no snapshot holds, from the whole
//! history. Every record is read, checked against the chain and applied; nothing is decided anew.
//!
//! A journal that is shorter than what this node remembers, or differs from it, is an old backup or an emptied disk: the Manager
//! refuses to lead on it. A trimmed journal whose snapshots and archive are gone is refused too: never a wrong state.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use amphi_coordination::State;
use amphi_coordination::seat::{FollowError, Seat};
use amphi_coordination::snapshot::{self, Loaded};
use amphi_ports::{ObjectStore, StoreError};
use amphi_protocol::document::EpicSpec;
use amphi_protocol::event::Event;
use amphi_protocol::ids::{CommitIndex, Timestamp};
use amphi_protocol::journal::upkeep::SNAPSHOT_PREFIX;
use amphi_protocol::journal::{Decision, Record, RecordError, SnapshotRef};
use futures::StreamExt as _;
use ractor::ActorRef;

use crate::manager::archive::{Whereabouts, find_segments, read_history, read_object};
use crate::manager::{ManagerArguments, ManagerMessage};

/// Events that are kept of a replay, to fill an empty event stream: the stream is a bounded view.
pub const EVENTS_KEPT: usize = 20_000;

/// Messages of commits that are not older than this are sent again: less than the time in which the stream recognises them. A
/// snapshot is taken when the messages before it have been stored, so what follows it is enough.
const TELL_AGAIN_MS: u64 = 15 * 60 * 1000;

/// A seat that has followed the journal to its end.
#[derive(Debug)]
pub struct Booted {
    /// The seat.
    pub seat: Seat,
    /// The last events.
    pub events: Vec<Event>,
}

/// Why no seat could be built, or history not be read.
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
    /// A record stands where another one belongs.
    #[error("the journal holds record {found} where {expected} belongs")]
    OutOfPlace {
        /// What belongs there.
        expected: CommitIndex,
        /// What is there, or the last one that should have been.
        found: CommitIndex,
    },
    /// The records before the first one are neither in the journal nor in the archive.
    #[error("history begins at record {first}; what was before it is over or lost")]
    HistoryCut {
        /// The first record.
        first: CommitIndex,
    },
    /// The journal was trimmed, and nothing is left to start from.
    #[error("no snapshot can be used ({snapshots}), and the state cannot be rebuilt from history; nothing is started on a guess")]
    NoSnapshot {
        /// What is wrong with each.
        snapshots: String,
        /// Why history does not help.
        #[source]
        source: Box<BootError>,
    },
    /// The journal is not the one that this node knows.
    #[error(
        "this node remembers commit {index} of the journal, which {found}: an old backup was restored or a disk was lost; nothing is started on it\nrestore a newer backup, or give up what came since on your word: amphi restore --force --accept-older"
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
    let began = std::time::Instant::now();
    let remembered = arguments.memory.recall(arguments.shard)?;
    let mut seat = restore(arguments).await?;
    seat.tell_since(Timestamp(arguments.clock.now().0.saturating_sub(TELL_AGAIN_MS)));
    let (snapshot, mut replayed) = (seat.state().index, 0u64);
    let mut events = VecDeque::new();
    let mut records = arguments.journal.read(seat.tail().0);
    while let Some(next) = records.next().await {
        let (sequence, bytes) = next?;
        let record = decode(sequence, &bytes, &*arguments.objects).await?;
        events.extend(seat.follow(sequence, &bytes, &record)?);
        let surplus = events.len().saturating_sub(EVENTS_KEPT);
        events.drain(..surplus);
        replayed += 1;
        if let Some((index, hash)) = &remembered
            && *index == record.index.0
            && *hash != seat.tail().1
        {
            return Err(BootError::Replaced { index: *index, found: "differs" });
        }
        // A long replay shares the thread with heartbeats.
        tokio::task::yield_now().await;
    }
    if let Some((index, hash)) = remembered.as_ref().filter(|(index, _)| *index <= snapshot.0) {
        // Only the state at the end knows where all archived records are.
        check_past(arguments, &seat, (snapshot, CommitIndex(*index)), hash).await?;
    }
    match remembered {
        Some((index, _)) if index > seat.state().index.0 => Err(BootError::Replaced { index, found: "is missing" }),
        Some(_) | None => {
            tracing::info!(snapshot = snapshot.0, replayed, ms = began.elapsed().as_millis(), "the state is rebuilt");
            Ok(Booted { seat, events: events.into() })
        }
    }
}

/// The seat as of the newest snapshot that holds; an empty one if there never was a snapshot.
async fn restore(arguments: &ManagerArguments) -> Result<Seat, BootError> {
    let whole = || Seat::new(arguments.node.clone(), State::new(arguments.shard));
    let Some((sequence, bytes)) = arguments.journal.last().await? else { return Ok(whole()) };
    let last = Record::decode(&bytes).map_err(|source| BootError::Record { sequence, source })?;
    let Some(marker) = last.snapshot else { return Ok(whole()) };
    let at = Whereabouts { segments: Vec::new(), first: marker, last: last.index, sequence };
    let mut relied = Vec::new();
    read_history((&*arguments.journal, &*arguments.objects), &at, (marker, marker), |_, record| {
        relied = snapshot::relied_on(record);
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    let offset = |index: CommitIndex| (sequence + index.0).saturating_sub(last.index.0);
    let (mut faults, mut of_another_build) = (Vec::new(), None);
    for named in &relied {
        match load(&*arguments.objects, named).await {
            Ok(loaded) if loaded.is_exact => {
                return Ok(Seat::resume(arguments.node.clone(), loaded.state, offset(named.index), loaded.hash));
            }
            Ok(loaded) => {
                faults.push(format!("{}: written by another build", named.object));
                of_another_build.get_or_insert((named.index, loaded));
            }
            Err(error) => {
                tracing::error!(error = &error as &(dyn std::error::Error + 'static), snapshot = named.object, "a snapshot cannot be used");
                faults.push(format!("{}: {error}", named.object));
            }
        }
    }
    match (replay_all(arguments, &last, sequence).await, of_another_build) {
        (Ok(seat), _) => Ok(seat),
        // Its bytes are what was written, only its fields are not quite this build's, and nothing else is left.
        (Err(BootError::HistoryCut { .. }), Some((index, Loaded { state, hash, .. }))) => {
            tracing::warn!(snapshot = index.0, "the state is that of another build; fields that are new in this one begin empty");
            Ok(Seat::resume(arguments.node.clone(), state, offset(index), hash))
        }
        (Err(error), _) => Err(BootError::NoSnapshot { snapshots: faults.join("; "), source: Box::new(error) }),
    }
}

/// From the very first record.
async fn replay_all(arguments: &ManagerArguments, last: &Record, sequence: u64) -> Result<Seat, BootError> {
    tracing::warn!("no snapshot can be used; the whole history is replayed");
    let segments = find_segments(&*arguments.journal, &*arguments.objects).await?;
    let at = Whereabouts { segments, first: CommitIndex(1), last: last.index, sequence };
    let mut seat = Seat::new(arguments.node.clone(), State::new(arguments.shard));
    let stores = (&*arguments.journal, &*arguments.objects);
    let archived = at.segments.last().map_or(CommitIndex(0), |segment| segment.to);
    if archived.0 > 0 {
        read_history(stores, &at, (CommitIndex(1), archived), |bytes, record| {
            let place = (sequence + record.index.0).saturating_sub(last.index.0);
            seat.follow(place, bytes, record)?;
            Ok(ControlFlow::Continue(()))
        })
        .await?;
    }
    Ok(seat)
}

async fn load(objects: &dyn ObjectStore, named: &SnapshotRef) -> Result<Loaded, BootError> {
    let damaged = |why: String| StoreError { what: format!("reading {}: {why}", named.object), source: None, damaged: true };
    let bytes = read_object(objects, SNAPSHOT_PREFIX, &named.object).await?;
    let decoded = tokio::task::spawn_blocking(move || snapshot::decode(&bytes)).await.map_err(|error| damaged(error.to_string()))?;
    let loaded = decoded.map_err(|error| damaged(error.to_string()))?;
    if loaded.state.index != named.index || loaded.hash != named.hash {
        return Err(damaged(format!("it is of commit {}, not of {}", loaded.state.index, named.index)).into());
    }
    Ok(loaded)
}

/// A commit that this node remembers and the snapshot has behind it: the record must be the remembered one.
async fn check_past(
    arguments: &ManagerArguments,
    seat: &Seat,
    (snapshot, index): (CommitIndex, CommitIndex),
    hash: &str,
) -> Result<(), BootError> {
    let (sequence, newest) = seat.tail();
    let at = Whereabouts::of(seat.state(), sequence);
    if index < at.first {
        // Nothing of that time is kept; the chain since then is all that can be judged.
        return Ok(());
    }
    // With nothing after the snapshot, its hash is the chain's end; otherwise the record itself is read, from wherever it is kept.
    let mut found = (index == seat.state().index && index == snapshot).then(|| newest.to_owned());
    if found.is_none() {
        read_history((&*arguments.journal, &*arguments.objects), &at, (index, index), |bytes, _| {
            found = Some(Record::hash(bytes));
            Ok(ControlFlow::Continue(()))
        })
        .await?;
    }
    if found.as_deref() == Some(hash) { Ok(()) } else { Err(BootError::Replaced { index: index.0, found: "differs" }) }
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

/// The state before record `index`, or before the first record that there is if that is later: where a look back begins.
///
/// # Errors
/// The snapshots cannot be read; with a whole history the replay then begins at its first record.
pub async fn state_before(objects: &dyn ObjectStore, state: &StateBefore, index: CommitIndex) -> Result<State, BootError> {
    let mut fault = None;
    let useful = state.snapshots.iter().rev().filter(|snapshot| snapshot.index < index);
    for named in useful {
        match load(objects, named).await {
            Ok(loaded) if loaded.is_exact || state.first.0 > 1 => return Ok(loaded.state),
            Ok(_) => {}
            Err(error) => fault = Some(error),
        }
    }
    match fault {
        Some(error) if state.first.0 > 1 => Err(error),
        Some(_) | None if state.first.0 > 1 => Err(BootError::HistoryCut { first: state.first }),
        Some(_) | None => Ok(State::new(state.shard)),
    }
}

/// What [`state_before`] may begin with.
#[derive(Debug, Clone)]
pub struct StateBefore {
    /// The shard.
    pub shard: amphi_protocol::ids::ShardId,
    /// The first record that there is.
    pub first: CommitIndex,
    /// Snapshots, oldest first.
    pub snapshots: Vec<SnapshotRef>,
}

impl StateBefore {
    /// As a state says.
    pub fn of(state: &State) -> Self {
        let history = state.history();
        Self { shard: state.shard, first: history.from.max(CommitIndex(1)), snapshots: history.snapshots.clone() }
    }
}
