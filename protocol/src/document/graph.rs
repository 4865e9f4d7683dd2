//! The graph of a document while it is checked: cycles over needs and phases, and who comes before whom.
//!
//! A phase is one node between its tasks and those that wait for it, so the number of edges stays linear. Nothing here recurses.

use std::collections::BTreeMap;

/// Needs of one task that are searched one by one.
const DIRECT_MAX: usize = 64;

/// What the graph needs to know about a task.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    /// Explicit needs; `None` waits for the phase before.
    pub needs: Option<Vec<u32>>,
    /// Its phase.
    pub phase: Option<u32>,
}

/// Tasks first, then one node per phase ("all of it ended").
pub(super) struct Graph {
    tasks: usize,
    /// For each node, the nodes that it waits for.
    before: Vec<Vec<u32>>,
    /// All nodes of an acyclic graph, each after those that it waits for; shorter than `before` if there is a cycle.
    order: Vec<u32>,
}

impl Graph {
    /// Builds the graph; positions in `needs` and `phase` are in range.
    pub(super) fn new(links: &[Links], phases: usize) -> Self {
        let tasks = links.len();
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); tasks + phases];
        for (task, link) in links.iter().enumerate() {
            let phase = link.phase.unwrap_or(0) as usize;
            match &link.needs {
                Some(needs) => before[task].clone_from(needs),
                None if phases > 0 && phase > 0 => before[task].push((tasks + phase - 1) as u32),
                None => {}
            }
            if phases > 0 {
                before[tasks + phase].push(task as u32);
            }
        }
        let order = order(&before);
        Self { tasks, before, order }
    }

    /// How many edges the graph has.
    #[cfg(test)]
    pub(super) fn edges(&self) -> usize {
        self.before.iter().map(Vec::len).sum()
    }

    /// True if nothing waits for itself.
    pub(super) fn is_acyclic(&self) -> bool {
        self.order.len() == self.before.len()
    }

    /// Cycles, each as nodes of which every one waits for the next and the last for the first; at most `most`, none shares a node.
    pub(super) fn cycles(&self, most: usize) -> Vec<Vec<u32>> {
        let mut done = vec![false; self.before.len()];
        for node in &self.order {
            done[*node as usize] = true;
        }
        let mut walk_of = vec![0u32; self.before.len()];
        let mut cycles = Vec::new();
        for (walk, start) in (1u32..).zip(0..self.before.len()) {
            if cycles.len() >= most {
                break;
            }
            let mut at = start;
            let mut path: Vec<u32> = Vec::new();
            // A node that is left over waits for at least one other that is left over.
            while !done[at] && walk_of[at] == 0 {
                walk_of[at] = walk;
                path.push(at as u32);
                match self.before[at].iter().find(|next| !done[**next as usize]) {
                    Some(next) => at = *next as usize,
                    None => break,
                }
            }
            if !done[at]
                && walk_of[at] == walk
                && let Some(from) = path.iter().position(|node| *node as usize == at)
            {
                let mut cycle = path.split_off(from);
                let first = cycle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(index, _)| index);
                cycle.rotate_left(first);
                cycles.push(cycle);
            }
        }
        cycles
    }

    /// The phase of a node that is one.
    pub(super) fn phase_of(&self, node: u32) -> Option<usize> {
        (node as usize).checked_sub(self.tasks)
    }

    /// Which of `pairs` (a task and what should come before it) do not hold. The graph must be acyclic.
    ///
    /// Direct needs are seen at once; the rest is answered 64 sources at a time by one pass over the graph.
    pub(super) fn not_ancestors(&self, pairs: &[(u32, u32)]) -> Vec<bool> {
        let mut wrong = vec![false; pairs.len()];
        let mut by_source: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, (task, source)) in pairs.iter().enumerate() {
            let before = &self.before[*task as usize];
            if before.len() > DIRECT_MAX || !before.contains(source) {
                by_source.entry(*source).or_default().push(index);
            }
        }
        let sources: Vec<_> = by_source.into_iter().collect();
        let mut reached = vec![0u64; self.before.len()];
        for batch in sources.chunks(64) {
            reached.fill(0);
            for (bit, (source, _)) in batch.iter().enumerate() {
                reached[*source as usize] |= 1 << bit;
            }
            for node in &self.order {
                let own = reached[*node as usize];
                reached[*node as usize] = self.before[*node as usize].iter().fold(own, |mask, before| mask | reached[*before as usize]);
            }
            for (bit, (_, indices)) in batch.iter().enumerate() {
                for index in indices {
                    let (task, source) = pairs[*index];
                    wrong[*index] = task == source || reached[task as usize] & (1 << bit) == 0;
                }
            }
        }
        wrong
    }
}

/// Kahn's order.
fn order(before: &[Vec<u32>]) -> Vec<u32> {
    let mut open: Vec<u32> = before.iter().map(|nodes| nodes.len() as u32).collect();
    let mut after: Vec<Vec<u32>> = vec![Vec::new(); before.len()];
    for (node, nodes) in before.iter().enumerate() {
        for earlier in nodes {
            after[*earlier as usize].push(node as u32);
        }
    }
    let mut order: Vec<u32> = (0..before.len() as u32).filter(|node| open[*node as usize] == 0).collect();
    let mut next = 0;
    while let Some(node) = order.get(next).copied() {
        next += 1;
        for later in &after[node as usize] {
            open[*later as usize] -= 1;
            if open[*later as usize] == 0 {
                order.push(*later);
            }
        }
    }
    order
}
