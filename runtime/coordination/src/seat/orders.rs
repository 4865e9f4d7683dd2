//! What nodes are told. Orders follow from committed decisions; what a node may have missed follows from the state, so a new
//! leader, or a second try, needs no memory of what was sent. Nodes recognise what they have already heard.

use std::collections::BTreeMap;

use amphi_protocol::document::{Reference, TaskSpec};
use amphi_protocol::ids::{AttemptRef, Timestamp};
use amphi_protocol::journal::{Artifact, Decision};
use amphi_protocol::node::{Assignment, INPUTS_MAX, Job, Order, value_text};
use serde_json::Value;

use crate::epic::{AttemptPhase, Epic};
use crate::seat::{Action, Seat};

impl Seat {
    /// The order that follows from a committed decision, if its attempt is still open.
    pub(super) fn order_of(&self, decision: &Decision) -> Option<Action> {
        match decision {
            Decision::Assigned { attempt, .. } => self.order(attempt, |epic| Order::Assign(assignment(epic, attempt))),
            Decision::Claimed { attempt } => self.order(attempt, |_| Order::Go { attempt: attempt.clone() }),
            Decision::AttemptCancelling { attempt, .. } => self.order(attempt, |_| Order::Cancel { attempt: attempt.clone() }),
            _ => None,
        }
    }

    fn order(&self, attempt: &AttemptRef, order: impl FnOnce(&Epic) -> Order) -> Option<Action> {
        let epic = self.state.epics.get(&attempt.epic)?;
        let open = epic.open(attempt.i).filter(|_| epic.attempt_ref(attempt.i) == *attempt)?;
        Some(Action::Order { node: open.node.clone(), incarnation: open.incarnation, order: order(epic) })
    }

    /// Orders that nodes may have missed of attempts assigned before `before`: assignments without a start, ends without a
    /// confirmation. Costs the open attempts. Call only while the seat leads and is settled.
    pub fn reminders(&self, before: Timestamp) -> Vec<Action> {
        let open = self.state.fleet.nodes.values().flat_map(|node| node.running.iter());
        let open = open.map(|attempt| (attempt, &self.state.epics[&attempt.epic]));
        let held = open.map(|(attempt, epic)| (attempt, epic.open(attempt.i).expect("a running attempt of a node is open")));
        held.filter(|(_, held)| held.assigned_at < before)
            .flat_map(|(attempt, held)| {
                let assign = held.phase != AttemptPhase::Started;
                let go = held.phase == AttemptPhase::Claimed;
                let cancel = held.cancelling.is_some();
                let orders = [
                    assign.then(|| self.order(attempt, |epic| Order::Assign(assignment(epic, attempt)))),
                    go.then(|| self.order(attempt, |_| Order::Go { attempt: attempt.clone() })),
                    cancel.then(|| self.order(attempt, |_| Order::Cancel { attempt: attempt.clone() })),
                ];
                orders.into_iter().flatten().flatten()
            })
            .collect()
    }
}

fn assignment(epic: &Epic, attempt: &AttemptRef) -> Assignment {
    let open = epic.open(attempt.i).expect("assignments are made for open attempts");
    let job = job(epic, attempt);
    Assignment {
        attempt: attempt.clone(),
        task: epic.key(attempt.i),
        agent: open.agent.clone(),
        token: open.token,
        needs_claim: epic.needs_claim(attempt.i),
        job_json: serde_json::to_string(&job).expect("a job has only string keys and finite numbers"),
    }
}

fn job(epic: &Epic, attempt: &AttemptRef) -> Job {
    let task = epic.spec_of(attempt.i);
    Job {
        work: task.work.clone(),
        workspace: epic.spec.workspace.clone(),
        workdir: task.workdir.clone(),
        env: task.env.clone(),
        values: values(epic, task, attempt.i),
        outputs: task.outputs.clone(),
        idempotency_key: epic.key_of_run(attempt.i),
        effects: epic.known_effects(attempt.i),
        inputs: inputs(epic, attempt.i),
        reference: task.reference.clone(),
    }
}

/// The artifacts of everything in `needs`, by instance; at most [`INPUTS_MAX`] and one more, which the node refuses.
fn inputs(epic: &Epic, i: u32) -> BTreeMap<String, Vec<Artifact>> {
    let needs = epic.plan.tasks[epic.task_of(i) as usize].needs.iter().map(|need| &epic.plan.tasks[*need as usize]);
    // An undo also gets what its own task left.
    let own = epic.instances[i as usize].undo.then_some(i);
    let needed = needs.flat_map(|planned| planned.first..planned.first + planned.count).chain(own);
    let kept = needed.filter_map(|i| Some((i, epic.instances[i as usize].record.as_ref()?)));
    let files = kept.flat_map(|(i, record)| record.artifacts.iter().map(move |artifact| (i, artifact))).take(INPUTS_MAX + 1);
    let mut inputs = BTreeMap::<String, Vec<Artifact>>::new();
    for (i, artifact) in files {
        inputs.entry(epic.key(i)).or_default().push(artifact.clone());
    }
    inputs
}

/// Values of all references but secrets. An output that its task did not set (it was skipped, or failed) is the empty text.
fn values(epic: &Epic, task: &TaskSpec, i: u32) -> BTreeMap<String, String> {
    let matrix = epic.plan.matrix_values(&epic.spec, i);
    let value = |reference: &Reference| match reference {
        Reference::Input(path) => Some(input(epic, path)),
        // Only an undo reads what its own task gave.
        Reference::Output { task: own, output } if *own == task.name => {
            let record = epic.instances[i as usize].record.as_ref();
            Some(record.and_then(|record| record.outputs.get(output)).map(value_text).unwrap_or_default())
        }
        Reference::Output { task, output } => Some(epic.output(task.as_str(), output).map(value_text).unwrap_or_default()),
        Reference::Matrix(axis) => matrix.iter().find(|(name, _)| name == axis).map(|(_, value)| (*value).to_owned()),
        Reference::Secret(_) => None,
    };
    task.references.iter().filter_map(|reference| Some((reference.to_string(), value(reference)?))).collect()
}

fn input(epic: &Epic, path: &[String]) -> String {
    let mut value = epic.spec.inputs.get(&path[0]);
    for part in &path[1..] {
        value = value.and_then(|value| value.get(part));
    }
    value.map(value_text).unwrap_or_default()
}

impl Epic {
    /// An output of a succeeded task without a matrix.
    fn output(&self, task: &str, output: &str) -> Option<&Value> {
        let position = self.spec.tasks.iter().position(|spec| spec.name.as_str() == task)?;
        let first = self.plan.tasks[position].first;
        self.instances[first as usize].record.as_ref()?.outputs.get(output)
    }
}
