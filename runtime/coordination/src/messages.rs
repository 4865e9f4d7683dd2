//! What the runtime says in the name of an agent after a commit: a task is done, has failed, or goes on. The listeners are the roles of
//! the tasks that wait for it.
//!
//! Messages follow from committed decisions and change nothing: no decision is made here, and no state is kept that a replay would
//! need. The same decision gives the same message id, so what is sent twice after a change of leaders is recognised.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::ids::{EpicId, RoleName, Timestamp};
use amphi_protocol::journal::Decision;
use amphi_protocol::message::{About, AgentMessage, Letter, MESSAGE_BYTES_MAX, MessageType, Recipient, tracker_id};
use serde_json::{Map, Value, json};

use crate::epic::{Epic, TaskEnd};
use crate::state::State;

/// Of one task's progress at most one message is sent in this time.
const STATUS_PERIOD_MS: u64 = 5000;
/// Epics whose listeners are remembered; beyond, they are worked out anew.
const EPICS_MAX: usize = 4096;

/// For each task of an epic, the roles of those that wait for it.
type Listeners = Vec<Vec<RoleName>>;

/// Derives messages; remembers nothing that cannot be derived again.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    listeners: BTreeMap<EpicId, Listeners>,
    /// When the progress of an instance was last told.
    told: BTreeMap<(EpicId, u32), Timestamp>,
}

impl Messages {
    /// What is to be said after the decisions of one commit; `state` is as of that commit.
    pub fn after(&mut self, state: &State, decisions: &[Decision]) -> Vec<Letter> {
        let mut letters = Vec::new();
        // A task whose instances ended in one commit is told once, of the last of them.
        let mut ended = BTreeMap::new();
        for decision in decisions {
            if let Decision::AttemptEnded { attempt, end, .. } = decision {
                self.told.remove(&(attempt.epic.clone(), attempt.i));
                ended.insert((attempt.epic.clone(), task_of(state, &attempt.epic, attempt.i)), (attempt.i, end.error.clone()));
            } else if let Decision::Progressed { attempt, percent, message } = decision {
                let key = (attempt.epic.clone(), attempt.i);
                let recent = self.told.get(&key).is_some_and(|at| state.now.since_ms(*at) < STATUS_PERIOD_MS);
                if recent || self.listeners(state, &attempt.epic, attempt.i).is_empty() {
                    continue;
                }
                self.told.insert(key, state.now);
                let says = json!({ "percent": percent, "message": message });
                let mark = format!("status.{}", state.index);
                self.tell(state, (&attempt.epic, attempt.i), (MessageType::StatusUpdate, &mark), says, &mut letters);
            } else if let Decision::EpicEnded { epic, .. } = decision {
                // Its tasks are told below, before the listeners are forgotten.
                ended.entry((epic.clone(), None)).or_insert((0, None));
            }
        }
        let over: BTreeSet<EpicId> = ended.keys().filter(|(_, task)| task.is_none()).map(|(epic, _)| epic.clone()).collect();
        for ((epic, task), (i, error)) in ended {
            if let Some(task) = task {
                self.task_ended(state, (&epic, task, i), error, &mut letters);
            }
        }
        self.listeners.retain(|epic, _| !over.contains(epic));
        letters
    }

    fn task_ended(&mut self, state: &State, (id, task, i): (&EpicId, u32, u32), error: Option<String>, letters: &mut Vec<Letter>) {
        if self.listeners(state, id, i).is_empty() {
            return;
        }
        let Some(epic) = state.epic(id) else { return };
        match epic.tasks[task as usize].end {
            Some(TaskEnd::Succeeded) => {
                self.tell(state, (id, i), (MessageType::TaskComplete, "complete"), outputs(epic, task, i), letters);
            }
            Some(TaskEnd::Failed) => {
                let says = json!({ "task": epic.key(i), "message": error.unwrap_or_else(|| "it failed".to_owned()) });
                self.tell(state, (id, i), (MessageType::Error, "error"), says, letters);
            }
            Some(TaskEnd::Cancelled | TaskEnd::Skipped) | None => {}
        }
    }

    fn tell(&mut self, state: &State, (id, i): (&EpicId, u32), (kind, mark): (MessageType, &str), says: Value, letters: &mut Vec<Letter>) {
        let Some(epic) = state.epic(id) else { return };
        let instance = &epic.instances[i as usize];
        let agent = instance.last_agent.as_ref().and_then(|agent| state.fleet.agents.get(agent));
        let Some(from) = agent.map(|agent| agent.role.clone()).or_else(|| epic.spec_of(i).agent.clone()) else { return };
        let about = About { epic: id.clone(), task: epic.key(i), run: instance.run, attempt: instance.attempt };
        let beads_task_id = epic.spec_of(i).reference.as_deref().map(|reference| tracker_id(reference).to_owned());
        for to in self.listeners(state, id, i) {
            let message = AgentMessage {
                from: from.clone(),
                to: Recipient::from(to.clone()),
                kind,
                payload: says.clone(),
                beads_task_id: beads_task_id.clone(),
            };
            let id = format!("{id}/{i}/{}/{}/{mark}/{to}", instance.run, instance.attempt);
            letters.push(Letter { id, about: Some(about.clone()), message });
        }
    }

    /// The roles that wait for the task of an instance, worked out once per epic.
    fn listeners(&mut self, state: &State, id: &EpicId, i: u32) -> &[RoleName] {
        let Some(epic) = state.epic(id) else { return &[] };
        if !self.listeners.contains_key(id) {
            if self.listeners.len() >= EPICS_MAX {
                self.listeners.clear();
            }
            self.listeners.insert(id.clone(), listeners_of(epic));
        }
        self.listeners[id].get(epic.task_of(i) as usize).map_or(&[], Vec::as_slice)
    }
}

fn task_of(state: &State, id: &EpicId, i: u32) -> Option<u32> {
    state.epic(id).map(|epic| epic.task_of(i))
}

/// What a task left, as the message's payload. A matrix says how many runs it had.
fn outputs(epic: &Epic, task: u32, i: u32) -> Value {
    let planned = &epic.plan.tasks[task as usize];
    if planned.count > 1 {
        return json!({ "status": "success", "runs": planned.count });
    }
    let kept = epic.instances[i as usize].record.as_ref().map(|record| &record.outputs);
    let payload: Map<String, Value> = kept.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    let payload = Value::Object(payload);
    let bytes = payload.to_string().len();
    // Room for the rest of the message.
    if bytes < MESSAGE_BYTES_MAX - 4096 { payload } else { json!({ "omitted_bytes": bytes }) }
}

/// Linear in the epic: a phase's listeners are the same for all its tasks.
fn listeners_of(epic: &Epic) -> Listeners {
    let mut listeners = vec![BTreeSet::new(); epic.plan.tasks.len()];
    let mut of_phase: BTreeMap<u32, BTreeSet<&RoleName>> = BTreeMap::new();
    for (planned, spec) in epic.plan.tasks.iter().zip(&epic.spec.tasks) {
        let Some(role) = &spec.agent else { continue };
        for need in &planned.needs {
            listeners[*need as usize].insert(role);
        }
        if let Some(phase) = planned.waits_for_phase {
            of_phase.entry(phase).or_default().insert(role);
        }
    }
    for (planned, listeners) in epic.plan.tasks.iter().zip(&mut listeners) {
        let waiting = planned.phase.and_then(|phase| of_phase.get(&phase));
        listeners.extend(waiting.into_iter().flatten());
    }
    listeners.into_iter().map(|roles| roles.into_iter().cloned().collect()).collect()
}
