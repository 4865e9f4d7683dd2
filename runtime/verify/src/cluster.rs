//! Nodes and agents as the journal tells them: who lives, who is busy, who may run what.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::document::TaskSpec;
use amphi_protocol::ids::{AgentId, Incarnation, NodeId, RoleName};
use amphi_protocol::journal::{AgentInfo, AgentLife, NodeInfo, Post};

/// An instance of an epic, by positions in the checker.
pub(crate) type InstanceKey = (usize, u32);

/// All living nodes and their agents.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    agents: BTreeMap<AgentId, Agent>,
    /// Where every agent belongs, also while its node is lost.
    homes: BTreeMap<AgentId, NodeId>,
    /// Agents that an operator keeps work from, over the lives of their nodes.
    held: BTreeSet<AgentId>,
}

#[derive(Debug)]
struct Node {
    incarnation: Incarnation,
    capacity: u32,
    running: BTreeSet<InstanceKey>,
    /// An operator keeps work from it, in this life.
    held: bool,
}

#[derive(Debug)]
struct Agent {
    node: NodeId,
    role: RoleName,
    skills: Vec<String>,
    life: AgentLife,
    busy: Option<InstanceKey>,
    /// It went down since it began that.
    orphaned: bool,
}

impl Agent {
    fn matches(&self, task: &TaskSpec) -> bool {
        task.agent.as_ref().is_none_or(|role| *role == self.role) && task.skills.iter().all(|skill| self.skills.contains(skill))
    }
}

impl Cluster {
    /// The present life of a node.
    pub fn life(&self, node: &NodeId) -> Option<Incarnation> {
        self.nodes.get(node).map(|node| node.incarnation)
    }

    /// The node to which an agent belongs.
    pub fn node_of(&self, agent: &AgentId) -> Option<&NodeId> {
        self.agents.get(agent).map(|agent| &agent.node)
    }

    /// A node presents itself; returns the instances that its former life had.
    pub fn join(&mut self, info: &NodeInfo) -> Vec<InstanceKey> {
        let same_life = self.life(&info.node) == Some(info.incarnation);
        let running = if same_life { self.nodes.get(&info.node).map(|node| node.running.clone()) } else { None };
        let busy: BTreeMap<AgentId, InstanceKey> = match same_life {
            true => self.agents.iter().filter_map(|(id, agent)| Some((id.clone(), agent.busy?))).collect(),
            false => BTreeMap::new(),
        };
        let former = if same_life { Vec::new() } else { self.lose(&info.node) };
        self.agents.retain(|_, agent| agent.node != info.node);
        self.homes.retain(|_, home| *home != info.node);
        self.homes.extend(info.agents.iter().map(|agent| (agent.agent.clone(), info.node.clone())));
        self.held.retain(|held| self.homes.contains_key(held));
        let held = same_life && self.nodes.get(&info.node).is_some_and(|node| node.held);
        for agent in &info.agents {
            let known = Agent {
                node: info.node.clone(),
                role: agent.role.clone(),
                skills: agent.skills.clone(),
                life: AgentLife::Up,
                busy: busy.get(&agent.agent).copied(),
                orphaned: false,
            };
            self.agents.insert(agent.agent.clone(), known);
        }
        let node = Node { incarnation: info.incarnation, capacity: info.capacity, running: running.unwrap_or_default(), held };
        self.nodes.insert(info.node.clone(), node);
        former
    }

    /// A node is gone; returns the instances that it had.
    pub fn lose(&mut self, node: &NodeId) -> Vec<InstanceKey> {
        self.agents.retain(|_, agent| agent.node != *node);
        self.nodes.remove(node).map(|node| node.running.into_iter().collect()).unwrap_or_default()
    }

    /// An agent changed.
    pub fn change(&mut self, agent: &AgentId, life: AgentLife) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.life = life;
            agent.orphaned |= life != AgentLife::Up;
        }
    }

    /// More agents on a node.
    pub fn hire(&mut self, node: &NodeId, agents: &[AgentInfo]) {
        for info in agents {
            let known = Agent {
                node: node.clone(),
                role: info.role.clone(),
                skills: info.skills.clone(),
                life: AgentLife::Up,
                busy: None,
                orphaned: false,
            };
            self.agents.entry(info.agent.clone()).or_insert(known);
            self.homes.entry(info.agent.clone()).or_insert_with(|| node.clone());
        }
    }

    /// What an agent works on.
    pub fn work_of(&self, agent: &AgentId) -> Option<InstanceKey> {
        self.agents.get(agent)?.busy
    }

    /// An agent leaves its node, and what an operator said of it goes with it; false if it has an attempt, or is another node's.
    pub fn dismiss(&mut self, node: &NodeId, agent: &AgentId) -> bool {
        let right = self.agents.get(agent).is_none_or(|known| known.node == *node && known.busy.is_none());
        if right {
            self.agents.remove(agent);
            self.homes.remove(agent);
            self.held.remove(agent);
        }
        right
    }

    /// An operator's word on who may be given work.
    pub fn hold(&mut self, post: &Post, held: bool) {
        match post {
            Post::Node(id) => {
                if let Some(node) = self.nodes.get_mut(id) {
                    node.held = held;
                }
            }
            Post::Agent(id) if held && self.homes.contains_key(id) => {
                self.held.insert(id.clone());
            }
            Post::Agent(id) => {
                self.held.remove(id);
            }
        }
    }

    fn is_held(&self, id: &AgentId, agent: &Agent) -> bool {
        self.held.contains(id) || self.nodes.get(&agent.node).is_some_and(|node| node.held)
    }

    /// True if the agent lives there, has the role and skills, is idle, and its node has room.
    pub fn may_run(&self, agent: &AgentId, node: &NodeId, incarnation: Incarnation, task: &TaskSpec) -> bool {
        self.life(node) == Some(incarnation)
            && self
                .agents
                .get_key_value(agent)
                .is_some_and(|(found, agent)| agent.node == *node && agent.matches(task) && self.may_take(found, agent))
    }

    /// True if another agent could have taken the task at this moment.
    pub fn another_could(&self, except: &AgentId, task: &TaskSpec) -> bool {
        self.agents.iter().any(|(id, agent)| id != except && agent.matches(task) && self.is_free(id, agent))
    }

    /// True if some living agent could take the task once it is free.
    ///
    /// With `only` nobody else counts.
    pub fn somebody_lives_for(&self, task: &TaskSpec, only: Option<&AgentId>) -> bool {
        let lives = |agent: &Agent| agent.life == AgentLife::Up && self.nodes.contains_key(&agent.node);
        let named = |id: &AgentId| only.is_none_or(|only| only == id);
        self.agents.iter().any(|(id, agent)| named(id) && lives(agent) && agent.matches(task) && !self.is_held(id, agent))
    }

    /// True if the agent has what the task asks for.
    pub fn is_able(&self, agent: &AgentId, task: &TaskSpec) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.matches(task))
    }

    /// True if the agent can take work, now or later: it is there, and nobody has given it up.
    pub fn may_come(&self, agent: &AgentId) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.life != AgentLife::Quarantined && self.nodes.contains_key(&agent.node))
    }

    fn is_free(&self, id: &AgentId, agent: &Agent) -> bool {
        agent.busy.is_none() && self.may_take(id, agent)
    }

    /// What comes up again is a new actor: whether the attempt of the dead one still occupies it can be read both ways.
    fn may_take(&self, id: &AgentId, agent: &Agent) -> bool {
        let room = self.nodes.get(&agent.node).is_some_and(|node| node.running.len() < node.capacity as usize);
        agent.life == AgentLife::Up && (agent.busy.is_none() || agent.orphaned) && room && !self.is_held(id, agent)
    }

    /// The agent works on the instance.
    pub fn occupy(&mut self, agent: &AgentId, node: &NodeId, instance: InstanceKey) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.busy = Some(instance);
            agent.orphaned = false;
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.running.insert(instance);
        }
    }

    /// The agent is through with the instance.
    pub fn vacate(&mut self, agent: &AgentId, node: &NodeId, instance: InstanceKey) {
        if let Some(agent) = self.agents.get_mut(agent).filter(|agent| agent.busy == Some(instance)) {
            agent.busy = None;
            agent.orphaned = false;
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.running.remove(&instance);
        }
    }
}
