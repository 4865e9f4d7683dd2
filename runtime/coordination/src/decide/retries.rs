//! New runs on a person's word: which ended instances get one, and what has to run again with them.

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::Decision;

use crate::decide::inputs::conflict;
use crate::decide::{Deciding, Refusal};
use crate::epic::{Epic, EpicStatus, InstanceEnd, InstanceState};

impl Deciding<'_> {
    pub(super) fn retry_task(&mut self, id: &EpicId, instances: &[u32], by: &str) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        may_reopen(epic)?;
        for &i in instances {
            match epic.instances.get(i as usize).map(|instance| &instance.state) {
                Some(InstanceState::Ended(InstanceEnd::Failed | InstanceEnd::Cancelled | InstanceEnd::CutOff | InstanceEnd::Undone)) => {}
                Some(InstanceState::Ended(InstanceEnd::Succeeded | InstanceEnd::Skipped)) => {
                    return Err(conflict(format!("{} has ended well; a retry is for failed and cancelled tasks", epic.key(i))));
                }
                Some(_) => return Err(conflict(format!("{} has not ended", epic.key(i)))),
                None => return Err(Refusal::Error(ApiError::new(ErrorCode::TaskNotFound, format!("epic {id} has no such task")))),
            }
        }
        let again = with_consequences(epic, instances);
        self.put(Decision::Reopened { epic: id.clone(), instances: again, by: by.to_owned() });
        Ok(())
    }
}

fn may_reopen(epic: &Epic) -> Result<(), Refusal> {
    if epic.undoing.is_some() {
        let hint = "retry it when it has ended; what was undone is run again then";
        return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {} is being undone", epic.id), hint));
    }
    if epic.status == EpicStatus::Cancelling {
        return Err(conflict(format!("epic {} is being cancelled", epic.id)));
    }
    Ok(())
}

/// The chosen instances, with what was cut off because something failed, what was undone, and what stood on that.
fn with_consequences(epic: &Epic, chosen: &[u32]) -> Vec<u32> {
    let mut again = chosen.to_vec();
    let mut undone = Vec::new();
    for (i, instance) in (0u32..).zip(&epic.instances) {
        match instance.state {
            InstanceState::Ended(InstanceEnd::CutOff) => again.push(i),
            InstanceState::Ended(InstanceEnd::Undone) => {
                again.push(i);
                undone.push(epic.task_of(i));
            }
            InstanceState::Ended(InstanceEnd::Succeeded | InstanceEnd::Failed | InstanceEnd::Cancelled | InstanceEnd::Skipped)
            | InstanceState::Blocked
            | InstanceState::Ready { .. }
            | InstanceState::Open(_)
            | InstanceState::Backoff { .. }
            | InstanceState::Unknown { .. } => {}
        }
    }
    for task in descendants(epic, &undone) {
        let planned = &epic.plan.tasks[task as usize];
        again.extend((planned.first..planned.first + planned.count).filter(|&i| epic.instances[i as usize].state.is_ended()));
    }
    again.sort_unstable();
    again.dedup();
    again
}

/// The tasks that come after any of `tasks`, over needs and phases.
fn descendants(epic: &Epic, tasks: &[u32]) -> Vec<u32> {
    let mut seen = vec![false; epic.plan.tasks.len()];
    let mut phases = vec![false; epic.plan.phase_waiters.len()];
    let (mut left, mut found) = (tasks.to_vec(), Vec::new());
    while let Some(task) = left.pop() {
        let planned = &epic.plan.tasks[task as usize];
        let behind_phase = planned.phase.filter(|phase| !std::mem::replace(&mut phases[*phase as usize], true));
        let waiters = behind_phase.map_or(&[][..], |phase| &epic.plan.phase_waiters[phase as usize]);
        for &after in planned.dependents.iter().chain(waiters) {
            if !std::mem::replace(&mut seen[after as usize], true) {
                found.push(after);
                left.push(after);
            }
        }
    }
    found
}
