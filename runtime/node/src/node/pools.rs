//! Pools of agents: what a pool and an agent are made of, for those that are there from the start and those that come later.
//!
//! It makes and ends; who is to come or go is decided in [`super::staff`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphi_agents::{AgentRegistry, DeskHandle, Inboxes, Jobs, RoleProfile, Specialist, SpecialistArguments};
use amphi_config::{RoleConfig, RoleStrategy};
use amphi_protocol::ids::{AgentId, NodeId, RoleName, ShardId};
use amphi_protocol::journal::AgentInfo;
use amphi_supervisors::{
    ChildEvent, ChildEventKind, ChildSpec, Intensity, Mailbox, OnExhausted, Strategy, SupervisorArguments, SupervisorMessage,
    SupervisorSpec, TreeBoard, nested, restart_child, start_child, terminate_child,
};
use ractor::ActorRef;

use super::world::World;

/// A supervisor does in this time what it is told, or the agent is looked at again later.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// What all agents of a node that serve one shard share, and who they are.
pub struct Pools {
    pub node: NodeId,
    shard: ShardId,
    pub board: Arc<TreeBoard>,
    pub jobs: Arc<Jobs>,
    pub desk: DeskHandle,
    pub registry: AgentRegistry,
    pub inboxes: Inboxes,
    pub faults: bool,
    /// Names of all tools.
    tools: BTreeSet<String>,
    fault_tools: BTreeSet<String>,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    profiles: BTreeMap<AgentId, Arc<RoleProfile>>,
    /// The last number of each role; none is given twice in a life of the node.
    numbers: BTreeMap<RoleName, u32>,
}

impl Pools {
    /// No agents yet.
    pub fn new(
        (node, shard): (NodeId, ShardId),
        board: Arc<TreeBoard>,
        (jobs, desk): (Arc<Jobs>, DeskHandle),
        (registry, inboxes): (AgentRegistry, Inboxes),
        world: &World,
    ) -> Arc<Self> {
        let (tools, fault_tools, faults) = (world.tools.clone(), world.fault_tools.clone(), world.faults);
        Arc::new(Self { node, shard, board, jobs, desk, registry, inboxes, faults, tools, fault_tools, members: Mutex::default() })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of a role with its first `count` agents.
    pub fn pool(self: &Arc<Self>, role: &RoleName, config: &RoleConfig, count: u32) -> (ChildSpec, Vec<AgentInfo>) {
        let (agents, children): (Vec<_>, Vec<_>) = self.agents(role, config, count).into_iter().unzip();
        let mut spec = SupervisorSpec::new(self.supervisor_name(role), children);
        spec.intensity = intensity(config);
        spec.strategy = match config.restart.strategy {
            RoleStrategy::OneForOne => Strategy::OneForOne,
            RoleStrategy::OneForAll => Strategy::OneForAll,
            RoleStrategy::RestForOne => Strategy::RestForOne,
        };
        spec.children_max = 100_000;
        let desk = self.desk.clone();
        let hook = Arc::new(move |event: ChildEvent| {
            let Ok(agent) = AgentId::parse(&event.child) else { return };
            match event.kind {
                ChildEventKind::Started { .. } => desk.agent_up(agent, 0),
                ChildEventKind::Restarted { count, .. } => desk.agent_up(agent, u32::try_from(count).unwrap_or(u32::MAX)),
                ChildEventKind::Exited { reason, .. } => desk.agent_exited(agent, reason),
                ChildEventKind::Quarantined { reason } => desk.agent_quarantined(agent, reason),
            }
        });
        let pool = nested(self.pool_id(role), SupervisorArguments { spec, board: self.board.clone(), on_child_event: hook });
        (pool, agents)
    }

    /// So many new agents of a role, not started.
    fn agents(self: &Arc<Self>, role: &RoleName, config: &RoleConfig, count: u32) -> Vec<(AgentInfo, ChildSpec)> {
        let profile = Arc::new(self.profile(role, config));
        let mut members = self.members();
        let first = *members.numbers.entry(role.clone()).or_default() + 1;
        members.numbers.insert(role.clone(), first - 1 + count);
        let ids = (first..first + count).map(|number| profile.agent_id(&self.node, self.shard, number));
        let ids: Vec<AgentId> = ids.map(|id| id.expect("a node, a role and a number make an agent id")).collect();
        members.profiles.extend(ids.iter().map(|id| (id.clone(), profile.clone())));
        drop(members);
        let made = |id: AgentId| (profile.info(id.clone()), self.agent(id, &profile).limited(intensity(config), OnExhausted::Quarantine));
        ids.into_iter().map(made).collect()
    }

    /// What an agent of the role is made of; without a list of tools it may use all.
    fn profile(&self, role: &RoleName, config: &RoleConfig) -> RoleProfile {
        let mut allowed = config.tools.clone();
        if !allowed.is_empty() {
            allowed.extend(self.fault_tools.iter().cloned());
        }
        RoleProfile::new(role.clone(), config.skills.clone(), config.responsibilities.clone()).with_tools(&allowed, &self.tools)
    }

    fn agent(&self, agent: AgentId, profile: &Arc<RoleProfile>) -> ChildSpec {
        let mailbox = Arc::new(AtomicU64::new(0));
        let arguments = SpecialistArguments {
            agent: agent.clone(),
            profile: profile.clone(),
            jobs: self.jobs.clone(),
            desk: self.desk.clone(),
            registry: self.registry.clone(),
            mailbox: mailbox.clone(),
            inboxes: self.inboxes.clone(),
            faults: self.faults,
        };
        ChildSpec::worker(agent.to_string(), move |parent| Specialist::start(arguments.clone(), parent)).mailbox(Mailbox::over(mailbox))
    }

    /// True if the agent was made of what its role is now.
    pub fn is_current(&self, agent: &AgentId, role: &RoleName, config: &RoleConfig) -> bool {
        let wanted = self.profile(role, config);
        self.members().profiles.get(agent).is_some_and(|known| **known == wanted)
    }

    /// The roles that have or had agents.
    pub fn registry_roles(&self) -> Vec<RoleName> {
        self.members().numbers.keys().filter(|role| self.has_pool(role)).cloned().collect()
    }

    /// True if the role has a pool.
    pub fn has_pool(&self, role: &RoleName) -> bool {
        self.supervisor(role).is_some()
    }

    /// Starts more agents of a role below its pool, and says who runs.
    pub async fn start_more(self: &Arc<Self>, role: &RoleName, config: &RoleConfig, count: u32) -> Vec<AgentInfo> {
        let Some(pool) = self.supervisor(role) else { return Vec::new() };
        let mut started = Vec::new();
        for (info, child) in self.agents(role, config, count) {
            match start_child(&pool, child, Some(TOLD_WITHIN)).await {
                Ok(_) => started.push(info),
                Err(error) => {
                    tracing::warn!(agent = %info.agent, %error, "an agent was not started");
                    self.left(&info.agent);
                }
            }
        }
        started
    }

    /// Starts the pool of a role that came later below the node's root, and says who runs.
    pub async fn start_pool(self: &Arc<Self>, role: &RoleName, config: &RoleConfig, count: u32) -> Vec<AgentInfo> {
        let Some(root) = ActorRef::<SupervisorMessage>::where_is(format!("{}/root", self.node)) else { return Vec::new() };
        let (pool, agents) = self.pool(role, config, count);
        match start_child(&root, pool, Some(TOLD_WITHIN)).await {
            Ok(_) => agents,
            Err(error) => {
                tracing::warn!(%role, %error, "the pool of a role was not started");
                agents.iter().for_each(|info| self.left(&info.agent));
                Vec::new()
            }
        }
    }

    /// Ends the pool of a role that has no agents any more.
    pub async fn end_pool(&self, role: &RoleName) {
        let Some(root) = ActorRef::<SupervisorMessage>::where_is(format!("{}/root", self.node)) else { return };
        if let Err(error) = terminate_child(&root, &self.pool_id(role), Some(TOLD_WITHIN)).await {
            tracing::warn!(%role, %error, "the pool of a role that went was not ended");
        }
    }

    /// Replaces an agent on a person's word.
    pub fn restart(self: &Arc<Self>, agent: &AgentId) {
        let Some(pool) = self.pool_of(agent) else { return };
        let agent = agent.to_string();
        tokio::spawn(async move {
            if let Err(error) = restart_child(&pool, &agent, Some(TOLD_WITHIN)).await {
                tracing::warn!(%agent, %error, "an agent was not restarted");
            }
        });
    }

    /// An agent has left: its actor ends, and it is forgotten.
    pub fn left(&self, agent: &AgentId) {
        let pool = self.pool_of(agent);
        self.members().profiles.remove(agent);
        self.registry.remove(agent);
        self.inboxes.remove(agent);
        let (Some(pool), agent) = (pool, agent.to_string()) else { return };
        tokio::spawn(async move {
            if let Err(error) = terminate_child(&pool, &agent, Some(TOLD_WITHIN)).await {
                tracing::debug!(%agent, %error, "an agent that left has no actor");
            }
        });
    }

    fn pool_of(&self, agent: &AgentId) -> Option<ActorRef<SupervisorMessage>> {
        let role = self.members().profiles.get(agent).map(|profile| profile.role.clone())?;
        self.supervisor(&role)
    }

    fn supervisor(&self, role: &RoleName) -> Option<ActorRef<SupervisorMessage>> {
        ActorRef::where_is(self.supervisor_name(role))
    }

    fn supervisor_name(&self, role: &RoleName) -> String {
        format!("{}/{}", self.node, in_shard(&format!("pool/{role}"), self.shard))
    }

    fn pool_id(&self, role: &RoleName) -> String {
        in_shard(&format!("pool-{role}"), self.shard)
    }
}

/// The name of what there is once for each shard; that of the first shard is the name itself.
pub fn in_shard(name: &str, shard: ShardId) -> String {
    if shard.0 == 0 { name.to_owned() } else { format!("{name}-{shard}") }
}

fn intensity(config: &RoleConfig) -> Intensity {
    Intensity { max: config.restart.max, within: config.restart.within }
}
