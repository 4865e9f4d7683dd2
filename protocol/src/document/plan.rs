//! The expanded graph of an epic: task instances (one per matrix combination) and the edges between tasks.
//!
//! Work is linear in tasks, needs and instances. Waiting for a whole phase is a barrier per phase, never an edge per pair.

use std::sync::Arc;

use crate::document::{EpicSpec, LockMode, MatrixAxis, TaskSpec, WaitFor, Work};
use crate::ids::Resource;

/// The graph of one epic. Positions in `tasks` are those of [`EpicSpec::tasks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One per task.
    pub tasks: Vec<PlannedTask>,
    /// All instances, those of one task side by side.
    pub instances: Vec<PlannedInstance>,
    /// For each phase, the tasks that wait for all of it.
    pub phase_waiters: Vec<Vec<u32>>,
    /// For each phase, how many tasks belong to it.
    pub phase_sizes: Vec<u32>,
}

/// A task in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTask {
    /// Its first instance.
    pub first: u32,
    /// How many instances it has, at least 1.
    pub count: u32,
    /// Its phase, if the epic has phases.
    pub phase: Option<u32>,
    /// Explicit needs.
    pub needs: Vec<u32>,
    /// The phase that it waits for as a whole.
    pub waits_for_phase: Option<u32>,
    /// Tasks that name it in their needs.
    pub dependents: Vec<u32>,
}

/// One instance of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedInstance {
    /// Its task.
    pub task: u32,
    /// Position among the combinations of the full matrix, before `exclude`; 0 without a matrix.
    pub combination: u32,
}

impl Plan {
    /// Expands `spec`. It must be valid: acyclic, all positions in range, each matrix non-empty.
    pub fn expand(spec: &EpicSpec) -> Self {
        let phase_count = spec.phases.len();
        let mut plan = Self {
            tasks: Vec::with_capacity(spec.tasks.len()),
            instances: Vec::with_capacity(spec.tasks.len()),
            phase_waiters: vec![Vec::new(); phase_count],
            phase_sizes: vec![0; phase_count],
        };
        for (position, task) in (0u32..).zip(&spec.tasks) {
            let first = plan.instances.len() as u32;
            let combinations = combination_count(task);
            for combination in 0..combinations {
                if !is_excluded(task, combination) {
                    plan.instances.push(PlannedInstance { task: position, combination });
                }
            }
            let phase = if phase_count == 0 { None } else { Some(task.phase.unwrap_or(0)) };
            let waits_for_phase = match (&task.needs, phase) {
                (None, Some(phase)) if phase > 0 => Some(phase - 1),
                _ => None,
            };
            if let Some(phase) = phase {
                plan.phase_sizes[phase as usize] += 1;
            }
            if let Some(before) = waits_for_phase {
                plan.phase_waiters[before as usize].push(position);
            }
            plan.tasks.push(PlannedTask {
                first,
                count: plan.instances.len() as u32 - first,
                phase,
                needs: task.needs.clone().unwrap_or_default(),
                waits_for_phase,
                dependents: Vec::new(),
            });
        }
        for position in 0..plan.tasks.len() {
            for need in std::mem::take(&mut plan.tasks[position].needs) {
                plan.tasks[need as usize].dependents.push(position as u32);
                plan.tasks[position].needs.push(need);
            }
        }
        plan
    }

    /// The instance's values, one per axis, in the order of the axes.
    pub fn matrix_values<'s>(&self, spec: &'s EpicSpec, instance: u32) -> Vec<(&'s str, &'s str)> {
        let planned = self.instances[instance as usize];
        matrix_values(&spec.tasks[planned.task as usize].matrix, planned.combination)
    }

    /// `t`, or `t[i]`, `t[a,b]` for an instance of a matrix.
    pub fn key(&self, spec: &EpicSpec, instance: u32) -> String {
        let task = &spec.tasks[self.instances[instance as usize].task as usize];
        if task.matrix.is_empty() {
            return task.name.to_string();
        }
        let values: Vec<&str> = self.matrix_values(spec, instance).into_iter().map(|(_, value)| value).collect();
        format!("{}[{}]", task.name, values.join(","))
    }

    /// The instance as one subject token: `t`, or `t-1`, `t-2` … in the order of the instances.
    pub fn subject_token(&self, spec: &EpicSpec, instance: u32) -> String {
        let planned = self.instances[instance as usize];
        let task = &spec.tasks[planned.task as usize];
        if task.matrix.is_empty() {
            return task.name.to_string();
        }
        format!("{}-{}", task.name, instance - self.tasks[planned.task as usize].first + 1)
    }

    /// The instance that users call `key`, as [`Plan::key`] writes it.
    pub fn find(&self, spec: &EpicSpec, key: &str) -> Option<u32> {
        let name = key.split('[').next()?;
        let position = spec.tasks.iter().position(|task| task.name.as_str() == name)?;
        let task = &self.tasks[position];
        (task.first..task.first + task.count).find(|&instance| self.key(spec, instance) == key)
    }

    /// The subject that an instance waits for, with its place in the matrix put in.
    pub fn awaited(&self, spec: &EpicSpec, instance: u32) -> Option<String> {
        match &spec.tasks[self.instances[instance as usize].task as usize].work {
            Work::Wait(WaitFor::Event { subject }) => Some(resolve_matrix(subject, &self.matrix_values(spec, instance))),
            Work::Wait(WaitFor::Duration { .. }) | Work::Run(_) | Work::Tool { .. } | Work::Epic(_) => None,
        }
    }

    /// What an instance of a task that is an epic itself opens.
    pub fn child<'s>(&self, spec: &'s EpicSpec, instance: u32) -> Option<&'s Arc<EpicSpec>> {
        let task = self.instances[instance as usize].task as usize;
        match &spec.tasks[task].work {
            Work::Epic(epic) => Some(epic.of(self.instances[instance as usize].combination)),
            Work::Run(_) | Work::Tool { .. } | Work::Wait(_) => None,
        }
    }

    /// The resources of an instance, sorted, each once; a resource that is both read and written is written.
    pub fn locks(&self, spec: &EpicSpec, instance: u32) -> Vec<(Resource, LockMode)> {
        let task = &spec.tasks[self.instances[instance as usize].task as usize];
        if task.locks.is_empty() {
            return Vec::new();
        }
        let values = self.matrix_values(spec, instance);
        let resolve =
            |text: &String| Resource::parse(&resolve_matrix(text, &values)).expect("locks are checked when the document is compiled");
        let mut locks = std::collections::BTreeMap::new();
        for text in &task.locks.read {
            locks.insert(resolve(text), LockMode::Read);
        }
        for text in &task.locks.write {
            locks.insert(resolve(text), LockMode::Write);
        }
        locks.into_iter().collect()
    }
}

/// How many combinations the full matrix of a task has; 1 without a matrix. Saturates.
pub fn combination_count(task: &TaskSpec) -> u32 {
    task.matrix.iter().fold(1u32, |product, axis| product.saturating_mul(axis.values.len() as u32))
}

/// How many instances a task has.
pub(super) fn included_count(task: &TaskSpec) -> u32 {
    let combinations = combination_count(task);
    if task.exclude.is_empty() {
        combinations
    } else {
        (0..combinations).filter(|combination| !is_excluded(task, *combination)).count() as u32
    }
}

pub(super) fn matrix_values(axes: &[MatrixAxis], combination: u32) -> Vec<(&str, &str)> {
    let mut rest = combination as usize;
    let mut values = Vec::with_capacity(axes.len());
    for axis in axes.iter().rev() {
        values.push((axis.axis.as_str(), axis.values[rest % axis.values.len()].as_str()));
        rest /= axis.values.len();
    }
    values.reverse();
    values
}

fn is_excluded(task: &TaskSpec, combination: u32) -> bool {
    if task.exclude.is_empty() {
        return false;
    }
    let values = matrix_values(&task.matrix, combination);
    task.exclude.iter().any(|out| out.iter().all(|(axis, value)| values.contains(&(axis.as_str(), value.as_str()))))
}

/// Puts matrix values in for `${{ matrix.x }}`; other references stay.
fn resolve_matrix(text: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        let Some(length) = rest[start..].find("}}") else { break };
        let inner = rest[start + 3..start + length].trim();
        let value = inner.strip_prefix("matrix.").and_then(|axis| values.iter().find(|(name, _)| *name == axis));
        out.push_str(&rest[..start]);
        match value {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}
