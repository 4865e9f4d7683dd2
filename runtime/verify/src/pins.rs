//! Pins: who has the next attempt on an operator's word (S14), and that nobody waits for one who cannot come (L2).

use amphi_protocol::ids::AgentId;

use crate::checker::Checker;
use crate::cluster::InstanceKey;
use crate::model::Stage;
use crate::verdict::Law;

impl Checker {
    /// Only what has not started is pinned, to somebody who can do it.
    pub(crate) fn pin(&mut self, key: InstanceKey, agent: &AgentId) {
        let epic = &self.epics[key.0];
        let instance = &epic.instances[key.1 as usize];
        let unstarted = matches!(instance.stage, Stage::Idle | Stage::Backoff) || epic.unsure;
        let able = self.cluster.is_able(agent, epic.task_of(key.1));
        self.findings.check(Law::S14, &[&epic.id], unstarted && able);
        let run = instance.run;
        self.epics[key.0].instances[key.1 as usize].pin = Some((run, agent.clone()));
        self.pins.entry(agent.clone()).or_default().insert(key);
    }

    /// Anybody may have what was pinned to the agent.
    pub(crate) fn unpin(&mut self, agent: &AgentId) {
        for (position, i) in self.pins.remove(agent).unwrap_or_default() {
            let instance = &mut self.epics[position].instances[i as usize];
            if instance.pin.as_ref().is_some_and(|(_, pinned)| pinned == agent) {
                instance.pin = None;
            }
        }
    }

    /// With each commit the pins of agents that cannot come are gone.
    pub(crate) fn judge_pins(&mut self) {
        let mut in_vain = Vec::new();
        let (epics, cluster) = (&self.epics, &self.cluster);
        self.pins.retain(|agent, pinned| {
            pinned.retain(|(position, i)| epics[*position].instances[*i as usize].pinned_to() == Some(agent));
            if !cluster.may_come(agent) {
                in_vain.extend(pinned.iter().map(|(position, _)| *position));
            }
            !pinned.is_empty()
        });
        for position in in_vain {
            let epic = &self.epics[position];
            self.findings.check(Law::L2, &[&epic.id], epic.ended.is_some() || epic.unsure);
        }
    }
}
