//! Which roles may use a task's tool. A role that names its tools may use these and no others; the node looks once more.

use crate::api::ErrorCode;
use crate::document::check::Check;
use crate::document::yaml::Place;
use crate::document::{Work, tool_skill};
use crate::ids::RoleName;

impl Check<'_> {
    /// Refuses a tool that nobody who could run the task may use. Where only some may, the task asks for one of them: `skills` gets the
    /// skill of the tool.
    pub(super) fn allowed(&mut self, place: Place, work: &Work, agent: Option<&RoleName>, skills: &mut Vec<String>) {
        let Work::Tool { tool, .. } = work else { return };
        let catalog = &self.options.catalog;
        if !catalog.tools.contains(tool) {
            return;
        }
        let may = |role: &RoleName| catalog.role_tools.get(role).is_none_or(|tools| tools.contains(tool));
        let could = |(role, known): &(&RoleName, &Vec<String>)| {
            agent.is_none_or(|agent| agent == *role) && skills.iter().all(|skill| known.contains(skill))
        };
        let candidates: Vec<&RoleName> = catalog.roles.iter().filter(could).map(|(role, _)| role).collect();
        if candidates.iter().all(|role| may(role)) {
            return;
        }
        if agent.is_none() && candidates.iter().any(|role| may(role)) {
            skills.push(tool_skill(tool));
            skills.sort();
            return;
        }
        let others: Vec<&str> = catalog.roles.keys().filter(|role| may(role)).map(RoleName::as_str).collect();
        let hint = match (&others[..], agent) {
            ([], Some(agent)) => format!("add it to `roles.{agent}.tools` in amphi.yaml"),
            ([], None) => "add it to the `tools` of a role in amphi.yaml".to_owned(),
            (others, _) => format!("{} may; or add it to the `tools` of the role in amphi.yaml", others.join(", ")),
        };
        let who = match agent {
            Some(agent) => format!("role `{agent}`"),
            None => format!("no role with {}", skills.join(", ")),
        };
        let may_not = if agent.is_some() { "may not use" } else { "may use" };
        self.unknown_name(place, ErrorCode::PolicyDenied, format!("{who} {may_not} the tool `{tool}`"), Some(hint));
    }
}
