//! The supervision tree of a node: bus, Manager's seat, gateway, desk, one pool of agents per role. Start order is dependency order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use amphi_adapters::nats::{NatsAgentMail, NatsBus, connect_later};
use amphi_agents::desk::wiring::serve_commands;
use amphi_agents::mail::MailRoom;
use amphi_agents::manager::campaign::Candidacy;
use amphi_agents::manager::wiring::{serve_deaths, serve_heartbeats, serve_inputs};
use amphi_agents::manager::{Manager, ManagerArguments};
use amphi_agents::{BusLeaderLink, Desk, DeskArguments, DeskHandle, DeskSettings, Jobs, ManagerHandle};
use amphi_config::{RoleFiles, TeamConfig};
use amphi_coordination::liveness::Periods;
use amphi_ports::MessageBus;
use amphi_protocol::ids::{Incarnation, NodeId};
use amphi_protocol::journal::AgentInfo;
use amphi_protocol::subjects;
use amphi_supervisors::{
    ChildSpec, Intensity, OnExhausted, Supervisor, SupervisorArguments, SupervisorMessage, SupervisorSpec, TreeBoard, no_hook,
};
use anyhow::Context as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};

use super::pools::Pools;
use super::service::service;
use super::staff::{LiveRoles, Staff, announce};
use super::world::{SHARD, Seat, World};
use crate::gateway::{Gateway, GatewayLimits};
use crate::up::NodeSpec;

/// A request with inputs waits for its commit at most so long; then it is sent again.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);
/// A node ends its fenced attempts so long after the lease of a Manager that does not hear it.
const FENCE_BEYOND_LEASE: Duration = Duration::from_secs(10);
/// Their locks are granted so long after that.
const GRANT_BEYOND_FENCE: Duration = Duration::from_secs(5);

/// A planted tree.
pub struct Tree {
    pub root: ActorRef<SupervisorMessage>,
    pub desk: DeskHandle,
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

struct Planting<'a> {
    spec: &'a NodeSpec,
    incarnation: Incarnation,
    home: String,
    team: &'a TeamConfig,
    world: World,
    board: Arc<TreeBoard>,
    desk: DeskHandle,
    manager: ManagerHandle,
    jobs: Arc<Jobs>,
    pools: Arc<Pools>,
    roles: Arc<LiveRoles>,
    serving: Arc<AtomicBool>,
    leases_held: Arc<AtomicUsize>,
}

impl Tree {
    /// Starts everything.
    pub async fn plant(spec: &NodeSpec, life: Life, team: &TeamConfig, world: World) -> anyhow::Result<Self> {
        let desk = DeskHandle::new();
        let jobs = Jobs::new(world.engine.clone(), desk.clone());
        let board = TreeBoard::new();
        let pools = Pools::new(spec.node.clone(), board.clone(), jobs.clone(), desk.clone(), &world);
        let (base, folders) = world.role_files.clone();
        let table = RoleFiles::new(base, folders).look().unwrap_or_default();
        announce(&table);
        let planting = Planting {
            spec,
            incarnation: life.incarnation,
            home: life.home,
            team,
            world,
            board,
            desk: desk.clone(),
            manager: ManagerHandle::default(),
            jobs,
            pools,
            roles: LiveRoles::new(table),
            serving: Arc::default(),
            leases_held: Arc::default(),
        };
        let arguments = SupervisorArguments { spec: planting.root(), board: planting.board.clone(), on_child_event: no_hook() };
        let (root, _) = Supervisor::spawn(arguments).await.context("the root supervisor cannot start")?;
        Ok(Self { root, desk, serving: planting.serving })
    }
}

impl Planting<'_> {
    fn root(&self) -> SupervisorSpec {
        let mut children = vec![self.bus_link()];
        if let Some(seat) = &self.world.seat {
            // The gateway asks the Manager in its own process, or passes on to where it leads.
            children.extend([self.seat(seat), self.inputs_door(), self.heartbeats_door(), self.deaths_door(), self.gateway(seat)]);
        }
        let (pools, agents) = self.first_pools();
        children.push(self.desk(agents));
        children.push(self.commands_door());
        children.extend(pools);
        children.push(self.staff());
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

    fn seat(&self, seat: &Seat) -> ChildSpec {
        let health = &self.team.health;
        let node_dead_ms = millis(health.node_dead);
        let arguments = ManagerArguments {
            node: self.node().clone(),
            shard: SHARD,
            journal: seat.journal.clone(),
            objects: self.world.objects.clone(),
            events: self.world.events.clone(),
            mail: self.world.mail.clone(),
            bus: self.world.bus.clone(),
            memory: self.world.memory.clone(),
            clock: self.world.clock.clone(),
            handle: self.manager.clone(),
            upkeep: self.world.upkeep,
            candidacy: Candidacy { lease: seat.lease.clone(), home: self.home.clone(), ttl: self.lease(), held: self.leases_held.clone() },
            periods: Periods { node_dead_ms, fence_ms: millis(self.lease() + FENCE_BEYOND_LEASE + GRANT_BEYOND_FENCE) },
        };
        let name = format!("{}/manager-0", self.node());
        ChildSpec::worker("manager-0", move |parent: ActorCell| -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
            let (name, arguments) = (name.clone(), arguments.clone());
            Box::pin(async move { Ok(Actor::spawn_linked(Some(name), Manager, arguments, parent).await?.0.get_cell()) })
        })
    }

    fn inputs_door(&self) -> ChildSpec {
        let (bus, manager) = (self.world.bus.clone(), self.manager.clone());
        service(
            self.node().as_str(),
            "inputs",
            Arc::new(move || {
                let (bus, manager) = (bus.clone(), manager.clone());
                Box::pin(async move {
                    serve_inputs(bus, SHARD, manager).await;
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    fn heartbeats_door(&self) -> ChildSpec {
        let (bus, manager) = (self.world.bus.clone(), self.manager.clone());
        service(
            self.node().as_str(),
            "heartbeats",
            Arc::new(move || {
                let (bus, manager) = (bus.clone(), manager.clone());
                Box::pin(async move {
                    serve_heartbeats(bus, SHARD, manager).await;
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    fn deaths_door(&self) -> ChildSpec {
        let (bus, manager) = (self.world.bus.clone(), self.manager.clone());
        service(
            self.node().as_str(),
            "deaths",
            Arc::new(move || {
                let (bus, manager) = (bus.clone(), manager.clone());
                Box::pin(async move {
                    serve_deaths(bus, SHARD, manager).await;
                    "the subscription ended".to_owned()
                })
            }),
        )
    }

    fn gateway(&self, seat: &Seat) -> ChildSpec {
        let world = &self.world;
        let gateway = Arc::new(Gateway {
            manager: self.manager.clone(),
            bus: world.bus.clone(),
            objects: world.objects.clone(),
            journal: seat.journal.clone(),
            join: self.spec.join.clone(),
            output: world.output.clone(),
            tools: world.tools.clone(),
            fault_tools: world.fault_tools.clone(),
            roles: self.roles.clone(),
            limits: GatewayLimits { documents: self.team.limits.of_documents(), admission: self.team.limits.of_admission() },
            shard: SHARD,
            serving: self.serving.clone(),
            history: Default::default(),
        });
        let (nats, name) = (self.spec.nats.clone(), format!("amphi {} gateway", self.node()));
        service(
            self.node().as_str(),
            "gateway",
            Arc::new(move || {
                let (gateway, nats, name) = (gateway.clone(), nats.clone(), name.clone());
                Box::pin(async move {
                    let client = match connect_later(&nats, &name).await {
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
    fn desk(&self, agents: Vec<AgentInfo>) -> ChildSpec {
        let (restarting, leaving) = (self.pools.clone(), self.pools.clone());
        let health = &self.team.health;
        let arguments = DeskArguments {
            node: self.node().clone(),
            incarnation: self.incarnation,
            pid: std::process::id(),
            capacity: self.spec.capacity,
            labels: self.spec.labels.clone(),
            agents,
            shard: SHARD,
            registry: self.pools.registry.clone(),
            jobs: self.jobs.clone(),
            link: Arc::new(BusLeaderLink::new(self.world.bus.clone(), self.node().clone(), SHARD, LINK_TIMEOUT)),
            bus: self.world.bus.clone(),
            handle: self.desk.clone(),
            restart_agent: Arc::new(move |agent| restarting.restart(agent)),
            agent_left: Arc::new(move |agent| leaving.left(agent)),
            home: self.home.clone(),
            uptime: Arc::new(amphi_adapters::process::uptime),
            settings: DeskSettings { heartbeat: health.heartbeat, fence: self.lease() + FENCE_BEYOND_LEASE, ..DeskSettings::default() },
        };
        let name = format!("{}/desk", self.node());
        let start = move |parent: ActorCell| -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
            let (name, arguments) = (name.clone(), arguments.clone());
            Box::pin(async move { Ok(Actor::spawn_linked(Some(name), Desk, arguments, parent).await?.0.get_cell()) })
        };
        ChildSpec::worker("desk", start).limited(Intensity { max: 0, within: Duration::from_secs(60) }, OnExhausted::Escalate)
    }

    fn commands_door(&self) -> ChildSpec {
        let (bus, node, desk) = (self.world.bus.clone(), self.node().clone(), self.desk.clone());
        service(
            self.node().as_str(),
            "commands",
            Arc::new(move || {
                let (bus, node, desk) = (bus.clone(), node.clone(), desk.clone());
                Box::pin(async move {
                    match serve_commands(bus, node, desk).await {
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
        let room = MailRoom::new(self.node().clone(), self.pools.registry.clone(), self.pools.inboxes.clone(), self.world.clock.clone());
        let (nats, name) = (self.spec.nats.clone(), format!("amphi {} messages", self.node()));
        let replicas = self.world.replicas;
        service(
            self.node().as_str(),
            "messages",
            Arc::new(move || {
                let (room, nats, name) = (room.clone(), nats.clone(), name.clone());
                Box::pin(async move {
                    receive_mail(room, &nats, &name, replicas).await.err().map_or_else(String::new, |error| format!("{error:#}"))
                })
            }),
        )
    }

    /// One pool per role that this release can run, and all their agents.
    fn first_pools(&self) -> (Vec<ChildSpec>, Vec<AgentInfo>) {
        let table = self.roles.get();
        let runnable = table.roles.runnable();
        let pools = runnable.map(|(role, config)| self.pools.pool(role, config, config.replicas.count(self.spec.capacity)));
        let (pools, agents): (Vec<ChildSpec>, Vec<Vec<AgentInfo>>) = pools.unzip();
        (pools, agents.concat())
    }

    /// Who comes and goes later.
    fn staff(&self) -> ChildSpec {
        let (pools, roles, gauge) = (self.pools.clone(), self.roles.clone(), self.world.gauge.clone());
        let (files, capacity, agent_idle) = (self.world.role_files.clone(), self.spec.capacity, self.team.health.agent_idle);
        service(
            self.node().as_str(),
            "staff",
            Arc::new(move || {
                let (pools, roles, gauge) = (pools.clone(), roles.clone(), gauge.clone());
                let files = RoleFiles::new(files.0.clone(), files.1.clone());
                Box::pin(Staff { pools, roles, files, gauge, capacity, agent_idle }.keep())
            }),
        )
    }
}

/// Until the connection or the consumer is gone.
async fn receive_mail(room: MailRoom, nats: &str, name: &str, replicas: usize) -> anyhow::Result<()> {
    let client = connect_later(nats, name).await?;
    let mail = NatsAgentMail::open(&client, replicas).await?;
    let bus: Arc<dyn MessageBus> = Arc::new(NatsBus::new(client.clone()));
    tokio::select! {
        delivered = room.deliver(&mail) => delivered?,
        () = room.answer(&mail, bus.clone()) => {}
        () = room.show(&*bus) => {}
        () = super::given_up(&client) => {}
    }
    anyhow::bail!("the messages ended")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
