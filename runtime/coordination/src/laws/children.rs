//! Epics that tasks have opened: both ends of each link agree, a run has one, and neither is open without the other. S4, S6, S13, L2.

use std::collections::BTreeSet;

use amphi_protocol::document::Work;
use amphi_protocol::journal::CancelCause;

use super::{Violation, hold};
use crate::epic::{Epic, EpicStatus, InstanceState};
use crate::state::State;

pub(super) fn check(state: &State) -> Result<(), Violation> {
    let mut openers = BTreeSet::new();
    for epic in state.epics.values() {
        let mut waiting = 0;
        for i in 0..epic.instances.len() as u32 {
            waiting += u32::from(check_instance(state, epic, i)?);
        }
        hold("kept", waiting == epic.nested_waiting, || {
            format!("{waiting} epics that {} opened wait for a person, and {} are kept", epic.id, epic.nested_waiting)
        })?;
        let Some(parent) = &epic.parent else { continue };
        hold("S13", openers.insert(parent), || format!("{parent:?} opened {} and another", epic.id))?;
        if epic.is_ended() {
            continue;
        }
        let instance = state.epics.get(&parent.epic).and_then(|around| around.instances.get(parent.i as usize));
        let awaited = instance.is_some_and(|instance| {
            let own = matches!(&instance.state, InstanceState::Nested(nested) if nested.child.as_ref() == Some(&epic.id));
            own && instance.run == parent.run
        });
        hold("L2", awaited, || format!("{} is open and {parent:?} does not wait for it", epic.id))?;
    }
    Ok(())
}

/// True if the instance has opened an epic that waits for a person.
fn check_instance(state: &State, epic: &Epic, i: u32) -> Result<bool, Violation> {
    let instance = &epic.instances[i as usize];
    let InstanceState::Nested(nested) = &instance.state else { return Ok(false) };
    let at = epic.attempt_ref(i);
    let is_epic = matches!(epic.spec.tasks[epic.task_of(i) as usize].work, Work::Epic(_));
    let child = nested.child.as_ref().and_then(|child| state.epics.get(child));
    let Some(child) = child.filter(|_| is_epic) else {
        return Err(Violation { law: "S4", words: format!("{at} has opened {:?}, which is not there", nested.child) });
    };
    let link = child.parent.as_ref().map(|parent| (&parent.epic, parent.i, parent.run));
    hold("S4", link == Some((&epic.id, i, instance.run)), || format!("{at} has opened {}, which belongs to {link:?}", child.id))?;
    hold("S6", !child.is_ended(), || format!("{at} goes on although {} has ended", child.id))?;
    let ending = child.status == EpicStatus::Cancelling || child.undoing.is_some();
    hold("L2", ending || (nested.cancelling.is_none() && !instance.undo), || format!("{at} is being ended and {} is not", child.id))?;
    let told = epic.status != EpicStatus::Cancelling || instance.undo || nested.cancelling == Some(CancelCause::Request);
    hold("L2", told, || format!("{} is being cancelled and {} goes on", epic.id, child.id))?;
    Ok(child.waiting)
}
