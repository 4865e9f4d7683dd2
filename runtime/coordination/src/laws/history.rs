//! What is kept of the journal: no gap between its parts, nothing in two places, nothing needed that may be thrown away.

use amphi_protocol::ids::CommitIndex;

use super::{Violation, hold};
use crate::state::State;

/// Checks what the state says about the keeping of the journal.
pub(super) fn check(state: &State) -> Result<(), Violation> {
    let history = &state.history;
    let mut next = history.segments.first().map_or(history.archived_to.next(), |first| first.from);
    let begins = next == history.from.max(CommitIndex(1)) || history.segments.is_empty();
    hold("S3", begins, || format!("history begins at {} and its first segment at {next}", history.from))?;
    for segment in &history.segments {
        let follows = segment.from == next && segment.to >= segment.from;
        hold("S3", follows, || format!("the segment {} to {} stands where {next} begins", segment.from, segment.to))?;
        next = segment.to.next();
    }
    hold("S3", next == history.archived_to.next(), || format!("the archive ends before {next}, not at {}", history.archived_to))?;
    let grow = history.snapshots.is_sorted_by(|one, next| one.index < next.index);
    hold("S3", grow, || "snapshots are not in the order of their commits".to_owned())?;
    let newest = history.snapshots.last().map(|snapshot| snapshot.index);
    hold("S3", newest.is_none_or(|index| index <= state.index), || format!("{newest:?} is the snapshot of a commit to come"))?;
    let needed = history.snapshots.iter().rev().nth(1).map_or(CommitIndex(0), |older| older.index);
    hold("S3", history.archived_to <= needed, || format!("{} is archived and recovery needs what follows {needed}", history.archived_to))?;
    let marked = history.marker.is_some() || history.snapshots.is_empty();
    hold("kept", marked, || "there is a snapshot and no record of it".to_owned())?;
    for (epic, retired) in &history.retired {
        hold("S13", !state.epics.contains_key(epic), || format!("{epic} was put away and is still there"))?;
        let ordered = retired.accepted_in < retired.retired_in && retired.retired_in >= history.from;
        hold("S3", ordered, || format!("{epic} was accepted in {} and put away in {}", retired.accepted_in, retired.retired_in))?;
    }
    for (id, incident) in &state.incidents {
        let about = state.epics.contains_key(&incident.attempt.epic);
        hold("kept", about, || format!("{id} is about {}, which is not there", incident.attempt.epic))?;
    }
    Ok(())
}
