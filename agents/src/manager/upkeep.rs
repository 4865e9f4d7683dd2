//! What the Manager does for its journal: takes snapshots, archives what lies below the older one, trims it, puts ended epics away,
//! and removes what is older than `limits.history`. One chore at a time, each in an owned task beside the commit loop.
//!
//! Nothing is removed before what replaces it is stored and on record, so a crash between any two steps only repeats the last one.
//! Only the copy of the state is made inside the Manager; it is encoded, compared and stored elsewhere.

use std::time::{Duration, Instant};

use amphi_coordination::State;
use amphi_coordination::seat::Seat;
use amphi_coordination::snapshot;
use amphi_ports::{Journal, ObjectStore, StoreError};
use amphi_protocol::graph::GraphView;
use amphi_protocol::ids::{CommitIndex, Timestamp};
use amphi_protocol::journal::upkeep::{RETIRING_MAX, SEGMENT_PREFIX, SNAPSHOT_PREFIX, VIEW_PREFIX};
use amphi_protocol::journal::{Record, RecordError, Retiring, SegmentRef, SnapshotRef, Upkeep};
use bytes::Bytes;
use futures::StreamExt as _;
use ractor::ActorRef;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::failpoint::{self, Place};
use crate::manager::{ManagerArguments, ManagerMessage};

/// How often it is looked whether something is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pause after a chore that failed; doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// Tasks of the epics that are put away together: their views are rendered inside the Manager.
const TASKS_AT_ONCE: usize = 2_000;

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepLimits {
    /// Decisions after which a snapshot is taken.
    pub decisions: u64,
    /// Bytes of records after which a snapshot is taken.
    pub bytes: u64,
    /// Bytes after which an archived segment ends.
    pub segment_bytes: usize,
    /// Ended epics that stay in memory.
    pub ended_epics: usize,
    /// How long history is kept.
    pub history: Duration,
}

impl Default for UpkeepLimits {
    fn default() -> Self {
        Self {
            decisions: 10_000,
            bytes: 16 * 1024 * 1024,
            segment_bytes: 16 * 1024 * 1024,
            ended_epics: 1_000,
            history: Duration::from_secs(90 * 86_400),
        }
    }
}

/// What came of a chore.
#[derive(Debug)]
pub enum Done {
    /// It is stored and wants to be on record.
    Record(Upkeep),
    /// The journal begins with this record now, or a little later.
    Trimmed(CommitIndex),
    /// What nobody refers to any more is gone.
    Discarded,
}

/// Why a chore failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ChoreError {
    /// The journal or the object store could not be read or written.
    #[error("the journal or the object store failed")]
    Store(#[from] StoreError),
    /// A record is no record.
    #[error("a journal record cannot be read")]
    Record(#[from] RecordError),
    /// The snapshot does not give the state again.
    #[error("the snapshot would not be read again as it was: {0}")]
    Unfaithful(String),
    /// The store does not give what was put into it.
    #[error("{name} was stored and does not come back as it was")]
    NotKept {
        /// The object.
        name: String,
    },
    /// Its task failed.
    #[error("the chore ended without a result")]
    Lost(#[from] tokio::task::JoinError),
}

enum Chore {
    Snapshot { state: Box<State>, hash: String },
    Archive { from: CommitIndex, to: CommitIndex, sequence: u64 },
    Trim { index: CommitIndex, sequence: u64 },
    PutAway(Vec<(Retiring, Vec<u8>)>),
    EndHistory { from: CommitIndex },
    Discard(Vec<String>),
}

/// Sees to it that one chore after the other is done while this node leads.
pub(super) struct Keeper {
    limits: UpkeepLimits,
    task: Option<AbortOnDropHandle<()>>,
    /// What was done waits for its commit.
    on_the_way: bool,
    /// The journal begins after this record, as far as is known.
    trimmed: CommitIndex,
    /// Objects of history that is over, once it is on record that it is.
    discard: Option<(CommitIndex, Vec<String>)>,
    next_look: Instant,
    failures: u32,
}

impl Keeper {
    pub fn new(limits: UpkeepLimits) -> Self {
        let next_look = Instant::now();
        Self { limits, task: None, on_the_way: false, trimmed: CommitIndex(0), discard: None, next_look, failures: 0 }
    }

    /// Begins the next chore if there is one and none is under way. `seat` leads and is settled.
    /// `told`: all messages of its commits have been stored, so that nobody needs these commits to send them again.
    pub fn look(&mut self, (seat, told): (&Seat, bool), now: Timestamp, arguments: &ManagerArguments, manager: &ActorRef<ManagerMessage>) {
        if self.task.is_some() || self.on_the_way || Instant::now() < self.next_look {
            return;
        }
        self.next_look = Instant::now() + LOOK_EVERY;
        let Some(chore) = self.next((seat, told), now) else { return };
        let (journal, objects, manager) = (arguments.journal.clone(), arguments.objects.clone(), manager.clone());
        let segment_bytes = self.limits.segment_bytes;
        let task = tokio::spawn(async move {
            let done = perform(chore, &*journal, &*objects, segment_bytes).await;
            // A Manager that is gone meanwhile: its successor finds by itself what is left to do.
            let _gone = manager.cast(ManagerMessage::Kept(Box::new(done)));
        });
        self.task = Some(AbortOnDropHandle::new(task));
    }

    /// A chore is over; gives what is to be put on record.
    pub fn done(&mut self, done: Result<Done, ChoreError>) -> Option<Upkeep> {
        self.task = None;
        match done {
            Ok(Done::Record(upkeep)) => {
                self.failures = 0;
                self.on_the_way = true;
                return Some(upkeep);
            }
            Ok(Done::Trimmed(index)) => {
                self.trimmed = index;
                self.next_look = Instant::now();
            }
            Ok(Done::Discarded) => {}
            Err(error) => {
                let pause = PAUSE.saturating_mul(1 << self.failures.min(7)).min(PAUSE_MAX);
                self.failures += 1;
                self.next_look = Instant::now() + pause;
                metrics::counter!("amphi_upkeep_failures_total").increment(1);
                let error = &error as &(dyn std::error::Error + 'static);
                tracing::warn!(error, "the journal's keeping failed and is tried again; nothing was removed");
                return None;
            }
        }
        self.failures = 0;
        None
    }

    /// What was to be put on record is, or was refused.
    pub fn recorded(&mut self) {
        self.on_the_way = false;
        // One chore often makes room for the next.
        self.next_look = Instant::now();
    }

    fn next(&mut self, (seat, told): (&Seat, bool), now: Timestamp) -> Option<Chore> {
        let (state, grown) = (seat.state(), seat.grown());
        let history = state.history();
        let (sequence, hash) = seat.tail();
        let place = |index: CommitIndex| (sequence + index.0).saturating_sub(state.index.0);
        // What the last snapshot made spare comes first: a state that grows faster than this looks must not leave the journal untrimmed.
        let archived = history.archived_to;
        if let Some(older) = history.older().filter(|older| older.index > archived) {
            return Some(Chore::Archive { from: archived.next(), to: older.index, sequence: place(archived.next()) });
        }
        let trimmable = history.trimmable();
        if trimmable > self.trimmed {
            return Some(Chore::Trim { index: trimmable, sequence: place(trimmable.next()) });
        }
        if let Some((from, objects)) = self.discard.take_if(|(from, _)| history.from >= *from) {
            tracing::info!(from = from.0, objects = objects.len(), "history older than `limits.history` is removed");
            return Some(Chore::Discard(objects));
        }
        let due = grown.decisions >= self.limits.decisions || grown.bytes >= self.limits.bytes;
        // Where messages never come to an end, they must not keep the journal from being trimmed for ever.
        let overdue = grown.decisions / 4 >= self.limits.decisions || grown.bytes / 4 >= self.limits.bytes;
        if (due && told) || overdue {
            let began = Instant::now();
            let state = Box::new(state.clone());
            metrics::histogram!("amphi_snapshot_copy_seconds").record(began.elapsed().as_secs_f64());
            tracing::debug!(index = state.index.0, us = began.elapsed().as_micros(), "the state is copied for a snapshot");
            return Some(Chore::Snapshot { state, hash: hash.to_owned() });
        }
        self.surplus(state).or_else(|| self.over(state, now))
    }

    /// The epics that ended longest ago, if more have ended than are kept in memory.
    fn surplus(&self, state: &State) -> Option<Chore> {
        let ended = state.epics().filter(|epic| epic.is_ended()).count();
        let surplus = ended.checked_sub(self.limits.ended_epics).filter(|surplus| *surplus > 0)?;
        let mut oldest: Vec<_> = state.epics().filter_map(|epic| Some((epic.ended_at?, epic)).filter(|_| state.may_retire(epic))).collect();
        oldest.sort_by_key(|(ended_at, epic)| (*ended_at, &epic.id));
        let (mut views, mut tasks) = (Vec::new(), 0);
        for (ended_at, epic) in oldest.into_iter().take(surplus.min(RETIRING_MAX)) {
            tasks += epic.instances.len();
            if tasks > TASKS_AT_ONCE && !views.is_empty() {
                break;
            }
            let view = state.epic_view(&epic.id, None, usize::MAX)?;
            let body = json!({ "amphi_epic": 1, "epic": view, "graph": GraphView::of(&epic.spec) }).to_string().into_bytes();
            let retiring = Retiring { epic: epic.id.clone(), ended_at, view: format!("{VIEW_PREFIX}{}", Record::hash(&body)) };
            views.push((retiring, body));
        }
        (!views.is_empty()).then_some(Chore::PutAway(views))
    }

    /// Archived history that is older than it has to be kept, up to where a snapshot lets what is left be read.
    fn over(&mut self, state: &State, now: Timestamp) -> Option<Chore> {
        let history = state.history();
        let since = Timestamp(now.0.saturating_sub(u64::try_from(self.limits.history.as_millis()).unwrap_or(u64::MAX)));
        let begins = |index: CommitIndex| history.snapshots.iter().any(|snapshot| snapshot.index == index);
        let old = history.segments.iter().take_while(|segment| segment.until < since);
        let from = old.filter(|segment| begins(segment.to)).last()?.to.next();
        let segments = history.segments.iter().filter(|segment| segment.to < from).map(|segment| &segment.object);
        let snapshots = history.snapshots.iter().filter(|snapshot| snapshot.index.next() < from).map(|snapshot| &snapshot.object);
        let views = history.retired.values().filter(|retired| retired.retired_in < from).map(|retired| &retired.view);
        self.discard = Some((from, segments.chain(snapshots).chain(views).cloned().collect()));
        Some(Chore::EndHistory { from })
    }
}

async fn perform(chore: Chore, journal: &dyn Journal, objects: &dyn ObjectStore, segment_bytes: usize) -> Result<Done, ChoreError> {
    match chore {
        Chore::Snapshot { state, hash } => take_snapshot(*state, hash, objects).await,
        Chore::Archive { from, to, sequence } => {
            let done = archive((from, to, sequence), journal, objects, segment_bytes).await?;
            failpoint::pass(Place::Archived);
            Ok(done)
        }
        Chore::Trim { index, sequence } => {
            journal.trim(sequence).await?;
            failpoint::pass(Place::Trimmed);
            metrics::counter!("amphi_journal_trims_total").increment(1);
            Ok(Done::Trimmed(index))
        }
        Chore::PutAway(views) => {
            let mut retiring = Vec::with_capacity(views.len());
            for (epic, body) in views {
                keep(objects, &epic.view, body.into()).await?;
                retiring.push(epic);
            }
            Ok(Done::Record(Upkeep::Retire(retiring)))
        }
        Chore::EndHistory { from } => Ok(Done::Record(Upkeep::HistoryOver { from })),
        Chore::Discard(names) => {
            for name in names {
                objects.delete(&name).await?;
            }
            Ok(Done::Discarded)
        }
    }
}

/// Stores an object and reads it back: only what the store gives again is put on record, and only what is on record replaces records.
async fn keep(objects: &dyn ObjectStore, name: &str, bytes: Bytes) -> Result<(), ChoreError> {
    objects.put(name, bytes.clone()).await?;
    // Never removed here, whatever it holds: another Manager may have put the same object on record meanwhile.
    let comes_back = objects.get(name).await?.is_some_and(|kept| kept == bytes);
    if comes_back { Ok(()) } else { Err(ChoreError::NotKept { name: name.to_owned() }) }
}

/// The snapshot is decoded again before anybody relies on it: what a later start could not use is never put on record.
async fn take_snapshot(state: State, hash: String, objects: &dyn ObjectStore) -> Result<Done, ChoreError> {
    let encoded = tokio::task::spawn_blocking(move || {
        let digest = state.digest();
        let bytes = snapshot::encode(&state, &hash, &digest);
        let object = format!("{SNAPSHOT_PREFIX}{}", Record::hash(&bytes));
        let loaded = snapshot::decode(&bytes).map_err(|error| ChoreError::Unfaithful(error.to_string()))?;
        if !loaded.is_exact {
            return Err(ChoreError::Unfaithful("its digest differs".to_owned()));
        }
        let snapshot = SnapshotRef { index: state.index, hash, object, bytes: bytes.len() as u64, digest };
        Ok((snapshot, Bytes::from(bytes)))
    });
    let (snapshot, bytes) = encoded.await??;
    keep(objects, &snapshot.object, bytes).await?;
    failpoint::pass(Place::SnapshotStored);
    tracing::info!(index = snapshot.index.0, bytes = snapshot.bytes, "a snapshot is stored");
    Ok(Done::Record(Upkeep::SnapshotTaken(snapshot)))
}

/// Stores the records `from` to at most `to`; the first of them stands at `sequence`.
async fn archive(
    (from, to, sequence): (CommitIndex, CommitIndex, u64),
    journal: &dyn Journal,
    objects: &dyn ObjectStore,
    segment_bytes: usize,
) -> Result<Done, ChoreError> {
    let misplaced =
        |found: CommitIndex| StoreError { what: format!("archiving record {from}: found {found}"), source: None, damaged: true };
    let mut content: Vec<u8> = Vec::new();
    let (mut next, mut until) = (from, Timestamp(0));
    let mut records = journal.read(sequence.saturating_sub(1));
    while let Some(stored) = records.next().await {
        let (_, bytes) = stored?;
        let record = Record::decode(&bytes)?;
        if record.index != next {
            return Err(misplaced(record.index).into());
        }
        content.extend_from_slice(&bytes);
        content.push(b'\n');
        (next, until) = (next.next(), record.now_ms);
        if next > to || content.len() >= segment_bytes {
            break;
        }
        tokio::task::yield_now().await;
    }
    if next == from {
        return Err(misplaced(CommitIndex(0)).into());
    }
    let object = format!("{SEGMENT_PREFIX}{}", Record::hash(&content));
    let to = CommitIndex(next.0 - 1);
    let segment = SegmentRef { from, to, until, object, bytes: content.len() as u64 };
    keep(objects, &segment.object, content.into()).await?;
    tracing::info!(from = segment.from.0, to = segment.to.0, bytes = segment.bytes, "a stretch of the journal is archived");
    Ok(Done::Record(Upkeep::SegmentArchived(segment)))
}
