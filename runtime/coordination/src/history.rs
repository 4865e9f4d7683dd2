//! The journal's own keeping, as far as it is state: which snapshots there are, which stretches are archived, which epics were put
//! away. What the shell did is put on record here; nothing here does it, and nothing about an epic's work is ever decided by it.

use std::collections::BTreeMap;

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{CommitIndex, EpicId, ProjectId};
use amphi_protocol::journal::{Decision, EpicEnd, Retiring, SegmentRef, SnapshotRef, Upkeep};
use serde::{Deserialize, Serialize};

use crate::decide::{Deciding, Refusal};
use crate::epic::{Epic, EpicStatus};
use crate::state::State;

/// What is kept of the journal, and where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Records before this one are gone for good; 0 and 1: none.
    pub from: CommitIndex,
    /// The record of the newest snapshot.
    pub marker: Option<CommitIndex>,
    /// Oldest first. Recovery relies on the last two; the others are where a look back begins.
    pub snapshots: Vec<SnapshotRef>,
    /// Oldest first, without gaps.
    pub segments: Vec<SegmentRef>,
    /// The last archived record.
    pub archived_to: CommitIndex,
    /// Ended epics that left the memory.
    pub retired: BTreeMap<EpicId, Retired>,
}

/// What is remembered of an epic that was put away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its project.
    pub project: ProjectId,
    /// How it ended.
    pub end: EpicEnd,
    /// The record that accepted it.
    pub accepted_in: CommitIndex,
    /// The record that retired it; nothing about it comes later.
    pub retired_in: CommitIndex,
    /// Name of the object with its final view.
    pub view: String,
}

/// What whoever wants to change an epic hears that was put away: `state.conflict`.
pub fn put_away(id: &EpicId) -> ApiError {
    ApiError::new(ErrorCode::StateConflict, format!("epic {id} has ended and was put away"))
        .hint("it can still be looked at; to run it again, submit it under a new id")
}

impl History {
    /// The older of the two snapshots on which recovery relies.
    pub fn older(&self) -> Option<&SnapshotRef> {
        self.snapshots.len().checked_sub(2).map(|position| &self.snapshots[position])
    }

    /// The last record that may be trimmed from the journal: it is archived, and recovery does not need it.
    pub fn trimmable(&self) -> CommitIndex {
        self.older().map_or(CommitIndex(0), |older| older.index.min(self.archived_to))
    }

    /// The newest snapshot of a state before record `index`.
    pub fn before(&self, index: CommitIndex) -> Option<&SnapshotRef> {
        let later = self.snapshots.partition_point(|snapshot| snapshot.index < index);
        later.checked_sub(1).map(|position| &self.snapshots[position])
    }
}

impl Deciding<'_> {
    pub(crate) fn upkeep(&mut self, upkeep: &Upkeep) -> Result<(), Refusal> {
        match upkeep {
            Upkeep::SnapshotTaken(snapshot) => self.snapshot_taken(snapshot),
            Upkeep::SegmentArchived(segment) => self.segment_archived(segment),
            Upkeep::Retire(epics) => self.retire(epics),
            Upkeep::HistoryOver { from } => self.history_over(*from),
        }
    }

    fn snapshot_taken(&mut self, snapshot: &SnapshotRef) -> Result<(), Refusal> {
        let history = &self.state.history;
        let last = history.snapshots.last();
        if snapshot.index > self.state.index || last.is_some_and(|last| last.index >= snapshot.index) {
            return Err(Refusal::Stale("a newer snapshot is known"));
        }
        let older = last.cloned();
        self.put(Decision::SnapshotTaken { snapshot: snapshot.clone(), older });
        Ok(())
    }

    fn segment_archived(&mut self, segment: &SegmentRef) -> Result<(), Refusal> {
        let history = &self.state.history;
        let follows = segment.from == history.archived_to.next() && segment.to >= segment.from;
        let kept = history.older().is_some_and(|older| segment.to <= older.index);
        if !follows || !kept {
            return Err(Refusal::Stale("the stretch is archived already, or recovery may need it"));
        }
        self.put(Decision::SegmentArchived { segment: segment.clone() });
        Ok(())
    }

    fn retire(&mut self, epics: &[Retiring]) -> Result<(), Refusal> {
        for retiring in epics {
            let may = self.state.epics.get(&retiring.epic).is_some_and(|epic| {
                // Reopened meanwhile, it is not what was put away.
                epic.ended_at == Some(retiring.ended_at) && self.state.may_retire(epic)
            });
            if may {
                self.put(Decision::EpicRetired { epic: retiring.epic.clone(), view: retiring.view.clone() });
            }
        }
        if self.decisions.is_empty() { Err(Refusal::Stale("none of the epics can be put away")) } else { Ok(()) }
    }

    fn history_over(&mut self, from: CommitIndex) -> Result<(), Refusal> {
        let history = &self.state.history;
        let archived = history.segments.iter().any(|segment| segment.to.next() == from);
        let begins = history.snapshots.iter().any(|snapshot| snapshot.index.next() == from);
        if from <= history.from || !archived || !begins {
            return Err(Refusal::Stale("history cannot begin there"));
        }
        self.put(Decision::HistoryOver { from });
        Ok(())
    }
}

impl State {
    /// What is kept of the journal.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// True if nothing of a living epic, agent or question needs `epic` any more.
    pub fn may_retire(&self, epic: &Epic) -> bool {
        let asks = || self.incidents.values().any(|incident| incident.attempt.epic == epic.id && incident.resolved.is_none());
        // A run after a change and an undo count among the open ones; that is said again because what is put away never comes back.
        let works = epic.open_tasks > 0 || epic.active > 0 || epic.pending > 0 || epic.unknown > 0 || epic.undoing.is_some() || epic.paused;
        // The epic around it may have to undo it, and shows it.
        let is_part = epic.parent.as_ref().is_some_and(|parent| self.epics.contains_key(&parent.epic));
        epic.is_ended() && !works && !is_part && !asks()
    }

    pub(crate) fn snapshot_recorded(&mut self, snapshot: &SnapshotRef) {
        // The record under way is the next one.
        self.history.marker = Some(self.index.next());
        self.history.snapshots.push(snapshot.clone());
    }

    pub(crate) fn segment_recorded(&mut self, segment: &SegmentRef) {
        self.history.archived_to = segment.to;
        self.history.segments.push(segment.clone());
    }

    pub(crate) fn epic_retired(&mut self, id: &EpicId, view: &str) {
        let epic = self.epics.remove(id).expect("a decision names an accepted epic");
        let EpicStatus::Ended(end) = epic.status else { panic!("L2: {id} is put away and has not ended") };
        self.incidents.retain(|_, incident| incident.attempt.epic != *id);
        let retired = Retired {
            project: epic.spec.project.clone(),
            end,
            accepted_in: epic.accepted_in,
            retired_in: self.index.next(),
            view: view.to_owned(),
        };
        self.history.retired.insert(id.clone(), retired);
    }

    pub(crate) fn history_ends_before(&mut self, from: CommitIndex) {
        let history = &mut self.history;
        history.from = from;
        history.segments.retain(|segment| segment.to >= from);
        history.snapshots.retain(|snapshot| snapshot.index.next() >= from);
        history.retired.retain(|_, retired| retired.retired_in >= from);
        let (epics, retired) = (&self.epics, &history.retired);
        self.keys.retain(|_, (epic, _)| epics.contains_key(epic) || retired.contains_key(epic));
    }
}
