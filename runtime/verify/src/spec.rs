//! Whether an accepted specification can be judged at all, whether its graph is acyclic (S18), and what its instances lock.

use amphi_protocol::document::{EpicSpec, LockMode, Plan, Workspace};
use amphi_protocol::ids::ProjectId;
use amphi_protocol::journal::LockName;
use amphi_protocol::overlap;

/// Most instances of one epic that are judged; ten times the interface's limit.
const INSTANCES_MAX: u64 = 1_000_000;

/// Why [`Plan::expand`] must not be called.
pub(crate) fn flaw(spec: &EpicSpec) -> Option<&'static str> {
    let mut instances = 0u64;
    let used: std::collections::BTreeSet<u32> = spec.tasks.iter().map(|task| task.phase.unwrap_or(0)).collect();
    if (0u32..).zip(&spec.phases).any(|(phase, _)| !used.contains(&phase)) {
        return Some("a phase is empty");
    }
    for task in &spec.tasks {
        if task.needs.iter().flatten().any(|&need| need as usize >= spec.tasks.len()) {
            return Some("a task needs one that does not exist");
        }
        if !spec.phases.is_empty() && task.phase.is_some_and(|phase| phase as usize >= spec.phases.len()) {
            return Some("a task belongs to a phase that does not exist");
        }
        if task.matrix.iter().any(|axis| axis.values.is_empty()) {
            return Some("a matrix has an empty axis");
        }
        instances += task.matrix.iter().fold(1u64, |product, axis| product.saturating_mul(axis.values.len() as u64)).min(INSTANCES_MAX + 1);
        if instances > INSTANCES_MAX {
            return Some("it has more instances than any limit allows");
        }
    }
    None
}

/// True if an order of the tasks exists in which each comes after what it waits for.
pub(crate) fn is_acyclic(plan: &Plan) -> bool {
    // Phases are nodes of their own behind the tasks, so that a barrier costs one edge per task.
    let tasks = plan.tasks.len();
    let mut waits: Vec<u32> = plan.tasks.iter().map(|task| task.needs.len() as u32 + u32::from(task.waits_for_phase.is_some())).collect();
    waits.extend(&plan.phase_sizes);
    let mut free: Vec<usize> = (0..waits.len()).filter(|&node| waits[node] == 0).collect();
    let mut done = 0;
    while let Some(node) = free.pop() {
        done += 1;
        let mut release = |after: usize| {
            waits[after] -= 1;
            if waits[after] == 0 {
                free.push(after);
            }
        };
        if node < tasks {
            plan.tasks[node].dependents.iter().for_each(|&after| release(after as usize));
            if let Some(phase) = plan.tasks[node].phase {
                release(tasks + phase as usize);
            }
        } else {
            plan.phase_waiters[node - tasks].iter().for_each(|&after| release(after as usize));
        }
    }
    done == waits.len()
}

/// What a lock is held on, with the space in which the name counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LockKey {
    project: ProjectId,
    folder: Option<String>,
    resource: String,
}

impl LockKey {
    /// What an owner outside named.
    pub fn named(name: &LockName) -> Self {
        let folder = name.folder.clone();
        Self { project: name.project.clone(), folder, resource: name.resource.as_str().to_owned() }
    }

    /// True if the name stands for all paths that it matches.
    pub fn is_glob(&self) -> bool {
        overlap::is_glob(&self.resource)
    }

    /// True if both are in one folder and share a name.
    pub fn meets(&self, other: &Self) -> bool {
        (&self.project, &self.folder) == (&other.project, &other.folder) && overlap::overlaps(&self.resource, &other.resource)
    }
}

/// What an instance locks, each resource once; one that is both read and written is written.
pub(crate) fn lock_set(spec: &EpicSpec, plan: &Plan, instance: u32) -> Vec<(LockKey, LockMode)> {
    let locks = &spec.tasks[plan.instances[instance as usize].task as usize].locks;
    if locks.is_empty() {
        return Vec::new();
    }
    let values = plan.matrix_values(spec, instance);
    let key = |text: &String| {
        let resource = fill(text, &values);
        // Said in other words than the core's, on purpose.
        let folder = match &spec.workspace {
            _ if !resource.starts_with("file/") => None,
            Workspace::Path(folder) => Some(folder.clone()),
            // The words under which `lock.list` shows it, and owners outside name it.
            Workspace::Git { url, reference } => Some(format!("git {url} {}", reference.as_deref().unwrap_or(""))),
            Workspace::None => None,
        };
        LockKey { project: spec.project.clone(), folder, resource }
    };
    let mut set = std::collections::BTreeMap::new();
    set.extend(locks.read.iter().map(|text| (key(text), LockMode::Read)));
    set.extend(locks.write.iter().map(|text| (key(text), LockMode::Write)));
    set.into_iter().collect()
}

/// Puts matrix values in for `${{ matrix.x }}`.
fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut parts = text.split("${{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let filled = part.split_once("}}").and_then(|(inner, rest)| {
            let axis = inner.trim().strip_prefix("matrix.")?;
            let (_, value) = values.iter().find(|(name, _)| *name == axis)?;
            Some((*value, rest))
        });
        match filled {
            Some((value, rest)) => out.extend([value, rest]),
            None => out.extend(["${{", part]),
        }
    }
    out
}
