//! The supervision tree of a node: bus, Manager's seat, gateway, desk, one pool of agents per role. Start order is dependency order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use amphi_adapters::nats::{NatsAgentMail, NatsBus, connect_node};
use amphi_agents::desk::wiring::serve_commands;
use amphi_agents::mail::MailRoom;
use amphi_agents::manager::campaign::Candidacy;
use amphi_agents::manager::wiring::{serve_deaths, serve_heartbeats, serve_inputs};
use amphi_agents::manager::{Manager, ManagerArguments};
use amphi_agents::{AgentRegistry, BusLeaderLink, Desk, DeskArguments, DeskHandle, DeskSettings, Inboxes, Jobs, ManagerHandle};
use amphi_config::{RoleFiles, TeamConfig};
use amphi_coordination::liveness::Periods;
use amphi_ports::{MessageBus, TailMemory as _};
use amphi_protocol::ids::{Incarnation, NodeId, ShardId};
use amphi_protocol::journal::AgentInfo;
use amphi_protocol::subjects;
use amphi_supervisors::{
    ChildSpec, Intensity, OnExhausted, Supervisor, SupervisorArguments, SupervisorMessage, SupervisorSpec, TreeBoard, no_hook,
};
use anyhow::Context as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};

use super::pools::{Pools, in_shard};
use super::service::service;
use super::staff::{LiveRoles, Staff, announce};
use super::world::{Seat, World};
use crate::gateway::{Front, Gateway, GatewayLimits};
use crate::up::NodeSpec;

/// A request with inputs waits for its commit at most so long; then it is sent again.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);
/// A node ends its fenced attempts so long after the lease of a Manager that does not hear it.
const FENCE_BEYOND_LEASE: Duration = Duration::from_secs(10);
/// Their locks are granted so long after that.
const GRANT_BEYOND_FENCE: Duration = Duration::from_secs(5);

/// How often a new node looks whether it remembers something.
const MEMORY_PERIOD: Duration = Duration::from_secs(1);

/// A planted tree.
pub struct Tree {
    pub root: ActorRef<SupervisorMessage>,
    /// One for each shard.
    pub desks: Vec<DeskHandle>,
    /// True once the API has been served.
    pub serving: Arc<AtomicBool>,
}

/// Which life of which node.
pub struct Life {
    /// Its number; grows.
    pub incarnation: Incarnation,
    /// The name of its data folder, the same over all lives.
    pub home: String,
}

/// Serves one kind of news for a Manager.
type Serve = fn(Arc<dyn MessageBus>, ShardId, ManagerHandle) -> BoxFuture<'static, ()>;

/// What a node has for one shard: a seat if it may lead, a desk and agents of their own. Nothing crosses shards.
struct Branch {
    shard: ShardId,
    manager: ManagerHandle,
    desk: DeskHandle,
    jobs: Arc<Jobs>,
    pools: Arc<Pools>,
    /// Tasks that it runs at once: the shard's share of the node's.
    capacity: u32,
}

struct Planting<'a> {
    spec: &'a NodeSpec,
    incarnation: Incarnation,
    home: String,
    team: &'a TeamConfig,
    world: World,
    board: Arc<TreeBoard>,
    registry: AgentRegistry,
    inboxes: Inboxes,
    roles: Arc<LiveRoles>,
    serving: Arc<AtomicBool>,
    leases_held: Arc<AtomicUsize>,
}

impl Tree {
    /// Starts everything.
    pub async fn plant(spec: &NodeSpec, life: Life, team: &TeamConfig, world: World) -> anyhow::Result<Self> {
        let board = TreeBoard::new();
        let (registry, inboxes) = (AgentRegistry::new(), Inboxes::default());
        let (base, folders) = world.role_files.clone();
        let table = RoleFiles::new(base, folders).look().unwrap_or_default();
        announce(&table);
        let shares = shares(spec.capacity, world.shards.len());
        let branch = |(&shard, capacity): (&ShardId, u32)| {
            let desk = DeskHandle::new();
            world.ledger.add(desk.clone());
            let jobs = Jobs::new(world.engine.clone(), desk.clone());
            let shared = (registry.clone(), inboxes.clone());
            let pools = Pools::new((spec.node.clone(), shard), board.clone(), (jobs.clone(), desk.clone()), shared, &world);
            Branch { shard, manager: ManagerHandle::default(), desk, jobs, pools, capacity }
        };
        let branches: Vec<Branch> = world.shards.iter().zip(shares).map(branch).collect();
        let planting = Planting {
            spec,
            incarnation: life.incarnation,
            home: life.home,
            team,
            world,
            board,
            registry,
            inboxes,
            roles: LiveRoles::new(table),
            serving: Arc::default(),
            leases_held: Arc::default(),
        };
        let arguments = SupervisorArguments { spec: planting.root(&branches), board: planting.board.clone(), on_child_event: no_hook() };
        let (root, _) = Supervisor::spawn(arguments).await.context("the root supervisor cannot start")?;
        Ok(Self { root, desks: branches.into_iter().map(|branch| branch.desk).collect(), serving: planting.serving })
    }
}

/// A node's capacity, divided among shards; each has at least one.
fn shares(capacity: u32, shards: usize) -> impl Iterator<Item = u32> {
    let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
    (0..shards).map(move |shard| (capacity / shards + u32::from(shard < capacity % shards)).max(1))
}

impl Planting<'_> {
    fn root(&self, branches: &[Branch]) -> SupervisorSpec {
        let mut children = vec![self.bus_link()];
        if let Some(seats) = &self.world.seats {
            for (branch, seat) in branches.iter().filter_map(|branch| Some((branch, seats.get(&branch.shard)?))) {
                children.push(self.seat(branch, seat));
                children.extend([
                    self.door(branch, "inputs", |bus, shard, manager| Box::pin(serve_inputs(bus, shard, manager))),
                    self.door(branch, "heartbeats", |bus, shard, manager| Box::pin(serve_heartbeats(bus, shard, manager))),
                    self.door(branch, "deaths", |bus, shard, manager| Box::pin(serve_deaths(bus, shard, manager))),
                    self.memory_door(branch),
                ]);
            }
            // The gateway asks the Managers in its own process, or passes on to where they lead.
            children.push(self.gateway(branches, seats));
            children.push(self.count_door());
        }
        for branch in branches {
            let (pools, agents) = self.first_pools(branch);
            children.push(self.desk(branch, agents));
            children.push(self.commands_door(branch));
            children.extend(pools);
            children.push(self.staff(branch));
        }
        children.push(self.mail_door());
        let mut root = SupervisorSpec::new(format!("{}/root", self.spec.node), children);
        // The bus may be away for minutes; what depends on it comes and goes without taking the node along.
        root.intensity = Intensity { max: 60, within: Duration::from_secs(60) };
        root
    }

    fn node(&self) -> &NodeId {
        &self.spec.node
    }

    /// How long a Manager's lease counts: longer where NATS itself may take seconds to find a leader.
    fn lease(&self) -> Duration {
        self.team.health.manager_lease(self.world.replicas > 1)
    }

    /// Tells nodes without a seat how many shards there are: they may not look where it is written.
    fn count_door(&self) -> ChildSpec {
        let (bus, count) = (self.world.bus.clone(), self.world.shards.len().to_string());
        service(
            self.node().as_str(),
            "shard-count",
            Arc::new(move || {
                let (bus, count) = (bus.clone(), count.clone());
                Box::pin(async move {
                    let mut asked = match bus.subscribe(subjects::SHARD_COUNT.to_owned()).await {
                        Ok(asked) => asked,
                        Err(error) => return error.to_string(),
                    };
                    while let Some(message) = asked.next().await {
                        let Some(reply) = message.reply else { continue };
                        // Who gets no answer asks again.
                        let _lost = bus.publish(reply, BTreeMap::new(), count.clone().into()).await;
                    }
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    /// Answers who asks for this node's tree, from what is published.
    fn bus_link(&self) -> ChildSpec {
        let (bus, board, node) = (self.world.bus.clone(), self.board.clone(), self.node().clone());
        let root = format!("{node}/root");
        service(
            self.node().as_str(),
            "bus-link",
            Arc::new(move || {
                let (bus, board, node, root) = (bus.clone(), board.clone(), node.clone(), root.clone());
                Box::pin(async move {
                    let mut asked = match bus.subscribe(subjects::node_tree(&node)).await {
                        Ok(asked) => asked,
                        Err(error) => return error.to_string(),
                    };
                    while let Some(message) = asked.next().await {
                        let Some(reply) = message.reply else { continue };
                        let tree = serde_json::to_vec(&board.render(&root)).unwrap_or_default();
                        // Who gets no answer asks again.
                        let _lost = bus.publish(reply, BTreeMap::new(), tree.into()).await;
                    }
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    fn seat(&self, branch: &Branch, seat: &Seat) -> ChildSpec {
        let health = &self.team.health;
        let node_dead_ms = millis(health.node_dead);
        let arguments = ManagerArguments {
            node: self.node().clone(),
            shard: branch.shard,
            journal: seat.journal.clone(),
            objects: self.world.objects.clone(),
            events: seat.events.clone(),
            mail: self.world.mail.clone(),
            bus: self.world.bus.clone(),
            memory: self.world.memory.clone(),
            clock: self.world.clock.clone(),
            handle: branch.manager.clone(),
            upkeep: self.world.upkeep,
            candidacy: Candidacy { lease: seat.lease.clone(), home: self.home.clone(), ttl: self.lease(), held: self.leases_held.clone() },
            periods: Periods { node_dead_ms, fence_ms: millis(self.lease() + FENCE_BEYOND_LEASE + GRANT_BEYOND_FENCE) },
        };
        let id = format!("manager-{}", branch.shard);
        let name = format!("{}/{id}", self.node());
        ChildSpec::worker(id, move |parent: ActorCell| -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
            let (name, arguments) = (name.clone(), arguments.clone());
            Box::pin(async move { Ok(Actor::spawn_linked(Some(name), Manager, arguments, parent).await?.0.get_cell()) })
        })
    }

    /// What comes in over the bus for a shard's Manager, served for as long as there is a bus.
    fn door(&self, branch: &Branch, what: &str, serve: Serve) -> ChildSpec {
        let (bus, shard, manager) = (self.world.bus.clone(), branch.shard, branch.manager.clone());
        service(
            self.node().as_str(),
            &in_shard(what, shard),
            Arc::new(move || {
                let served = serve(bus.clone(), shard, manager.clone());
                Box::pin(async move {
                    served.await;
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    /// Says to new nodes that there was a journal.
    fn memory_door(&self, branch: &Branch) -> ChildSpec {
        let (bus, shard, memory) = (self.world.bus.clone(), branch.shard, self.world.memory.clone());
        service(
            self.node().as_str(),
            &in_shard("memory", shard),
            Arc::new(move || {
                let (bus, memory) = (bus.clone(), memory.clone());
                Box::pin(async move {
                    // Without a memory there is nothing to say, and nobody is there: who asks is told so at once.
                    while !matches!(memory.recall(shard), Ok(Some(_))) {
                        tokio::time::sleep(MEMORY_PERIOD).await;
                    }
                    let mut asked = match bus.subscribe(subjects::journal_memory(shard)).await {
                        Ok(asked) => asked,
                        Err(error) => return error.to_string(),
                    };
                    while let Some(message) = asked.next().await {
                        let Some(reply) = message.reply else { continue };
                        // Who gets no answer hears one of the others.
                        let _lost = bus.publish(reply, BTreeMap::new(), Default::default()).await;
                    }
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    fn gateway(&self, branches: &[Branch], seats: &BTreeMap<ShardId, Seat>) -> ChildSpec {
        let world = &self.world;
        let of_shard = |(branch, seat): (&Branch, &Seat)| Gateway {
            manager: branch.manager.clone(),
            bus: world.bus.clone(),
            objects: world.objects.clone(),
            journal: seat.journal.clone(),
            accounts: self.spec.edge.is_some(),
            output: world.output.clone(),
            tools: world.tools.clone(),
            fault_tools: world.fault_tools.clone(),
            roles: self.roles.clone(),
            limits: GatewayLimits { documents: self.team.limits.of_documents(), admission: self.team.limits.of_admission() },
            shard: branch.shard,
            history: Default::default(),
        };
        let seated = branches.iter().filter_map(|branch| Some((branch, seats.get(&branch.shard)?)));
        let gateway = Arc::new(Front::new(seated.map(of_shard).collect(), self.serving.clone()));
        let (nats, name, node) = (self.spec.nats.clone(), format!("amphi {} gateway", self.node()), self.node().to_string());
        service(
            self.node().as_str(),
            "gateway",
            Arc::new(move || {
                let (gateway, nats, name, node) = (gateway.clone(), nats.clone(), name.clone(), node.clone());
                Box::pin(async move {
                    let client = match connect_node(&nats, &name, &node).await {
                        Ok(client) => client,
                        Err(error) => return error.to_string(),
                    };
                    tokio::select! {
                        served = gateway.clone().serve(client) => match served {
                            Ok(()) => "the service ended".to_owned(),
                            Err(error) => error.to_string(),
                        },
                        () = gateway.serve_passed_on() => "nobody says any more who leads".to_owned(),
                    }
                })
            }),
        )
    }

    /// The node's memory of its attempts: a node whose desk died ends, and its next life begins clean.
    fn desk(&self, branch: &Branch, agents: Vec<AgentInfo>) -> ChildSpec {
        let (restarting, leaving) = (branch.pools.clone(), branch.pools.clone());
        let health = &self.team.health;
        let arguments = DeskArguments {
            node: self.node().clone(),
            incarnation: self.incarnation,
            pid: std::process::id(),
            capacity: branch.capacity,
            labels: self.spec.labels.clone(),
            agents,
            shard: branch.shard,
            registry: self.registry.clone(),
            jobs: branch.jobs.clone(),
            link: Arc::new(BusLeaderLink::new(self.world.bus.clone(), self.node().clone(), branch.shard, LINK_TIMEOUT)),
            bus: self.world.bus.clone(),
            handle: branch.desk.clone(),
            restart_agent: Arc::new(move |agent| restarting.restart(agent)),
            agent_left: Arc::new(move |agent| leaving.left(agent)),
            home: self.home.clone(),
            uptime: Arc::new(amphi_adapters::process::uptime),
            settings: DeskSettings { heartbeat: health.heartbeat, fence: self.lease() + FENCE_BEYOND_LEASE, ..DeskSettings::default() },
        };
        let id = in_shard("desk", branch.shard);
        let name = format!("{}/{id}", self.node());
        let start = move |parent: ActorCell| -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
            let (name, arguments) = (name.clone(), arguments.clone());
            Box::pin(async move { Ok(Actor::spawn_linked(Some(name), Desk, arguments, parent).await?.0.get_cell()) })
        };
        ChildSpec::worker(id, start).limited(Intensity { max: 0, within: Duration::from_secs(60) }, OnExhausted::Escalate)
    }

    fn commands_door(&self, branch: &Branch) -> ChildSpec {
        let (bus, desk, of) = (self.world.bus.clone(), branch.desk.clone(), (self.node().clone(), branch.shard));
        service(
            self.node().as_str(),
            &in_shard("commands", branch.shard),
            Arc::new(move || {
                let (bus, of, desk) = (bus.clone(), of.clone(), desk.clone());
                Box::pin(async move {
                    match serve_commands(bus, of, desk).await {
                        Ok(()) => "the subscription ended".to_owned(),
                        Err(error) => error.to_string(),
                    }
                })
            }),
        )
    }

    /// What other agents say to those of this node. On a connection of its own, as the gateway: a stored message with a malformed header,
    /// which any client can send, ends every connection that reads it.
    fn mail_door(&self) -> ChildSpec {
        let room = MailRoom::new(self.node().clone(), self.registry.clone(), self.inboxes.clone(), self.world.clock.clone());
        let (spec, replicas) = (self.spec.clone(), self.world.replicas);
        service(
            self.node().as_str(),
            "messages",
            Arc::new(move || {
                let (room, spec) = (room.clone(), spec.clone());
                Box::pin(
                    async move { receive_mail(room, &spec, replicas).await.err().map_or_else(String::new, |error| format!("{error:#}")) },
                )
            }),
        )
    }

    /// One pool per role that this release can run, and all their agents.
    fn first_pools(&self, branch: &Branch) -> (Vec<ChildSpec>, Vec<AgentInfo>) {
        let table = self.roles.get();
        let runnable = table.roles.runnable();
        let pools = runnable.map(|(role, config)| branch.pools.pool(role, config, config.replicas.count(branch.capacity)));
        let (pools, agents): (Vec<ChildSpec>, Vec<Vec<AgentInfo>>) = pools.unzip();
        (pools, agents.concat())
    }

    /// Who comes and goes later. One of them reads the role files for all.
    fn staff(&self, branch: &Branch) -> ChildSpec {
        let (pools, roles, gauge) = (branch.pools.clone(), self.roles.clone(), self.world.gauge.clone());
        let files = (branch.shard == ShardId(0)).then(|| self.world.role_files.clone());
        let (capacity, agent_idle) = (branch.capacity, self.team.health.agent_idle);
        service(
            self.node().as_str(),
            &in_shard("staff", branch.shard),
            Arc::new(move || {
                let (pools, roles, gauge) = (pools.clone(), roles.clone(), gauge.clone());
                let files = files.clone().map(|(base, folders)| RoleFiles::new(base, folders));
                Box::pin(Staff { pools, roles, files, gauge, capacity, agent_idle }.keep())
            }),
        )
    }
}

/// Until the connection or the consumer is gone.
async fn receive_mail(room: MailRoom, spec: &NodeSpec, replicas: usize) -> anyhow::Result<()> {
    let name = format!("amphi {} messages", spec.node);
    let client = connect_node(&spec.nats, &name, spec.node.as_str()).await?;
    let edge = match &spec.edge {
        Some(url) => connect_node(url, &name, spec.node.as_str()).await?,
        None => client.clone(),
    };
    let mail = NatsAgentMail::open(&client, &edge, replicas).await?;
    let bus: Arc<dyn MessageBus> = Arc::new(NatsBus::across(client.clone(), edge.clone()));
    tokio::select! {
        delivered = room.deliver(&mail) => delivered?,
        () = room.answer(&mail, bus.clone()) => {}
        () = room.show(&*bus) => {}
        () = super::given_up(&client) => {}
        () = super::given_up(&edge) => {}
    }
    anyhow::bail!("the messages ended")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
