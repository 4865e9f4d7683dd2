//! `undo`: what takes a task back. It becomes a task specification of its own that inherits from the task whatever it does not say.
//!
//! It inherits the demand (`agent`, `skills`), the locks, the priority, `env`, `workdir` and `stuck_after`; `timeout` and `retry` are
//! about the task's own work, so without a word of its own an undo has those of the epic's `defaults`.

use std::collections::{BTreeSet, HashMap};

use crate::document::check::{Check, References};
use crate::document::report::shown;
use crate::document::tasks::Fields;
use crate::document::yaml::{Entry, Node, Place};
use crate::document::{Condition, Reference, TOOL_SKILL_PREFIX, TaskSpec, keys, read};

/// Kinds that an undo can have.
const UNDO_KINDS: [&str; 2] = ["run", "tool"];

impl<'d> Check<'d> {
    /// Reads the `undo` of `task`. Gives the specification and the outputs that only the undo reads.
    pub(super) fn undo(&mut self, node: &'d Node, fields: &Fields<'d, '_>, task: &TaskSpec) -> (Option<TaskSpec>, Vec<(Reference, Place)>) {
        let Some(listed) = read::fields(&mut self.report, node, "undo", &[keys::KINDS, keys::UNDO]) else { return (None, Vec::new()) };
        let before = self.report.count();
        let what = format!("the undo of `{}`", shown(task.name.as_str()));
        let mut refs = References::of(&task.matrix);
        let later = |entry: &&Entry| keys::KINDS.contains(&entry.key.as_str()) && !UNDO_KINDS.contains(&entry.key.as_str());
        if let Some(kind) = listed.iter().copied().find(later) {
            self.unsupported(kind.place, &format!("an `undo` of kind `{}`", kind.key), "an `undo` is a `run` or a `tool`");
            return (None, Vec::new());
        }
        let work = self.work(node.place, &what, &listed, &mut refs);
        let none = HashMap::new();
        let own = Fields { own: listed.iter().map(|entry| (entry.key.as_str(), *entry)).collect(), defaults: &none };
        let mut env = task.env.clone();
        env.extend(self.env(&own, &mut refs));
        let staffed = own.own("agent").is_some() || own.own("skills").is_some();
        let (agent, mut skills) = if staffed { self.staff(&own) } else { (task.agent.clone(), task.skills.clone()) };
        // The task's own tool is no matter of the undo, the undo's is.
        skills.retain(|skill| !skill.starts_with(TOOL_SKILL_PREFIX));
        self.allowed(own.own("tool").map_or(node.place, |tool| tool.place), &work, agent.as_ref(), &mut skills);
        let or_default = |key: &str| own.own(key).or_else(|| fields.defaults.get(key).map(|entry| &entry.value));
        let retry = or_default("retry").and_then(|node| self.retry(node)).unwrap_or_default();
        let timeout_ms = or_default("timeout").and_then(|node| read::duration(&mut self.report, node, "timeout", 1));
        let stuck_after = own.own("stuck_after").and_then(|node| read::duration(&mut self.report, node, "stuck_after", 1));
        let workdir = own.own("workdir").and_then(|node| self.workdir(node)).or_else(|| task.workdir.clone());
        // The inherited environment is substituted again for the undo.
        let inherited = task.references.iter().filter(|reference| self.is_in(reference, &task.env)).cloned();
        let references: BTreeSet<Reference> = refs.all.into_iter().chain(inherited).collect();
        let spec = TaskSpec {
            name: task.name.clone(),
            phase: None,
            needs: None,
            work,
            agent,
            skills,
            matrix: Vec::new(),
            exclude: Vec::new(),
            max_parallel: None,
            fail_fast: false,
            condition: Condition::default(),
            locks: task.locks.clone(),
            retry,
            timeout_ms,
            stuck_after_ms: stuck_after.unwrap_or(task.stuck_after_ms),
            optional: false,
            outputs: Default::default(),
            env,
            workdir,
            tags: task.tags.clone(),
            priority: task.priority,
            reference: None,
            references: references.into_iter().collect(),
            undo: None,
        };
        ((self.report.count() == before).then_some(spec), refs.outputs)
    }

    fn is_in(&self, reference: &Reference, env: &std::collections::BTreeMap<String, String>) -> bool {
        let named = |text: &String| crate::document::texts::parts(text).into_iter().any(|(_, part)| part.names(reference));
        env.values().any(named)
    }
}
