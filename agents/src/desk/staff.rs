//! Agents that come and leave while the node lives. Supervisors say who; the desk tells the leader, and lets nobody go who works.
//!
//! The leader decides between a leave and an assignment that cross each other: a leave is refused as long as the agent has an open
//! attempt, and after it was taken nothing is assigned to the agent any more.

use std::collections::BTreeMap;
use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::{AgentId, RoleName};
use amphi_protocol::journal::{AgentInfo, AgentLife, Input, StaffCause, StaffReport};

use super::agents::AgentSlot;
use super::traffic::Membership;
use super::{DeskMessage, DeskState};
use crate::link::Verdict;

/// A leave that was refused because of an attempt that has not arrived here is tried again after this time.
const LEAVE_AGAIN: Duration = Duration::from_millis(500);

/// An agent that is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) cause: StaffCause,
    /// It takes nothing new until it leaves. Otherwise it leaves only if it stays idle.
    pub(super) for_sure: bool,
}

impl DeskState {
    /// Agents have been started.
    pub(super) fn hire(&mut self, added: Vec<AgentInfo>, cause: StaffCause) {
        for info in &added {
            self.agents.entry(info.agent.clone()).or_insert_with(|| AgentSlot::new(info.clone()));
        }
        match self.membership {
            // The join tells of them.
            Membership::Staffing { .. } | Membership::Leaving => {}
            Membership::Joining | Membership::Joined { .. } => self.push_staff(added, Vec::new(), cause),
        }
    }

    /// An agent is to leave: at once if it is idle, else (only `for_sure`) when its attempt is over.
    pub(super) fn dismiss(&mut self, agent: &AgentId, leaving: Leaving) {
        let Some(slot) = self.agents.get_mut(agent) else { return };
        let asked_before = slot.leaving.replace(leaving).is_some();
        if self.drain.is_some() || asked_before {
            return;
        }
        if leaving.for_sure {
            self.report_leaver(agent, leaving.cause);
        }
        self.leave_if_idle(agent);
    }

    /// Its attempt is over, or time to try again has come.
    pub(super) fn leave_if_idle(&mut self, agent: &AgentId) {
        let Some(slot) = self.agents.get_mut(agent) else { return };
        let Some(leaving) = slot.leaving else { return };
        if slot.attempt().is_none() {
            self.push_staff(Vec::new(), vec![agent.clone()], leaving.cause);
        } else if !leaving.for_sure {
            slot.leaving = None;
        }
    }

    /// The leader's word on a leave.
    pub(super) fn leave_settled(&mut self, report: &StaffReport, verdict: &Verdict) {
        let busy = matches!(verdict, Verdict::Refused(code) if code == ErrorCode::StateConflict.as_str());
        for agent in &report.removed {
            if !busy {
                self.forget_agent(agent);
                continue;
            }
            let Some(slot) = self.agents.get_mut(agent) else { continue };
            match slot.leaving {
                // It works, or will in a moment.
                Some(Leaving { for_sure: true, .. }) if slot.attempt().is_none() => {
                    self.later(LEAVE_AGAIN, DeskMessage::LeaveDue { agent: agent.clone() });
                }
                Some(Leaving { for_sure: true, .. }) | None => {}
                Some(Leaving { for_sure: false, .. }) => slot.leaving = None,
            }
        }
    }

    /// A join tells of those that stay; whoever was to leave has nothing left to do.
    pub(super) fn staff_of_a_join(&mut self) -> Vec<AgentInfo> {
        let leavers: Vec<AgentId> = self.agents.iter().filter(|(_, slot)| slot.leaving.is_some()).map(|(id, _)| id.clone()).collect();
        leavers.iter().for_each(|agent| self.forget_agent(agent));
        self.agents.values().map(AgentSlot::info).collect()
    }

    fn forget_agent(&mut self, agent: &AgentId) {
        if self.agents.remove(agent).is_some() {
            (self.arguments.agent_left)(agent);
        }
    }

    fn report_leaver(&mut self, agent: &AgentId, cause: StaffCause) {
        if self.agents.get(agent).is_some_and(|slot| slot.life() == AgentLife::Up) {
            self.report_agent_as(agent, AgentLife::Down, &format!("it leaves: {}", cause.as_str()));
        }
    }

    fn push_staff(&self, added: Vec<AgentInfo>, removed: Vec<AgentId>, cause: StaffCause) {
        let (node, incarnation) = (self.arguments.node.clone(), self.arguments.incarnation);
        self.outbox.push(Input::Staff(StaffReport { node, incarnation, added, removed, cause }));
    }

    /// How many tasks wait for each role, as the leader said last.
    pub(super) fn heard_waiting(&mut self, waiting: BTreeMap<RoleName, u32>) {
        self.waiting = waiting;
    }
}
