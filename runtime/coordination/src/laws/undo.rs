//! Undo: only when it is wanted, alone, after everything else, the last first, and before the epic ends. S4, S6, L2.

use std::collections::BTreeSet;

use super::{Violation, hold};
use crate::epic::{Epic, InstanceEnd, InstanceState};

pub(super) fn check(epic: &Epic) -> Result<(), Violation> {
    let id = &epic.id;
    let (mut expected, mut under_way) = (BTreeSet::new(), Vec::new());
    for (i, instance) in (0u32..).zip(&epic.instances) {
        let ended_well = matches!(instance.state, InstanceState::Ended(InstanceEnd::Succeeded));
        let undone = matches!(instance.state, InstanceState::Ended(InstanceEnd::Undone));
        if ended_well && !instance.undo && epic.has_undo(i) {
            expected.insert(i);
        }
        if instance.undo && !instance.state.is_ended() {
            under_way.push(i);
        }
        hold("S5", !undone || instance.undo, || format!("{id} instance {i} is undone without an undo"))?;
        let blocked = matches!(instance.state, InstanceState::Blocked) || instance.state.is_ended() && !ended_well && !undone;
        hold("S5", !(instance.undo && (blocked || !epic.has_undo(i))), || {
            format!("{id} instance {i} is an undo and {:?}", instance.state)
        })?;
    }
    let kept: BTreeSet<u32> = epic.undo_order.iter().copied().collect();
    hold("kept", kept == expected && kept.len() == epic.undo_order.len(), || {
        format!("{id} can undo {:?}, and should be able to undo {expected:?}", epic.undo_order)
    })?;
    let ended_at = |i: &u32| epic.instances[*i as usize].record.as_ref().and_then(|record| record.ended_at);
    hold("S6", epic.undo_order.is_sorted_by_key(ended_at), || format!("{id} would undo {:?} out of order", epic.undo_order))?;
    hold("S4", under_way == epic.undoing.into_iter().collect::<Vec<_>>(), || {
        format!("{id} undoes {:?}, and says {:?}", under_way, epic.undoing)
    })?;
    if epic.undoing.is_some() {
        hold("S6", epic.undo_wanted, || format!("{id} undoes what nobody wants undone"))?;
        hold("S6", epic.open_tasks == 0, || format!("{id} undoes while {} tasks have not ended", epic.open_tasks))?;
    }
    let left = epic.is_ended() && epic.undo_wanted && !epic.undo_order.is_empty();
    hold("L2", !left, || format!("{id} has ended and {:?} is not undone", epic.undo_order))
}
