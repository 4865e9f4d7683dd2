//! What a task's `if` says once its needs have ended. Decided once, by the leader; everybody else reads the record.

use std::collections::BTreeMap;

use amphi_protocol::document::Condition;
use amphi_protocol::expression::{Expression, TaskFacts, Values};
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::Decision;

use crate::decide::Deciding;
use crate::epic::{Epic, TaskEnd};

impl Deciding<'_> {
    /// Decides the condition of a task that is due, if it still is.
    pub(super) fn condition(&mut self, epic: EpicId, task: u32) {
        let known = &self.state.epics[&epic];
        let progress = &known.tasks[task as usize];
        // Something that it waits for may have been given a new run meanwhile; it is due again after that.
        if progress.end.is_some() || progress.released || progress.waits > 0 {
            return;
        }
        let (runs, error) = match &known.spec.tasks[task as usize].condition {
            Condition::Always => (true, None),
            Condition::Failure => (has_failure(known, task), None),
            Condition::Success => (progress.bad == 0, None),
            Condition::Expression { text, .. } => match evaluate(known, task, text) {
                Ok(runs) => (runs, None),
                Err(error) => (false, Some(error)),
            },
        };
        self.put(Decision::ConditionDecided { epic, task, runs, error });
    }
}

/// `failure()` looks at failed needs even where they are optional.
fn has_failure(epic: &Epic, task: u32) -> bool {
    let planned = &epic.plan.tasks[task as usize];
    let failed = |need: &u32| matches!(epic.tasks[*need as usize].end, Some(TaskEnd::Failed | TaskEnd::Cancelled));
    epic.tasks[task as usize].bad > 0
        || planned.needs.iter().any(failed)
        || planned.waits_for_phase.is_some_and(|phase| {
            let tasks = 0..epic.tasks.len() as u32;
            tasks.filter(|need| epic.plan.tasks[*need as usize].phase == Some(phase)).any(|need| failed(&need))
        })
}

fn evaluate(epic: &Epic, task: u32, text: &str) -> Result<bool, String> {
    let expression = Expression::parse(text)
        .map_err(|faults| faults.into_iter().next().map_or_else(|| "the condition cannot be read".to_owned(), |fault| fault.message))?;
    let mut tasks = BTreeMap::new();
    for name in expression.names().tasks() {
        if let Some(position) = epic.spec.tasks.iter().position(|spec| spec.name.as_str() == name) {
            tasks.insert(name.to_owned(), facts(epic, position));
        }
    }
    let success = epic.tasks[task as usize].bad == 0;
    expression.evaluate(&Values { inputs: &epic.spec.inputs, tasks, success, failure: has_failure(epic, task) })
}

fn facts(epic: &Epic, position: usize) -> TaskFacts<'_> {
    let state = match epic.tasks[position].end {
        Some(TaskEnd::Succeeded) => "succeeded",
        Some(TaskEnd::Failed) => "failed",
        Some(TaskEnd::Cancelled) => "cancelled",
        Some(TaskEnd::Skipped) => "skipped",
        None if epic.tasks[position].released => "running",
        None => "blocked",
    };
    let first = &epic.instances[epic.plan.tasks[position].first as usize];
    TaskFacts { state, outputs: first.record.as_ref().map(|record| &record.outputs) }
}
