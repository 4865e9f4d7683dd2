//! Nodes and agents as the Manager knows them: who lives, who is idle, who has room.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::document::TaskSpec;
use amphi_protocol::ids::{AgentId, AttemptRef, Incarnation, NodeId, RoleName, Timestamp};
use amphi_protocol::journal::{AgentInfo, AgentLife, Duty, NodeInfo, Post};
use serde::{Deserialize, Serialize};

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Its present or last life.
    pub incarnation: Incarnation,
    /// Its process.
    pub pid: u32,
    /// Attempts that it runs at once.
    pub capacity: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// It lives, as far as is known.
    pub alive: bool,
    /// Its agents.
    pub agents: Vec<AgentId>,
    /// Its open attempts.
    pub running: BTreeSet<AttemptRef>,
    /// Names the data folder that it lives in; empty if it did not say.
    pub home: String,
    /// How often it joined again.
    pub restarts: u64,
    /// Why it was lost the last time.
    pub last_exit: Option<String>,
    /// Whether it may be given work.
    #[serde(default)]
    pub duty: Duty,
}

/// An agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agent {
    /// Its node.
    pub node: NodeId,
    /// Its role.
    pub role: RoleName,
    /// Its skills, sorted.
    pub skills: Vec<String>,
    /// What it does.
    pub state: AgentState,
    /// Restarts in this life of the node.
    pub restarts: u32,
    /// Its open attempt, also while it is down.
    pub(crate) attempt: Option<AttemptRef>,
    pub(crate) profile: usize,
    /// Whether it may be given work; its node has a say too.
    #[serde(default)]
    pub duty: Duty,
    /// How its profile counts it.
    #[serde(default)]
    pub(crate) listed: Listed,
}

/// How a profile counts an agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub living: bool,
    pub idle: bool,
}

/// What an agent does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Nothing.
    Idle,
    /// An attempt.
    Busy(AttemptRef),
    /// Dead; its supervisor is at work.
    Down,
    /// Dead too often.
    Quarantined,
    /// Its node is gone.
    Gone,
}

/// Agents of one role with the same skills are interchangeable: one profile.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Profile {
    pub role: Option<RoleName>,
    pub skills: Vec<String>,
    /// Agents that live (idle or busy) and may be given work.
    pub living: u32,
    /// Those of them that are idle, by node.
    pub idle: BTreeMap<NodeId, BTreeSet<AgentId>>,
}

/// All nodes and agents.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Fleet {
    pub nodes: BTreeMap<NodeId, Node>,
    pub agents: BTreeMap<AgentId, Agent>,
    pub profiles: Vec<Profile>,
    /// When what drained agents and nodes still run is handed over.
    pub graces: BTreeSet<(Timestamp, Post)>,
}

/// What a task asks of an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Demand {
    pub role: Option<RoleName>,
    pub skills: Vec<String>,
    /// Nobody else, on an operator's word.
    #[serde(default)]
    pub agent: Option<AgentId>,
}

impl Demand {
    pub fn of(task: &TaskSpec) -> Self {
        Self { role: task.agent.clone(), skills: task.skills.clone(), agent: None }
    }

    pub fn accepts(&self, role: &RoleName, skills: &[String]) -> bool {
        self.role.as_ref().is_none_or(|wanted| wanted == role) && self.skills.iter().all(|wanted| skills.contains(wanted))
    }
}

impl Profile {
    pub fn serves(&self, demand: &Demand) -> bool {
        self.role.as_ref().is_some_and(|role| demand.accepts(role, &self.skills))
    }
}

impl Fleet {
    /// A node begins a life. Returns the profiles that did not exist before.
    pub fn join(&mut self, info: &NodeInfo) -> Vec<usize> {
        let mut new = Vec::new();
        let agents = info.agents.iter().map(|agent| agent.agent.clone()).collect();
        let former = self.nodes.get(&info.node);
        let node = Node {
            incarnation: info.incarnation,
            pid: info.pid,
            capacity: info.capacity,
            labels: info.labels.clone(),
            alive: true,
            agents,
            running: BTreeSet::new(),
            home: info.home.clone(),
            restarts: former.map_or(0, |former| former.restarts + 1),
            last_exit: former.and_then(|former| former.last_exit.clone()),
            duty: Duty::Active,
        };
        // A drained node is back with its next life; an agent that was held stays so until somebody says otherwise.
        let mut held: BTreeMap<AgentId, Duty> = BTreeMap::new();
        self.end_graces(&info.node);
        if let Some(old) = self.nodes.insert(info.node.clone(), node) {
            for agent in old.agents {
                self.set_state(&agent, AgentState::Gone);
                held.extend(self.agents.remove(&agent).map(|former| (agent, former.duty)));
            }
        }
        self.enter(&info.node, &info.agents, &held, &mut new);
        new
    }

    /// More agents on a living node, which has a say in whether they are given work. Returns the profiles that did not exist before.
    pub fn hire(&mut self, node: &NodeId, agents: &[AgentInfo]) -> Vec<usize> {
        let mut new = Vec::new();
        self.enter(node, agents, &BTreeMap::new(), &mut new);
        if let Some(node) = self.nodes.get_mut(node) {
            node.agents.extend(agents.iter().map(|info| info.agent.clone()));
        }
        new
    }

    /// An agent without an open attempt leaves for good; what an operator said of it goes with it.
    pub fn dismiss(&mut self, agent: &AgentId) {
        self.set_state(agent, AgentState::Gone);
        let Some(gone) = self.agents.remove(agent) else { return };
        self.graces.retain(|(_, post)| !matches!(post, Post::Agent(drained) if drained == agent));
        if let Some(node) = self.nodes.get_mut(&gone.node) {
            node.agents.retain(|known| known != agent);
        }
    }

    /// `held` says what operators said of agents in a former life of their node.
    fn enter(&mut self, node: &NodeId, agents: &[AgentInfo], held: &BTreeMap<AgentId, Duty>, new: &mut Vec<usize>) {
        for info in agents {
            let profile = self.profile(&info.role, &info.skills, new);
            let entry = Agent {
                node: node.clone(),
                role: info.role.clone(),
                skills: info.skills.clone(),
                state: AgentState::Gone,
                restarts: 0,
                attempt: None,
                profile,
                duty: held.get(&info.agent).copied().unwrap_or_default(),
                listed: Listed::default(),
            };
            self.agents.insert(info.agent.clone(), entry);
            self.set_state(&info.agent, AgentState::Idle);
        }
    }

    fn profile(&mut self, role: &RoleName, skills: &[String], new: &mut Vec<usize>) -> usize {
        let known = self.profiles.iter().position(|profile| profile.role.as_ref() == Some(role) && profile.skills == skills);
        known.unwrap_or_else(|| {
            self.profiles.push(Profile { role: Some(role.clone()), skills: skills.to_vec(), ..Profile::default() });
            new.push(self.profiles.len() - 1);
            self.profiles.len() - 1
        })
    }

    /// A node is gone, with all its agents.
    pub fn lose(&mut self, node: &NodeId, cause: &str) {
        let Some(entry) = self.nodes.get_mut(node) else { return };
        entry.alive = false;
        entry.last_exit = Some(cause.to_owned());
        entry.running.clear();
        let agents = entry.agents.clone();
        self.end_graces(node);
        for agent in agents {
            if let Some(agent) = self.agents.get_mut(&agent) {
                agent.attempt = None;
            }
            self.set_state(&agent, AgentState::Gone);
        }
    }

    /// Nobody waits any more for what the node and its agents run.
    fn end_graces(&mut self, node: &NodeId) {
        let agents = &self.agents;
        self.graces.retain(|(_, post)| match post {
            Post::Node(drained) => drained != node,
            Post::Agent(drained) => agents.get(drained).is_some_and(|agent| agent.node != *node),
        });
    }

    /// Moves an agent to another state and keeps the indexes in step.
    pub fn set_state(&mut self, id: &AgentId, state: AgentState) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        agent.state = state;
        self.list(id);
    }

    /// An operator's word. Costs the agents of the node.
    pub fn set_duty(&mut self, post: &Post, duty: Duty) {
        let agents = match post {
            Post::Agent(id) => {
                let Some(agent) = self.agents.get_mut(id) else { return };
                agent.duty = duty;
                vec![id.clone()]
            }
            Post::Node(id) => {
                let Some(node) = self.nodes.get_mut(id) else { return };
                node.duty = duty;
                node.agents.clone()
            }
        };
        self.graces.retain(|(_, drained)| drained != post);
        if let Duty::Draining { until } = duty {
            self.graces.insert((until, post.clone()));
        }
        for agent in agents {
            self.list(&agent);
        }
    }

    /// True if an operator keeps work away from the agent, or from its node.
    pub fn is_held(&self, agent: &Agent) -> bool {
        agent.duty != Duty::Active || self.nodes.get(&agent.node).is_some_and(|node| node.duty != Duty::Active)
    }

    /// What an agent or a node runs.
    pub fn running(&self, post: &Post) -> Vec<AttemptRef> {
        match post {
            Post::Agent(id) => self.agents.get(id).and_then(|agent| agent.attempt.clone()).into_iter().collect(),
            Post::Node(id) => self.nodes.get(id).map(|node| node.running.iter().cloned().collect()).unwrap_or_default(),
        }
    }

    /// Counts the agent in its profile as it now is.
    fn list(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else { return };
        let held = self.is_held(agent);
        let now = Listed {
            living: !held && matches!(agent.state, AgentState::Idle | AgentState::Busy(_)),
            idle: !held && agent.state == AgentState::Idle,
        };
        let agent = self.agents.get_mut(id).expect("it was just there");
        let before = std::mem::replace(&mut agent.listed, now);
        let profile = &mut self.profiles[agent.profile];
        match (before.living, now.living) {
            (false, true) => profile.living += 1,
            (true, false) => profile.living -= 1,
            (true, true) | (false, false) => {}
        }
        if now.idle {
            profile.idle.entry(agent.node.clone()).or_default().insert(id.clone());
        } else if let Some(idle) = profile.idle.get_mut(&agent.node) {
            idle.remove(id);
            if idle.is_empty() {
                profile.idle.remove(&agent.node);
            }
        }
    }

    /// What the node said of an agent. An agent with an open attempt is busy when it is up again, whatever happened in between: the
    /// attempt may be that of its former actor, or one that it was given while the news of its death was still under way.
    pub fn report(&mut self, id: &AgentId, life: AgentLife, restarts: u32) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        agent.restarts = restarts;
        let state = match (life, &agent.attempt) {
            (AgentLife::Up, Some(attempt)) => AgentState::Busy(attempt.clone()),
            (AgentLife::Up, None) => AgentState::Idle,
            (AgentLife::Down, _) => AgentState::Down,
            (AgentLife::Quarantined, _) => AgentState::Quarantined,
        };
        self.set_state(id, state);
    }

    /// True if the news is not newer than what is known of the agent: sent again, or overtaken. Within a life of its node an agent is
    /// up, goes down, may be given up, and is up again with one more restart.
    pub fn is_old_news(agent: &Agent, life: AgentLife, restarts: u32) -> bool {
        let step = |life| match life {
            AgentLife::Up => 0,
            AgentLife::Down => 1,
            AgentLife::Quarantined => 2,
        };
        let known = match agent.state {
            AgentState::Idle | AgentState::Busy(_) => AgentLife::Up,
            AgentState::Down | AgentState::Gone => AgentLife::Down,
            AgentState::Quarantined => AgentLife::Quarantined,
        };
        (restarts, step(life)) <= (agent.restarts, step(known))
    }

    /// An attempt begins.
    pub fn begin(&mut self, agent: &AgentId, node: &NodeId, attempt: &AttemptRef) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.running.insert(attempt.clone());
        }
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.attempt = Some(attempt.clone());
        }
        self.set_state(agent, AgentState::Busy(attempt.clone()));
    }

    /// An attempt is over: room on the node, and the agent idle if it still lives.
    pub fn end(&mut self, agent: &AgentId, node: &NodeId, attempt: &AttemptRef) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.running.remove(attempt);
        }
        if let Some(entry) = self.agents.get_mut(agent)
            && entry.attempt.as_ref() == Some(attempt)
        {
            entry.attempt = None;
        }
        if self.agents.get(agent).is_some_and(|entry| entry.state == AgentState::Busy(attempt.clone())) {
            self.set_state(agent, AgentState::Idle);
        }
    }

    /// True if `node` lives and has room.
    pub fn has_room(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|node| node.alive && (node.running.len() as u32) < node.capacity)
    }

    /// True if somebody lives who can be given what the class asks for.
    pub fn can_serve(&self, demand: &Demand, profiles: &[usize]) -> bool {
        match &demand.agent {
            Some(id) => self.agents.get(id).is_some_and(|agent| agent.listed.living && profiles.contains(&agent.profile)),
            None => profiles.iter().any(|&profile| self.profiles[profile].living > 0),
        }
    }

    /// That agent and no other, if it is idle and its node has room.
    pub fn choose_only(&self, id: &AgentId) -> Option<(AgentId, NodeId)> {
        let agent = self.agents.get(id).filter(|agent| agent.listed.idle && self.has_room(&agent.node))?;
        Some((id.clone(), agent.node.clone()))
    }

    /// The best idle agent among `profiles`: not `avoid` if there is another, on the node with the fewest attempts.
    pub fn choose(&self, profiles: &[usize], avoid: Option<&AgentId>, visited: &mut u64) -> Option<(AgentId, NodeId)> {
        let mut best: Option<(bool, usize, &NodeId, &AgentId)> = None;
        for &profile in profiles {
            for (node, idle) in &self.profiles[profile].idle {
                *visited += 1;
                if !self.has_room(node) {
                    continue;
                }
                let load = self.nodes[node].running.len();
                let other = idle.iter().find(|agent| Some(*agent) != avoid);
                let (again, agent) = match other {
                    Some(agent) => (false, agent),
                    None => (true, idle.first().expect("a node without idle agents is not in the index")),
                };
                let candidate = (again, load, node, agent);
                if best.is_none_or(|best| (candidate.0, candidate.1, candidate.2) < (best.0, best.1, best.2)) {
                    best = Some(candidate);
                }
            }
        }
        best.map(|(_, _, node, agent)| (agent.clone(), node.clone()))
    }
}
