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

impl Deciding<'_> {
    /// New runs of whatever did not end well, or of `from` and all that comes after it.
    pub(super) fn retry_epic(&mut self, id: &EpicId, from: &[u32], by: &str) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        may_reopen(epic)?;
        if !epic.is_ended() && !epic.stopping {
            let hint = "`amphi task retry EPIC/TASK` is for a single task of an epic that runs";
            return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {id} runs, and no task of it has failed for good"), hint));
        }
        let chosen = if from.is_empty() { not_well(epic) } else { after(epic, from)? };
        let again = with_consequences(epic, &chosen);
        if again.is_empty() {
            let hint = "`amphi epic retry --from TASK` runs a task and all that comes after it again";
            return Err(Refusal::error(ErrorCode::StateConflict, format!("everything of epic {id} has ended well"), hint));
        }
        self.put(Decision::Reopened { epic: id.clone(), instances: again, by: by.to_owned() });
        Ok(())
    }

    /// Leaves instances out that have not started. One that has ended without success gets a new run, which is left out.
    pub(super) fn skip_instances(&mut self, id: &EpicId, instances: &[u32], by: &str) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        let refuse = |message: String, hint: &str| Err(Refusal::error(ErrorCode::StateConflict, message, hint));
        let (mut waiting, mut again) = (Vec::new(), Vec::new());
        for &i in instances {
            let Some(instance) = epic.instances.get(i as usize) else {
                return Err(Refusal::Error(ApiError::new(ErrorCode::TaskNotFound, format!("epic {id} has no such task"))));
            };
            match instance.state {
                _ if instance.undo && !instance.state.is_ended() => {
                    return refuse(format!("{} is being undone", epic.key(i)), "`amphi task cancel` ends an undo that hangs");
                }
                InstanceState::Blocked | InstanceState::Ready { .. } | InstanceState::Backoff { .. } | InstanceState::Waiting { .. } => {
                    waiting.push(i);
                }
                InstanceState::Open(_) | InstanceState::Nested(_) => {
                    return refuse(format!("{} runs", epic.key(i)), "`amphi task cancel` ends it; then it can be skipped");
                }
                InstanceState::Unknown { .. } => {
                    return refuse(format!("nobody knows how {} ended", epic.key(i)), "answer with `amphi incident resolve` first");
                }
                InstanceState::Ended(InstanceEnd::CutOff) => {
                    let message = format!("{} was cut off by what it needs", epic.key(i));
                    return refuse(message, "skip or retry what failed before it; then it runs by itself");
                }
                InstanceState::Ended(InstanceEnd::Failed | InstanceEnd::Cancelled | InstanceEnd::Undone) => again.push(i),
                InstanceState::Ended(InstanceEnd::Succeeded | InstanceEnd::Skipped) => {}
            }
        }
        if waiting.is_empty() && again.is_empty() {
            return refuse("the task has ended well".to_owned(), "only what has not started, or did not end well, can be skipped");
        }
        if !again.is_empty() {
            may_reopen(epic)?;
            let reopened = with_consequences(epic, &again);
            self.put(Decision::Reopened { epic: id.clone(), instances: reopened, by: by.to_owned() });
        }
        // What it needs may have cut the new run off already.
        let epic = &self.state.epics[id];
        waiting.extend(again.into_iter().filter(|&i| !epic.instances[i as usize].state.is_ended()));
        waiting.sort_unstable();
        waiting.dedup();
        if !waiting.is_empty() {
            self.put(Decision::InstancesSkipped { epic: id.clone(), instances: waiting, by: by.to_owned() });
        }
        Ok(())
    }
}

/// What failed or was cancelled; what was undone follows by itself.
fn not_well(epic: &Epic) -> Vec<u32> {
    let failed = |state: &InstanceState| matches!(state, InstanceState::Ended(InstanceEnd::Failed | InstanceEnd::Cancelled));
    (0u32..).zip(&epic.instances).filter(|(_, instance)| failed(&instance.state)).map(|(i, _)| i).collect()
}

/// The instances `from` and all instances of the tasks after theirs; all must have ended.
fn after(epic: &Epic, from: &[u32]) -> Result<Vec<u32>, Refusal> {
    if from.iter().any(|&i| i as usize >= epic.instances.len()) {
        return Err(Refusal::Error(ApiError::new(ErrorCode::TaskNotFound, format!("epic {} has no such task", epic.id))));
    }
    let tasks: Vec<u32> = from.iter().map(|&i| epic.task_of(i)).collect();
    let mut chosen = from.to_vec();
    for task in descendants(epic, &tasks) {
        let planned = &epic.plan.tasks[task as usize];
        chosen.extend(planned.first..planned.first + planned.count);
    }
    match chosen.iter().find(|i| !epic.instances[**i as usize].state.is_ended()) {
        Some(&open) => {
            let hint = "wait for it, or end it with `amphi task cancel`";
            Err(Refusal::error(ErrorCode::StateConflict, format!("{} has not ended", epic.key(open)), hint))
        }
        None => Ok(chosen),
    }
}

fn may_reopen(epic: &Epic) -> Result<(), Refusal> {
    if epic.undoing.is_some() {
        let hint = "retry it when it has ended; what was undone is run again then";
        return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {} is being undone", epic.id), hint));
    }
    if let (Some(parent), true) = (&epic.parent, epic.is_ended()) {
        let message = format!("epic {} is the work of {}/{}, which has taken its end", epic.id, parent.epic, parent.task);
        let hint = format!("retry that task: `amphi task retry {}/{}` opens a new one", parent.epic, parent.task);
        return Err(Refusal::error(ErrorCode::StateConflict, message, hint));
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
            | InstanceState::Waiting { .. }
            | InstanceState::Nested(_)
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
