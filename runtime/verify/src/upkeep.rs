//! The journal about itself (S3): snapshots name records that there are, archived stretches follow each other and leave what recovery
//! needs, and only ended epics are put away.

use std::collections::VecDeque;

use amphi_protocol::ids::{CommitIndex, EpicId};
use amphi_protocol::journal::{SegmentRef, SnapshotRef};

use crate::checker::Checker;
use crate::verdict::Law;

/// Hashes of the last records, to compare with what a snapshot names. A snapshot is on record soon after the commit it is of.
const HASHES_KEPT: usize = 4096;

/// What is known of the keeping so far.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    hashes: VecDeque<(CommitIndex, String)>,
    /// The last two snapshots, older first.
    snapshots: VecDeque<CommitIndex>,
    archived_to: CommitIndex,
    from: CommitIndex,
}

impl Keeping {
    /// A record was read.
    pub fn read(&mut self, index: CommitIndex, hash: &str) {
        self.hashes.push_back((index, hash.to_owned()));
        if self.hashes.len() > HASHES_KEPT {
            self.hashes.pop_front();
        }
    }

    /// The snapshot is of a record before this one, with that record's hash, and newer than the last.
    fn take_snapshot(&mut self, at: CommitIndex, snapshot: &SnapshotRef, older: Option<&SnapshotRef>) -> bool {
        let named = self.hashes.iter().find(|(index, _)| *index == snapshot.index);
        let is_there = snapshot.index < at && named.is_none_or(|(_, hash)| *hash == snapshot.hash);
        let last = self.snapshots.back().copied();
        let newer = last.is_none_or(|last| last < snapshot.index) && last == older.map(|older| older.index);
        self.snapshots.push_back(snapshot.index);
        if self.snapshots.len() > 2 {
            self.snapshots.pop_front();
        }
        is_there && newer
    }

    /// The stretch follows the one before, and recovery begins after it.
    fn archive(&mut self, segment: &SegmentRef) -> bool {
        let follows = segment.from == self.archived_to.next() && segment.to >= segment.from;
        let spare = self.snapshots.len() == 2 && segment.to <= self.snapshots[0];
        self.archived_to = segment.to;
        follows && spare
    }

    /// Only what is archived can be over.
    fn end_before(&mut self, from: CommitIndex) -> bool {
        let right = from > self.from && from <= self.archived_to.next();
        self.from = from;
        right
    }
}

impl Checker {
    pub(crate) fn judge_snapshot(&mut self, snapshot: &SnapshotRef, older: Option<&SnapshotRef>) {
        let holds = self.keeping.take_snapshot(self.findings.at, snapshot, older);
        self.findings.check(Law::S3, &[], holds);
    }

    pub(crate) fn judge_segment(&mut self, segment: &SegmentRef) {
        let holds = self.keeping.archive(segment);
        self.findings.check(Law::S3, &[], holds);
    }

    pub(crate) fn judge_history_over(&mut self, from: CommitIndex) {
        let holds = self.keeping.end_before(from);
        self.findings.check(Law::S3, &[], holds);
    }

    /// L2: what is put away has ended, and nothing of it comes later (S5: an ended run stays ended).
    pub(crate) fn retire(&mut self, id: &EpicId) {
        self.with_epic(id, |checker, position| {
            let epic = &mut checker.epics[position];
            let ended = epic.ended.is_some() && !epic.has_unfinished();
            checker.findings.check(Law::L2, &[id], ended);
        });
    }
}
