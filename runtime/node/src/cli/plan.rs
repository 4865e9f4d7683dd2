//! `epic plan`: what a document expands to. The same view answers `amphi.api.epic.plan`.

use std::collections::{BTreeMap, VecDeque};

use amphi_protocol::document::{EpicSpec, LockMode, Plan};
use serde_json::{Value, json};

use super::epic_file::{self, Document, FileArgs};
use super::failure::{Failure, exit};
use super::screen::{Cell, Paint, Screen, Style, items, table};

/// Edges that are listed; an epic with more of them says how many are left out.
const EDGES_MAX: usize = 100_000;

/// Shows the plan of a file.
pub fn plan(screen: Screen, args: &FileArgs) -> Result<u8, Failure> {
    plan_document(screen, &epic_file::read(&args.file)?, &args.inputs, args.strict)
}

/// Shows the plan of a document.
pub fn plan_document(screen: Screen, document: &Document, inputs: &[String], strict: bool) -> Result<u8, Failure> {
    let compiled = epic_file::check(document, inputs, strict, Some(super::catalog::local()?))?;
    epic_file::warn(screen, document, &compiled.warnings);
    let Some(spec) = compiled.spec else { return Err(epic_file::invalid(document, compiled.problems)) };
    let view = plan_view(&spec);
    screen.show(&view, |view, style| plan_text(&spec, view, style))?;
    Ok(exit::OK)
}

/// `{"tasks","runs","edges":[["a","b"]],"phases":[],"critical_path":[],"locks":{}}`
///
/// `tasks` and `runs` are counts; `edges` are needs, and for tasks that wait for a phase one edge from each of its tasks;
/// `critical_path` is the longest chain by number of tasks; `locks` names for each resource who reads and who writes it.
pub fn plan_view(spec: &EpicSpec) -> Value {
    let plan = Plan::expand(spec);
    let (edges, left_out) = edges(spec, &plan);
    let path: Vec<&str> = critical_path(&plan).into_iter().map(|task| spec.tasks[task].name.as_str()).collect();
    let mut view = json!({
        "tasks": spec.tasks.len(),
        "runs": plan.instances.len(),
        "edges": edges,
        "phases": spec.phases,
        "critical_path": path,
        "locks": locks(spec, &plan),
    });
    if left_out > 0 {
        view["edges_left_out"] = left_out.into();
    }
    view
}

fn edges<'s>(spec: &'s EpicSpec, plan: &Plan) -> (Vec<[&'s str; 2]>, usize) {
    let name = |task: u32| spec.tasks[task as usize].name.as_str();
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); spec.phases.len()];
    for (position, task) in (0u32..).zip(&plan.tasks) {
        if let Some(phase) = task.phase {
            members[phase as usize].push(position);
        }
    }
    let (mut edges, mut left_out) = (Vec::new(), 0);
    for (position, task) in (0u32..).zip(&plan.tasks) {
        let barrier = task.waits_for_phase.map_or(&[][..], |phase| members[phase as usize].as_slice());
        let before = task.needs.len() + barrier.len();
        if edges.len() + before > EDGES_MAX {
            left_out += before;
            continue;
        }
        edges.extend(task.needs.iter().chain(barrier).map(|need| [name(*need), name(position)]));
    }
    (edges, left_out)
}

/// Positions of the longest chain of tasks, first to last. Linear in tasks, needs and phases.
fn critical_path(plan: &Plan) -> Vec<usize> {
    let count = plan.tasks.len();
    // A phase is a node of its own behind its tasks, so that a barrier is one edge per task.
    let nodes = count + plan.phase_waiters.len();
    let mut open = vec![0u32; nodes];
    for (position, task) in plan.tasks.iter().enumerate() {
        open[position] = task.needs.len() as u32 + u32::from(task.waits_for_phase.is_some());
    }
    for (phase, size) in plan.phase_sizes.iter().enumerate() {
        open[count + phase] = *size;
    }
    let mut length = vec![0u32; nodes];
    let mut before: Vec<Option<usize>> = vec![None; nodes];
    let mut ready: VecDeque<usize> = (0..nodes).filter(|node| open[*node] == 0).collect();
    while let Some(node) = ready.pop_front() {
        let own = u32::from(node < count);
        let reached = length[node] + own;
        let mut visit = |next: usize| {
            if reached > length[next] {
                (length[next], before[next]) = (reached, Some(node));
            }
            open[next] -= 1;
            if open[next] == 0 {
                ready.push_back(next);
            }
        };
        match plan.tasks.get(node) {
            Some(task) => {
                task.dependents.iter().for_each(|next| visit(*next as usize));
                task.phase.into_iter().for_each(|phase| visit(count + phase as usize));
            }
            None => plan.phase_waiters[node - count].iter().for_each(|next| visit(*next as usize)),
        }
    }
    // Of equally long chains the one that ends first in the document.
    let mut last = (0..count).rev().max_by_key(|task| length[*task]);
    let mut path = Vec::new();
    while let Some(node) = last {
        if node < count {
            path.push(node);
        }
        last = before[node];
    }
    path.reverse();
    path
}

fn locks<'s>(spec: &'s EpicSpec, plan: &Plan) -> BTreeMap<String, BTreeMap<&'static str, Vec<&'s str>>> {
    let mut locks: BTreeMap<String, BTreeMap<&'static str, Vec<&str>>> = BTreeMap::new();
    for (position, instance) in (0u32..).zip(&plan.instances) {
        let task = spec.tasks[instance.task as usize].name.as_str();
        for (resource, mode) in plan.locks(spec, position) {
            let mode = match mode {
                LockMode::Read => "read",
                LockMode::Write => "write",
            };
            let tasks = locks.entry(resource.to_string()).or_default().entry(mode).or_default();
            if tasks.last() != Some(&task) {
                tasks.push(task);
            }
        }
    }
    locks
}

fn plan_text(spec: &EpicSpec, view: &Value, style: Style) -> String {
    let mut out = format!(
        "{}  {} tasks, {} runs{}\n\n",
        style.paint(Paint::Head, spec.name.as_str()),
        view["tasks"],
        view["runs"],
        if spec.phases.is_empty() { String::new() } else { format!(", {} phases", spec.phases.len()) }
    );
    let plan = Plan::expand(spec);
    let rows: Vec<Vec<Cell>> = spec
        .tasks
        .iter()
        .zip(&plan.tasks)
        .map(|(task, planned)| {
            let phase = |phase: u32| spec.phases[phase as usize].as_str();
            let mut waits: Vec<&str> = planned.needs.iter().map(|need| spec.tasks[*need as usize].name.as_str()).collect();
            let barrier = planned.waits_for_phase.map(|before| format!("phase {}", phase(before)));
            waits.extend(barrier.as_deref());
            let who = task.agent.as_ref().map_or_else(|| task.skills.join("+"), ToString::to_string);
            vec![
                Cell::new(planned.phase.map_or("-", phase)),
                Cell::new(if planned.count > 1 { format!("{} x{}", task.name, planned.count) } else { task.name.to_string() }),
                Cell::new(task.work.kind()),
                Cell::new(if who.is_empty() { "any" } else { &who }),
                Cell::new(if waits.is_empty() { "-".to_owned() } else { waits.join(", ") }),
            ]
        })
        .collect();
    out.push_str(&table(&["PHASE", "TASK", "KIND", "AGENT", "WAITS FOR"], &rows, style));
    let path: Vec<&str> = items(view, "critical_path").iter().filter_map(Value::as_str).collect();
    out.push_str(&format!("\ncritical path  {}\n", path.join(" → ")));
    for (resource, modes) in view["locks"].as_object().into_iter().flatten() {
        let names = |mode: &str| items(modes, mode).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
        let modes = ["read", "write"].into_iter().filter(|mode| !modes[*mode].is_null());
        let modes: Vec<String> = modes.map(|mode| format!("{mode} by {}", names(mode))).collect();
        out.push_str(&format!("lock  {resource}  {}\n", modes.join("; ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use amphi_protocol::document::{CompileOptions, compile};

    use super::*;

    fn view(tasks: &str) -> Value {
        let text = format!("version: 1\nname: e\n{tasks}");
        let compiled = compile(&text, &CompileOptions::default());
        plan_view(&compiled.spec.unwrap_or_else(|| panic!("{:?}", compiled.problems)))
    }

    #[test]
    fn a_plan_counts_orders_and_locks() {
        let view = view(
            "phases: [build, test]\ntasks:\n  a: { phase: build, run: 'true' }\n  b: { phase: build, run: 'true', matrix: { i: 1..4 }, \
             locks: { write: [db/x] } }\n  c: { phase: test, run: 'true' }\n  d: { phase: test, needs: [c], run: 'true', locks: { read: [db/x] } }\n",
        );
        assert_eq!(
            view,
            json!({"tasks": 4, "runs": 7, "edges": [["a", "c"], ["b", "c"], ["c", "d"]], "phases": ["build", "test"],
                "critical_path": ["a", "c", "d"], "locks": {"db/x": {"read": ["d"], "write": ["b"]}}})
        );
    }

    #[test]
    fn the_critical_path_is_the_longest_chain_also_without_phases() {
        let view = view(
            "tasks:\n  z: { needs: [y], run: 'true' }\n  x: { run: 'true' }\n  y: { needs: [x], run: 'true' }\n  w: { run: 'true' }\n",
        );
        assert_eq!(view["critical_path"], json!(["x", "y", "z"]));
    }
}
