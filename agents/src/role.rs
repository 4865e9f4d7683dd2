//! A role as data. There is one kind of specialist; what tells a BuildMaster from a Rollback is what stands here.
//!
//! Never a place for behaviour: a role that needs its own tools registers them with an engine.

use std::collections::BTreeSet;

use amphi_protocol::document::tool_skill;
use amphi_protocol::ids::{AgentId, InvalidId, NodeId, RoleName, ShardId};
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
    /// The tools that it may use; `None`: all that there are.
    pub tools: Option<BTreeSet<String>>,
    /// Skills that stand for tools, besides its own.
    tool_skills: Vec<String>,
}

impl RoleProfile {
    /// A profile with its skills in order.
    pub fn new(role: RoleName, mut skills: Vec<String>, responsibilities: Vec<String>) -> Self {
        skills.sort();
        skills.dedup();
        Self { role, skills, responsibilities, tools: None, tool_skills: Vec::new() }
    }

    /// The same with an allow-list of tools; an empty one allows all of `known`.
    #[must_use]
    pub fn with_tools(mut self, allowed: &[String], known: &BTreeSet<String>) -> Self {
        self.tools = (!allowed.is_empty()).then(|| allowed.iter().cloned().collect());
        self.tool_skills = self.tools.as_ref().unwrap_or(known).iter().map(|tool| tool_skill(tool)).collect();
        self
    }

    /// True if agents of this role may use `tool`.
    pub fn allows(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.contains(tool))
    }

    /// The id of agent `n` (from 1) of this role on `node`: `node-1-BuildMaster-2`; of those that serve another shard than the first
    /// `node-1-s3-BuildMaster-2`.
    pub fn agent_id(&self, node: &NodeId, shard: ShardId, n: u32) -> Result<AgentId, InvalidId> {
        let shard = if shard.0 == 0 { String::new() } else { format!("s{shard}-") };
        AgentId::parse(&format!("{node}-{shard}{}-{n}", self.role))
    }

    /// What the Manager is told of agent `agent` of this role.
    pub fn info(&self, agent: AgentId) -> AgentInfo {
        let mut skills: Vec<String> = self.skills.iter().chain(&self.tool_skills).cloned().collect();
        skills.sort();
        AgentInfo { agent, role: self.role.clone(), skills }
    }
}
