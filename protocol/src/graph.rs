//! The graph of an epic as it is drawn: tasks with their phases and needs, a matrix as one task with its number of runs.
//!
//! It says nothing about states; [`crate::view::TaskView`] does.

use serde::{Deserialize, Serialize};

use crate::document::{EpicSpec, Plan};

/// The graph of one epic. Positions are those in `tasks` and `phases`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphView {
    /// The epic's name.
    pub name: String,
    /// The phases, in order.
    pub phases: Vec<String>,
    /// The tasks, in the order of the document.
    pub tasks: Vec<GraphTask>,
}

/// One task of the document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphTask {
    /// Its name.
    pub task: String,
    /// `run`, `tool` …
    pub kind: String,
    /// Its phase, if the epic has phases.
    pub phase: Option<u32>,
    /// Explicit needs.
    pub needs: Vec<u32>,
    /// The phase that it waits for as a whole.
    pub waits_for_phase: Option<u32>,
    /// How many runs it has; more than 1 for a matrix.
    pub runs: u32,
}

impl GraphView {
    /// The graph of a valid specification.
    pub fn of(spec: &EpicSpec) -> Self {
        let plan = Plan::expand(spec);
        let tasks = spec.tasks.iter().zip(plan.tasks).map(|(task, planned)| GraphTask {
            task: task.name.to_string(),
            kind: task.work.kind().to_owned(),
            phase: planned.phase,
            needs: planned.needs,
            waits_for_phase: planned.waits_for_phase,
            runs: planned.count,
        });
        Self { name: spec.name.to_string(), phases: spec.phases.iter().map(ToString::to_string).collect(), tasks: tasks.collect() }
    }

    /// The layer of each task: one more than the deepest of those that it waits for, 0 for the first. What waits for itself, as no
    /// valid epic does, and whatever position is out of range count as not there.
    pub fn layers(&self) -> Vec<u32> {
        let (tasks, phases) = (self.tasks.len(), self.phases.len());
        let phase_node = |phase: u32| tasks + phase as usize;
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); tasks + phases];
        let mut open = vec![0u32; tasks + phases];
        let mut edge = |from: usize, to: usize| {
            if from < tasks + phases && to < tasks + phases {
                after[from].push(to);
                open[to] += 1;
            }
        };
        for (position, task) in self.tasks.iter().enumerate() {
            task.needs.iter().for_each(|need| edge(*need as usize, position));
            task.waits_for_phase.into_iter().for_each(|phase| edge(phase_node(phase), position));
            task.phase.into_iter().for_each(|phase| edge(position, phase_node(phase)));
        }
        let mut layer = vec![0u32; tasks + phases];
        let mut ready: Vec<usize> = (0..tasks + phases).filter(|node| open[*node] == 0).collect();
        while let Some(node) = ready.pop() {
            // A phase is a line between layers, not a layer.
            let below = layer[node] + u32::from(node < tasks);
            for next in std::mem::take(&mut after[node]) {
                layer[next] = layer[next].max(below);
                open[next] -= 1;
                if open[next] == 0 {
                    ready.push(next);
                }
            }
        }
        layer.truncate(tasks);
        layer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{CompileOptions, compile};

    #[test]
    fn layers_follow_needs_and_phases() {
        let text = "version: 1\nname: e\nphases: [build, test]\ntasks:\n  a: { phase: build, run: 'true' }\n  \
                    b: { phase: build, needs: [a], run: 'true', matrix: { i: 1..4 } }\n  c: { phase: test, run: 'true' }\n  \
                    d: { phase: test, needs: [], run: 'true' }\n  e: { phase: test, needs: [c, d], run: 'true' }\n";
        let compiled = compile(text, &CompileOptions::default());
        let graph = GraphView::of(&compiled.spec.expect("a valid epic"));
        assert_eq!(graph.layers(), [0, 1, 2, 0, 3]);
        assert_eq!((graph.tasks[1].runs, graph.tasks[2].waits_for_phase, graph.tasks[3].waits_for_phase), (4, Some(0), None));
        let json = serde_json::to_string(&graph).expect("JSON");
        assert_eq!(serde_json::from_str::<GraphView>(&json).expect("a graph"), graph);
    }

    #[test]
    fn what_is_no_graph_still_has_layers() {
        let task = |needs: &[u32]| GraphTask { needs: needs.to_vec(), waits_for_phase: Some(9), phase: Some(9), ..GraphTask::default() };
        let graph = GraphView { tasks: vec![task(&[1]), task(&[0]), task(&[77])], ..GraphView::default() };
        assert_eq!(graph.layers().len(), 3);
    }
}
