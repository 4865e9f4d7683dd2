//! History: archived segments first, then the journal, as one sequence of records. A segment is the stored bytes of its records, one
//! line each (a record is JSON without line breaks), under a name that is its own hash: what was altered is noticed.
//!
//! Reads only; what is archived and when stands in [`super::upkeep`].

use std::ops::ControlFlow;

use amphi_coordination::State;
use amphi_ports::{Journal, ObjectStore, StoreError};
use amphi_protocol::ids::CommitIndex;
use amphi_protocol::journal::upkeep::SEGMENT_PREFIX;
use amphi_protocol::journal::{Decision, Record, SegmentRef};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::manager::boot::{BootError, decode};

/// Where the records of a shard are, at some moment.
#[derive(Debug, Clone, Default)]
pub struct Whereabouts {
    /// Archived stretches, oldest first, without gaps.
    pub segments: Vec<SegmentRef>,
    /// The first record that there is.
    pub first: CommitIndex,
    /// The last record.
    pub last: CommitIndex,
    /// Its sequence in the journal.
    pub sequence: u64,
}

impl Whereabouts {
    /// As a settled state says, whose last record stands at `sequence`.
    pub fn of(state: &State, sequence: u64) -> Self {
        let history = state.history();
        let first = history.from.max(CommitIndex(1));
        Self { segments: history.segments.clone(), first, last: state.index, sequence }
    }

    /// The sequence of a record in the journal; positions there are dense, so all are as far from their index as the last.
    fn sequence_of(&self, index: CommitIndex) -> u64 {
        (self.sequence + index.0).saturating_sub(self.last.0)
    }
}

/// Hands out the records `from` to `to`, in order and without gaps, with their stored bytes, until `each` has had enough.
///
/// # Errors
/// A record or segment is missing or damaged, the store cannot be read, or `each` refuses one.
pub async fn read_history(
    (journal, objects): (&dyn Journal, &dyn ObjectStore),
    at: &Whereabouts,
    (from, to): (CommitIndex, CommitIndex),
    mut each: impl FnMut(&[u8], &Record) -> Result<ControlFlow<()>, BootError> + Send,
) -> Result<(), BootError> {
    let mut next = from;
    for segment in at.segments.iter().filter(|segment| segment.to >= from && segment.from <= to) {
        let bytes = segment_bytes(objects, segment).await?;
        for (position, line) in (segment.from.0..).zip(bytes.split(|byte| *byte == b'\n')) {
            if line.is_empty() || position < next.0 || position > to.0 {
                continue;
            }
            let record = decode(position, line, objects).await?;
            if record.index != next {
                return Err(damaged(&segment.object, "its records are not those that it is said to hold"));
            }
            if each(line, &record)?.is_break() {
                return Ok(());
            }
            next = next.next();
            // A long replay shares the thread with heartbeats.
            tokio::task::yield_now().await;
        }
    }
    if next > to {
        return Ok(());
    }
    let mut records = journal.read(at.sequence_of(next).saturating_sub(1));
    while let Some(stored) = records.next().await {
        let (sequence, bytes) = stored?;
        if next > to {
            break;
        }
        let record = decode(sequence, &bytes, objects).await?;
        if record.index != next {
            return Err(BootError::OutOfPlace { expected: next, found: record.index });
        }
        if each(&bytes, &record)?.is_break() {
            return Ok(());
        }
        next = next.next();
        tokio::task::yield_now().await;
    }
    if next <= to { Err(BootError::OutOfPlace { expected: next, found: to }) } else { Ok(()) }
}

/// The archived stretches of a journal whose snapshots are lost. Each was put on record before its records were trimmed, so what is
/// left in the journal names the last one, whose own records and those after it name the one before, and so on.
///
/// # Errors
/// A stretch is missing: history does not reach back to the first record any more.
pub async fn find_segments(journal: &dyn Journal, objects: &dyn ObjectStore) -> Result<Vec<SegmentRef>, BootError> {
    let mut named: Vec<SegmentRef> = Vec::new();
    let mut begins = None;
    let mut records = journal.read(journal.first().await?.saturating_sub(1));
    while let Some(stored) = records.next().await {
        let (sequence, bytes) = stored?;
        let record = Record::decode(&bytes).map_err(|source| BootError::Record { sequence, source })?;
        begins.get_or_insert(record.index);
        named.extend(segments_in(&record));
    }
    let mut begins = begins.unwrap_or(CommitIndex(1));
    let mut found: Vec<SegmentRef> = Vec::new();
    while begins.0 > 1 {
        // A half-finished purge leaves the end of a stretch in the journal too.
        let covers = |segment: &&SegmentRef| segment.from < begins && begins <= segment.to.next();
        let segment = named.iter().find(covers).cloned().ok_or(BootError::HistoryCut { first: begins })?;
        if objects.get(&segment.object).await?.is_none() {
            // Removed as older than `limits.history`, while the record that names it is still there.
            return Err(BootError::HistoryCut { first: begins });
        }
        let bytes = segment_bytes(objects, &segment).await?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record = Record::decode(line).map_err(|source| BootError::Record { sequence: segment.from.0, source })?;
            named.extend(segments_in(&record));
        }
        begins = segment.from;
        found.push(segment);
    }
    found.reverse();
    Ok(found)
}

fn segments_in(record: &Record) -> impl Iterator<Item = SegmentRef> + '_ {
    record.decisions.iter().flatten().filter_map(|decision| match decision {
        Decision::SegmentArchived { segment } => Some(segment.clone()),
        _ => None,
    })
}

async fn segment_bytes(objects: &dyn ObjectStore, segment: &SegmentRef) -> Result<Bytes, BootError> {
    read_object(objects, SEGMENT_PREFIX, &segment.object).await
}

/// An object whose name is `prefix` and the hash of its content.
pub(super) async fn read_object(objects: &dyn ObjectStore, prefix: &str, name: &str) -> Result<Bytes, BootError> {
    let bytes = objects.get(name).await?.ok_or_else(|| damaged(name, "it is not in the object store"))?;
    let hashed = bytes.clone();
    let hash = tokio::task::spawn_blocking(move || Record::hash(&hashed)).await.map_err(|_| damaged(name, "it could not be checked"))?;
    if name.strip_prefix(prefix) == Some(hash.as_str()) { Ok(bytes) } else { Err(damaged(name, "its content is not what was stored")) }
}

fn damaged(name: &str, why: &str) -> BootError {
    BootError::Store(StoreError { what: format!("reading {name}: {why}"), source: None, damaged: true })
}
