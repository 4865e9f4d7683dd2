//! What the journal says about its own keeping: snapshots of the state, archived segments, epics that were put away, history that is
//! over. The objects are in the store before the record that names them, so a record never promises what is not there.

use serde::{Deserialize, Serialize};

use crate::ids::{CommitIndex, EpicId, Timestamp};

/// Something that the Manager's shell has done for the journal, to be put on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upkeep {
    /// The state of a commit is in the object store.
    SnapshotTaken(SnapshotRef),
    /// A stretch of the journal is in the object store, right after the one before.
    SegmentArchived(SegmentRef),
    /// Ended epics whose final views are in the object store leave the memory.
    Retire(Vec<Retiring>),
    /// What lies before this record is older than `limits.history`.
    HistoryOver {
        /// The first record that stays.
        from: CommitIndex,
    },
}

/// Most epics of one [`Upkeep::Retire`].
pub const RETIRING_MAX: usize = 256;

/// A snapshot in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The commit whose state it is.
    pub index: CommitIndex,
    /// Hash of that commit's record: what the next one continues.
    pub hash: String,
    /// Name of the object: `snapshot-` and the SHA-256 of its bytes, in hex.
    pub object: String,
    /// Its bytes.
    pub bytes: u64,
    /// The state's digest, in hex.
    pub digest: String,
}

/// A stretch of the journal in the object store: the records' bytes, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Its first record.
    pub from: CommitIndex,
    /// Its last record.
    pub to: CommitIndex,
    /// The time of its last record.
    pub until: Timestamp,
    /// Name of the object: `segment-` and the SHA-256 of its bytes, in hex.
    pub object: String,
    /// Its bytes.
    pub bytes: u64,
}

/// An ended epic that is to leave the memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// The epic.
    pub epic: EpicId,
    /// When it ended, as its view says: an epic that was reopened meanwhile stays.
    pub ended_at: Timestamp,
    /// Name of the object with its final view: `epic-` and the SHA-256 of its bytes, in hex.
    pub view: String,
}

/// Prefix of the names of snapshots.
pub const SNAPSHOT_PREFIX: &str = "snapshot-";
/// Prefix of the names of archived segments.
pub const SEGMENT_PREFIX: &str = "segment-";
/// Prefix of the names of final views.
pub const VIEW_PREFIX: &str = "epic-";
