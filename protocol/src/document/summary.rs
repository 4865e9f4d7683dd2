//! What `epic plan` shows of a specification: its size, its edges, its longest path, its locks. Bounded, whatever the epic.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::document::{EpicSpec, LockMode, Plan};

/// Most edges that are listed; barriers between phases are left out first.
pub const PLAN_EDGES_MAX: usize = 10_000;

/// The plan of an epic, as people and programs see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// How many tasks.
    pub tasks: usize,
    /// How many runs, all matrices expanded.
    pub runs: usize,
    /// `[a, b]`: `b` waits for `a`. Waiting for a phase is an edge from each of its tasks, as long as these are at most
    /// [`PLAN_EDGES_MAX`] in all.
    pub edges: Vec<(String, String)>,
    /// False if edges were left out.
    pub edges_complete: bool,
    /// The phases, in order.
    pub phases: Vec<String>,
    /// The longest chain of tasks, first to last. Every task counts the same: how long one takes is not known beforehand.
    pub critical_path: Vec<String>,
    /// For each resource the tasks that take it.
    pub locks: BTreeMap<String, PlanLock>,
}

/// Who takes a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLock {
    /// Tasks that read it.
    pub read: BTreeSet<String>,
    /// Tasks that write it.
    pub write: BTreeSet<String>,
}

/// The plan of a valid specification.
pub fn plan_summary(spec: &EpicSpec) -> PlanView {
    let plan = Plan::expand(spec);
    let (edges, edges_complete) = edges(spec, &plan);
    PlanView {
        tasks: spec.tasks.len(),
        runs: plan.instances.len(),
        edges,
        edges_complete,
        phases: spec.phases.iter().map(ToString::to_string).collect(),
        critical_path: critical_path(&plan).into_iter().map(|task| spec.tasks[task].name.to_string()).collect(),
        locks: locks(spec, &plan),
    }
}

fn edges(spec: &EpicSpec, plan: &Plan) -> (Vec<(String, String)>, bool) {
    let name = |task: usize| spec.tasks[task].name.to_string();
    let explicit: usize = plan.tasks.iter().map(|task| task.needs.len()).sum();
    let barriers: usize = plan.phase_waiters.iter().zip(&plan.phase_sizes).map(|(waiters, size)| waiters.len() * *size as usize).sum();
    let mut edges = Vec::new();
    for (position, task) in plan.tasks.iter().enumerate() {
        let room = PLAN_EDGES_MAX - edges.len();
        edges.extend(task.needs.iter().take(room).map(|need| (name(*need as usize), name(position))));
    }
    let complete = explicit + barriers <= PLAN_EDGES_MAX;
    if complete {
        let mut members = vec![Vec::new(); plan.phase_sizes.len()];
        for (position, task) in plan.tasks.iter().enumerate() {
            if let Some(phase) = task.phase {
                members[phase as usize].push(position);
            }
        }
        for (waiters, members) in plan.phase_waiters.iter().zip(&members) {
            for waiter in waiters {
                edges.extend(members.iter().map(|member| (name(*member), name(*waiter as usize))));
            }
        }
    }
    (edges, complete)
}

/// The longest chain, by positions. A phase stands between its tasks and those that wait for it, so the work is linear.
fn critical_path(plan: &Plan) -> Vec<usize> {
    let (tasks, phases) = (plan.tasks.len(), plan.phase_sizes.len());
    let mut open: Vec<u32> = plan.tasks.iter().map(|task| task.needs.len() as u32 + u32::from(task.waits_for_phase.is_some())).collect();
    open.extend(&plan.phase_sizes);
    // Length of the longest chain that ends here, and the node before.
    let mut length: Vec<(u32, Option<usize>)> = vec![(0, None); tasks + phases];
    let mut ready: Vec<usize> = (0..tasks + phases).filter(|node| open[*node] == 0).collect();
    while let Some(node) = ready.pop() {
        let after: Vec<usize> = match plan.tasks.get(node) {
            Some(task) => {
                length[node].0 += 1;
                let own_phase = task.phase.map(|phase| tasks + phase as usize);
                task.dependents.iter().map(|dependent| *dependent as usize).chain(own_phase).collect()
            }
            None => plan.phase_waiters[node - tasks].iter().map(|waiter| *waiter as usize).collect(),
        };
        for next in after {
            if length[node].0 > length[next].0 {
                length[next] = (length[node].0, Some(node));
            }
            open[next] -= 1;
            if open[next] == 0 {
                ready.push(next);
            }
        }
    }
    let mut at = (0..tasks).max_by_key(|task| (length[*task].0, std::cmp::Reverse(*task)));
    let mut path = Vec::new();
    while let Some(node) = at {
        if node < tasks {
            path.push(node);
        }
        at = length[node].1;
    }
    path.reverse();
    path
}

fn locks(spec: &EpicSpec, plan: &Plan) -> BTreeMap<String, PlanLock> {
    let mut locks: BTreeMap<String, PlanLock> = BTreeMap::new();
    for (instance, planned) in (0u32..).zip(&plan.instances) {
        let task = &spec.tasks[planned.task as usize];
        for (resource, mode) in plan.locks(spec, instance) {
            let lock = locks.entry(resource.to_string()).or_default();
            let takers = match mode {
                LockMode::Read => &mut lock.read,
                LockMode::Write => &mut lock.write,
            };
            if !takers.contains(task.name.as_str()) {
                takers.insert(task.name.to_string());
            }
        }
    }
    locks
}
