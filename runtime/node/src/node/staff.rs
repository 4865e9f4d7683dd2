//! Who comes and who goes on this node while it lives: role files are read again and again, pools follow the queue and the machine.
//!
//! What is to happen is decided by [`amphi_supervisors::scaling`]; here it is found out and done. Nobody who works is ended: the desk
//! lets an agent go when its attempt is over and the leader knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use amphi_agents::desk::AgentSnapshot;
use amphi_agents::{DeskMessage, DeskSnapshot};
use amphi_config::{RoleConfig, RoleFiles, RoleTable};
use amphi_protocol::ids::{AgentId, RoleName};
use amphi_protocol::journal::{AgentLife, StaffCause};
use amphi_supervisors::scaling::{Demand, Pool, Scale, Shortage, Why, scale};

use super::pools::Pools;
use super::pressure::Gauge;

/// How often role files, the queue and the machine are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The roles in effect on this node, for everybody who asks.
#[derive(Debug, Default)]
pub struct LiveRoles(RwLock<Arc<RoleTable>>);

impl LiveRoles {
    /// These are in effect.
    pub fn new(table: RoleTable) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(table))))
    }

    /// What is in effect.
    pub fn get(&self) -> Arc<RoleTable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, table: RoleTable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// Looks after the agents of a node.
pub struct Staff {
    pub pools: Arc<Pools>,
    pub roles: Arc<LiveRoles>,
    /// Where roles are read; none: somebody else reads them.
    pub files: Option<RoleFiles>,
    pub gauge: Gauge,
    pub capacity: u32,
    /// Surplus agents with nothing to do leave after this.
    pub agent_idle: Duration,
}

impl Staff {
    /// Does so until the node ends.
    pub async fn keep(mut self) -> String {
        let mut due = tokio::time::interval(PERIOD);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let (gauge, mut files) = (self.gauge.clone(), self.files);
            let looked = tokio::task::spawn_blocking(move || {
                let table = files.as_mut().and_then(RoleFiles::look);
                (gauge.look(), files, table)
            });
            let Ok((shortage, files, table)) = looked.await else { return "reading the role files failed".to_owned() };
            self.files = files;
            if let Some(table) = table {
                announce(&table);
                self.roles.set(table);
            }
            let Some(desk) = self.pools.desk.snapshot().await else { return "there is no desk".to_owned() };
            if desk.joined && !desk.draining {
                self.round(&desk, shortage).await;
            }
        }
    }

    async fn round(&self, desk: &DeskSnapshot, shortage: Option<Shortage>) {
        let table = self.roles.get();
        let running = desk.agents.iter().filter(|agent| agent.attempt.is_some()).count();
        let room = self.capacity.saturating_sub(u32::try_from(running).unwrap_or(u32::MAX));
        let mut by_role: BTreeMap<RoleName, Vec<&AgentSnapshot>> = BTreeMap::new();
        for agent in &desk.agents {
            by_role.entry(agent.info.role.clone()).or_default().push(agent);
        }
        for (role, config) in table.roles.runnable() {
            let agents = by_role.remove(role).unwrap_or_default();
            let waiting = desk.waiting.get(role).copied().unwrap_or(0);
            self.look_after(role, config, &agents, Demand { waiting, room, shortage }).await;
        }
        // What is left has no role any more.
        let gone: BTreeSet<RoleName> = by_role.keys().cloned().collect();
        for agent in by_role.into_values().flatten() {
            self.dismiss(agent, StaffCause::Role, true);
        }
        let kept = |role: &RoleName| gone.contains(role) || table.roles.runnable().any(|(known, _)| known == role);
        for role in self.pools.registry_roles().into_iter().filter(|role| !kept(role)) {
            self.pools.end_pool(&role).await;
        }
    }

    async fn look_after(&self, role: &RoleName, config: &RoleConfig, agents: &[&AgentSnapshot], demand: Demand) {
        let (min, max) = config.replicas.bounds(self.capacity);
        if !self.pools.has_pool(role) {
            let added = self.pools.start_pool(role, config, min).await;
            return self.hired(role, added, StaffCause::Role);
        }
        let (current, outdated): (Vec<&AgentSnapshot>, Vec<&AgentSnapshot>) =
            agents.iter().partition(|agent| self.pools.is_current(&agent.info.agent, role, config));
        for agent in outdated {
            self.dismiss(agent, StaffCause::Role, true);
        }
        let mut staying: Vec<&AgentSnapshot> = current.into_iter().filter(|agent| !agent.leaving).collect();
        let idle = |agent: &AgentSnapshot| agent.attempt.is_none() && agent.life == AgentLife::Up;
        let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        let long_idle = |agent: &AgentSnapshot| idle(agent) && agent.idle >= self.agent_idle;
        let pool = Pool {
            min,
            max,
            agents: count(staying.len()),
            idle: count(staying.iter().filter(|agent| idle(agent)).count()),
            long_idle: count(staying.iter().filter(|agent| long_idle(agent)).count()),
        };
        match scale(pool, demand) {
            Scale::Stay => {}
            Scale::Up(more) => {
                let cause = if pool.agents < min { StaffCause::Role } else { StaffCause::Queue };
                let added = self.pools.start_more(role, config, more).await;
                self.hired(role, added, cause);
            }
            Scale::Down(fewer, why) => {
                let (cause, for_sure) = match why {
                    Why::Idle => (StaffCause::Idle, false),
                    Why::Short(Shortage::Memory) => (StaffCause::Memory, true),
                    Why::Short(Shortage::Cpu) => (StaffCause::Cpu, true),
                    Why::TooMany => (StaffCause::Role, true),
                };
                // Who was idle longest first; who works last, and then after its work.
                staying.sort_by_key(|agent| std::cmp::Reverse(agent.idle));
                for agent in staying.into_iter().take(fewer as usize) {
                    self.dismiss(agent, cause, for_sure);
                }
            }
        }
    }

    fn hired(&self, role: &RoleName, added: Vec<amphi_protocol::journal::AgentInfo>, cause: StaffCause) {
        if !added.is_empty() {
            tracing::info!(%role, agents = added.len(), cause = cause.as_str(), "agents came");
            self.pools.desk.tell(DeskMessage::Hire { added, cause });
        }
    }

    fn dismiss(&self, agent: &AgentSnapshot, cause: StaffCause, for_sure: bool) {
        if !agent.leaving {
            let agent: AgentId = agent.info.agent.clone();
            tracing::info!(%agent, cause = cause.as_str(), "an agent leaves");
            self.pools.desk.tell(DeskMessage::Dismiss { agent, cause, for_sure });
        }
    }
}

/// Each wrong file once per version, with its place.
pub fn announce(table: &RoleTable) {
    for rejected in &table.rejected {
        for problem in &rejected.problems {
            let (file, hint) = (rejected.file.display(), problem.hint.as_deref().unwrap_or(""));
            let (line, column, message) = (problem.line, problem.column, &problem.message);
            tracing::error!(%file, line, column, former = rejected.former, "a role file is rejected: {message} {hint}");
        }
    }
}
