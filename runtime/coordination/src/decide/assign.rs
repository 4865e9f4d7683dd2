//! An operator says who has the next attempt of a task, and who cannot have it any more.

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{AgentId, EpicId};
use amphi_protocol::journal::Decision;

use crate::decide::inputs::conflict;
use crate::decide::{Deciding, Refusal};
use crate::epic::InstanceState;
use crate::fleet::Demand;
use crate::state::State;

/// Agents that a hint names.
const HINTED_MAX: usize = 3;

impl Deciding<'_> {
    pub(super) fn assign_task(&mut self, id: &EpicId, instances: &[u32], agent: &AgentId, by: &str) -> Result<(), Refusal> {
        let state = &*self.state;
        let epic = state.known(id)?;
        if epic.is_ended() {
            let hint = "`amphi epic retry` opens new runs of what did not end well";
            return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {id} has ended"), hint));
        }
        let (mut pending, mut runs) = (Vec::new(), None);
        for &i in instances {
            match epic.instances.get(i as usize).map(|instance| &instance.state) {
                Some(_) if epic.plan.child(&epic.spec, i).is_some() => {
                    let hint = "`amphi epic show` names the epic that it opened; assign the tasks of that";
                    let message = format!("{} is an epic itself; it needs no agent", epic.key(i));
                    return Err(Refusal::error(ErrorCode::StateConflict, message, hint));
                }
                Some(_) if !epic.spec_of(i).work.needs_agent() => {
                    return Err(conflict(format!("{} only waits; it needs no agent", epic.key(i))));
                }
                Some(InstanceState::Blocked | InstanceState::Ready { .. } | InstanceState::Backoff { .. }) => pending.push(i),
                Some(InstanceState::Open(_)) => runs = Some(i),
                Some(
                    InstanceState::Waiting { .. } | InstanceState::Nested(_) | InstanceState::Unknown { .. } | InstanceState::Ended(_),
                ) => {}
                None => return Err(Refusal::Error(ApiError::new(ErrorCode::TaskNotFound, format!("epic {id} has no such task")))),
            }
        }
        if let (true, Some(i)) = (pending.is_empty(), runs) {
            let key = epic.key(i);
            let hint = format!("`amphi task cancel {id}/{key}` ends it, `amphi task retry {id}/{key}` opens a new run");
            return Err(Refusal::error(ErrorCode::StateConflict, format!("{key} is with an agent already"), hint));
        }
        let Some(first) = pending.first() else {
            let hint = "`amphi task retry` opens a new run, which can be assigned";
            return Err(Refusal::error(ErrorCode::StateConflict, "the task has ended, or waits for a person", hint));
        };
        state.check_assignee(&Demand::of(epic.spec_of(*first)), agent)?;
        let is_new = |i: &u32| epic.instances[*i as usize].pin.as_ref().is_none_or(|pin| pin.agent != *agent);
        pending.retain(is_new);
        if pending.is_empty() {
            return Err(conflict(format!("the task waits for {agent} already")));
        }
        self.put(Decision::TaskPinned { epic: id.clone(), instances: pending, agent: agent.clone(), by: by.to_owned() });
        Ok(())
    }

    /// Nothing waits for ever for somebody who is gone.
    pub(super) fn drop_vain_pins(&mut self) {
        for (agent, cause) in self.state.vain_pins() {
            self.put(Decision::PinsDropped { agent, cause: cause.to_owned() });
        }
    }
}

impl State {
    fn check_assignee(&self, demand: &Demand, id: &AgentId) -> Result<(), Refusal> {
        let Some(agent) = self.fleet.agents.get(id) else {
            return Err(Refusal::error(ErrorCode::AgentNotFound, format!("there is no agent {id}"), self.able_text(demand)));
        };
        if !demand.accepts(&agent.role, &agent.skills) {
            let wanted = match (&demand.role, demand.skills.is_empty()) {
                (Some(role), _) if *role != agent.role => format!("role {role}, and {id} is {}", agent.role),
                _ => format!("skills that {id} lacks: {}", missing(demand, &agent.skills)),
            };
            return Err(Refusal::error(ErrorCode::StateConflict, format!("the task needs {wanted}"), self.able_text(demand)));
        }
        match self.unfit(id) {
            Some(why) => Err(Refusal::error(ErrorCode::StateConflict, format!("{id} cannot be given work: {why}"), self.able_text(demand))),
            None => Ok(()),
        }
    }

    fn able_text(&self, demand: &Demand) -> String {
        let able = self.fleet.agents.iter().filter(|(id, agent)| demand.accepts(&agent.role, &agent.skills) && self.unfit(id).is_none());
        let named: Vec<&str> = able.map(|(id, _)| id.as_str()).take(HINTED_MAX + 1).collect();
        match named.as_slice() {
            [] => "nobody has what the task needs; `amphi agent ls` lists all agents".to_owned(),
            [named @ .., _] if named.len() == HINTED_MAX => {
                format!("it can be assigned to {} and others (`amphi agent ls`)", named.join(", "))
            }
            named => format!("it can be assigned to {}", named.join(", ")),
        }
    }
}

fn missing(demand: &Demand, skills: &[String]) -> String {
    let missing: Vec<&str> = demand.skills.iter().filter(|skill| !skills.contains(skill)).map(String::as_str).collect();
    missing.join(", ")
}
