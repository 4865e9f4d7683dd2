//! The record as a link: positions, epochs, hashes and clocks (S2, S3). It never looks at what a decision means.

use amphi_protocol::ids::{CommitIndex, Epoch, EventSeq, ShardId, Timestamp};
use amphi_protocol::journal::{Decision, Input, Record};

use crate::verdict::{Findings, Law};

/// The end of the chain as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Index of the first record.
    pub first: CommitIndex,
    /// Index of the last record.
    pub last: CommitIndex,
    /// Hash of the last record's bytes.
    pub hash: String,
    shard: ShardId,
    epoch: Epoch,
    now: Timestamp,
    seq: EventSeq,
    /// The newest record with a snapshot.
    marker: Option<CommitIndex>,
    /// The first record follows one that is not there any more.
    cut: bool,
}

impl Chain {
    /// The shard that the header names.
    pub fn expect_shard(&mut self, shard: ShardId) {
        self.shard = shard;
    }

    /// The journal begins with this record: what was before is over.
    pub fn begin_at(&mut self, first: CommitIndex) {
        self.last = CommitIndex(first.0.saturating_sub(1));
        self.cut = first.0 > 1;
    }

    /// True for a record of the header's shard.
    pub fn is_of_shard(&self, shard: ShardId) -> bool {
        self.shard == shard
    }

    /// Judges the next link and takes it.
    pub fn link(&mut self, record: &Record, hash: String, findings: &mut Findings) {
        if self.hash.is_empty() {
            self.first = record.index;
            if std::mem::take(&mut self.cut) {
                return self.take_first(record, hash, findings);
            }
        }
        let dense = self.last.0.checked_add(1) == Some(record.index.0);
        let forward = record.now_ms >= self.now && record.seq >= self.seq;
        let takes = |decision: &Decision| matches!(decision, Decision::SnapshotTaken { .. });
        if record.decisions.iter().flatten().any(takes) {
            self.marker = Some(record.index);
        }
        // A build that knows nothing of snapshots names none.
        let points = record.snapshot.is_none() || record.snapshot == self.marker;
        findings.check(Law::S3, &[], dense && forward && points && record.prev_hash == self.hash);
        findings.check(Law::S2, &[], self.epoch_is_right(record));
        self.last = record.index;
        self.hash = hash;
        self.epoch = self.epoch.max(record.epoch);
        self.now = record.now_ms;
        self.seq = record.seq;
    }

    /// The first record of a cut history: it has to be the one that was announced, and is believed otherwise.
    fn take_first(&mut self, record: &Record, hash: String, findings: &mut Findings) {
        findings.check(Law::S3, &[], self.last.next() == record.index && !record.prev_hash.is_empty());
        self.marker = record.snapshot;
        self.last = record.index;
        self.hash = hash;
        self.epoch = record.epoch;
        self.now = record.now_ms;
        self.seq = record.seq;
    }

    /// An epoch begins with its own `EpochStarted`, which stands nowhere else.
    fn epoch_is_right(&self, record: &Record) -> bool {
        let started = |decision: &Decision| matches!(decision, Decision::EpochStarted { .. });
        let count = record.decisions.iter().flatten().filter(|decision| started(decision)).count();
        if record.epoch == self.epoch {
            return count == 0;
        }
        let begins = match (record.inputs.first(), record.decisions.first().and_then(|list| list.first())) {
            (Some(Input::Lead { node: leader }), Some(Decision::EpochStarted { node, epoch })) => *epoch == record.epoch && node == leader,
            _ => false,
        };
        record.epoch > self.epoch && begins && count == 1
    }
}
