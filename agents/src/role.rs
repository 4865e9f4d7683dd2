//! A role as data. There is one kind of specialist; what tells a BuildMaster from a Rollback is what stands here.
//!
//! Never a place for behaviour: a role that needs its own tools registers them with an engine.

use amphi_protocol::ids::{AgentId, InvalidId, NodeId, RoleName};
use amphi_protocol::journal::AgentInfo;

/// What a role can do, and for what it is responsible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleProfile {
    /// Its name.
    pub role: RoleName,
    /// Its skills, sorted and without repetition.
    pub skills: Vec<String>,
    /// What it answers for, in words for people.
    pub responsibilities: Vec<String>,
}

impl RoleProfile {
    /// A profile with its skills in order.
    pub fn new(role: RoleName, mut skills: Vec<String>, responsibilities: Vec<String>) -> Self {
        skills.sort();
        skills.dedup();
        Self { role, skills, responsibilities }
    }

    /// The id of agent `n` (from 1) of this role on `node`: `node-1-BuildMaster-2`.
    pub fn agent_id(&self, node: &NodeId, n: u32) -> Result<AgentId, InvalidId> {
        AgentId::parse(&format!("{node}-{}-{n}", self.role))
    }

    /// What the Manager is told of agent `agent` of this role.
    pub fn info(&self, agent: AgentId) -> AgentInfo {
        AgentInfo { agent, role: self.role.clone(), skills: self.skills.clone() }
    }
}
