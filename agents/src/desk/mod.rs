//! The node's desk: the one actor between the leader and the agents of this node. It takes commands, keeps the memory of the attempts
//! that the node holds, gives each to its agent, and reports.
//!
//! It never decides what is to run or who lives, and its handlers never wait. Its memory is the only truth about this life of the
//! node, so it is not restarted: a node whose desk has died ends, and joins with a new incarnation.
//!
//! Start at [`attempts`] (the way of an attempt), then [`agents`] (who is there), [`traffic`] (joining, verdicts, heartbeats, draining)
//! and [`wiring`] (the bus).

mod agents;
mod attempts;
mod effects;
mod fence;
mod memory;
mod staff;
mod traffic;
pub mod wiring;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use amphi_ports::MessageBus;
use amphi_protocol::ids::{AgentId, AttemptRef, Epoch, Incarnation, NodeId, RoleName, ShardId};
use amphi_protocol::journal::{AgentInfo, AgentLife, EffectEnd, EffectIntent, StaffCause};
use amphi_protocol::node::{HeartbeatAnswer, NodeAnswer, NodeCommand};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::jobs::{JobReport, Jobs};
use crate::link::LeaderLink;
use crate::outbox::{Outbox, Settlement};
use crate::registry::AgentRegistry;

use agents::AgentSlot;
use attempts::Held;
pub use effects::DeskLedger;
pub use fence::Uptime;
use memory::Recent;
use staff::Leaving;
use traffic::{Drain, Membership};
use wiring::Beat;

/// The actor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Desk;

/// Replaces an agent on a person's word, also out of quarantine. It must return at once.
pub type RestartAgent = Arc<dyn Fn(&AgentId) + Send + Sync>;

/// What a desk needs to start.
#[derive(Clone)]
pub struct DeskArguments {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its process.
    pub pid: u32,
    /// How many tasks it runs at once.
    pub capacity: u32,
    /// Labels, `key` to `value`.
    pub labels: BTreeMap<String, String>,
    /// All its agents, started or not.
    pub agents: Vec<AgentInfo>,
    /// The shard that it serves.
    pub shard: ShardId,
    /// Where the agents' actors are found.
    pub registry: AgentRegistry,
    /// The jobs; their news comes to `handle`.
    pub jobs: Arc<Jobs>,
    /// The way to the leader.
    pub link: Arc<dyn LeaderLink>,
    /// For heartbeats.
    pub bus: Arc<dyn MessageBus>,
    /// How others reach this desk; the desk attaches itself when it starts.
    pub handle: DeskHandle,
    /// How an agent is replaced.
    pub restart_agent: RestartAgent,
    /// An agent has left; its actor can go. It must return at once.
    pub agent_left: RestartAgent,
    /// Names the data folder that the node lives in.
    pub home: String,
    /// The clock of the fence.
    pub uptime: Uptime,
    /// Times.
    pub settings: DeskSettings,
}

/// The desk's times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeskSettings {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Between two pings of a busy agent.
    pub ping: Duration,
    /// An agent that is silent for so long is hung: its handlers never wait for the world.
    pub hung_after: Duration,
    /// An agent that does not hear a cancel in this time is hung.
    pub cancel_heard: Duration,
    /// A claim that is not on record after this time is given up, and the attempt does not begin.
    pub claim: Duration,
    /// The node joins when all agents have started, or after this time.
    pub staffing: Duration,
    /// After draining, how long the last reports may take to be acknowledged.
    pub flush: Duration,
    /// Attempts with a write lock or `retry: 0` are ended so long after the sending of the last heartbeat that was acknowledged:
    /// the Manager's lease and 10 s. The Manager gives their locks on 5 s after that, and not before.
    pub fence: Duration,
}

impl Default for DeskSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            ping: Duration::from_secs(2),
            hung_after: Duration::from_secs(10),
            cancel_heard: Duration::from_secs(2),
            claim: Duration::from_secs(5),
            staffing: Duration::from_secs(10),
            flush: Duration::from_secs(5),
            fence: Duration::from_secs(13),
        }
    }
}

/// What a desk hears.
#[derive(Debug)]
pub enum DeskMessage {
    /// The leader commands.
    Command(Box<NodeCommand>, RpcReplyPort<NodeAnswer>),
    /// A job (or an agent in its place) has news.
    Job {
        /// Its attempt.
        attempt: AttemptRef,
        /// The news.
        report: JobReport,
    },
    /// A tool is about to bring something about outside.
    Intend {
        /// Its attempt.
        attempt: AttemptRef,
        /// What.
        intent: EffectIntent,
        /// Hears `true` when it is on record; dropped if the attempt is over.
        reply: RpcReplyPort<bool>,
    },
    /// What became of that.
    EffectEnded {
        /// Its attempt.
        attempt: AttemptRef,
        /// The effect.
        effect: String,
        /// What became of it.
        end: EffectEnd,
    },
    /// An agent that is busy was given another attempt.
    Declined {
        /// That attempt.
        attempt: AttemptRef,
    },
    /// An agent heard the cancel.
    CancelHeard {
        /// Of this attempt.
        attempt: AttemptRef,
    },
    /// An agent answers a ping.
    Pong {
        /// Who.
        agent: AgentId,
        /// Which of its actors.
        actor: ActorId,
    },
    /// A supervisor saw an agent end.
    AgentExited {
        /// The agent.
        agent: AgentId,
        /// Why.
        reason: String,
    },
    /// A supervisor started an agent (again).
    AgentUp {
        /// The agent.
        agent: AgentId,
        /// How often it was started again so far.
        restarts: u32,
    },
    /// A supervisor gave an agent up.
    AgentQuarantined {
        /// The agent.
        agent: AgentId,
        /// Its last failure.
        reason: String,
    },
    /// An actor that the desk killed is dead.
    ActorDead {
        /// Its agent.
        agent: AgentId,
        /// Which of its actors.
        actor: ActorId,
        /// Why it was killed.
        reason: String,
    },
    /// Agents have been started beside those that were there.
    Hire {
        /// Who.
        added: Vec<AgentInfo>,
        /// Why.
        cause: StaffCause,
    },
    /// An agent is to leave: it finishes what it does. Its actor may end when [`DeskArguments::agent_left`] says so.
    Dismiss {
        /// Who.
        agent: AgentId,
        /// Why.
        cause: StaffCause,
        /// It takes nothing new; otherwise it leaves only if it has nothing to do.
        for_sure: bool,
    },
    /// Time to try again whether an agent can leave.
    LeaveDue {
        /// Who.
        agent: AgentId,
    },
    /// The leader gave verdicts.
    Settled(Settlement),
    /// Time for a claim is up.
    ClaimOverdue {
        /// Of this attempt.
        attempt: AttemptRef,
    },
    /// Time to hear a cancel is up.
    CancelOverdue {
        /// Of this attempt.
        attempt: AttemptRef,
    },
    /// Time to ping.
    PingDue,
    /// Time for a heartbeat.
    HeartbeatDue,
    /// The Manager acknowledges a heartbeat.
    HeartbeatAnswered {
        /// When the heartbeat was sent, by [`DeskArguments::uptime`].
        sent_at: Duration,
        /// What it says.
        answer: HeartbeatAnswer,
    },
    /// Time to look at the fence.
    FenceDue,
    /// Time to see whether the node can join.
    JoinDue,
    /// Take nothing new, let what runs finish for `grace`, end the rest, tell the leader; then answer.
    Drain {
        /// How long running jobs may go on.
        grace: Duration,
        /// Answered when all is done.
        reply: RpcReplyPort<Drained>,
    },
    /// The grace is over.
    GraceOver,
    /// What the desk knows.
    Snapshot(RpcReplyPort<DeskSnapshot>),
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Every report is acknowledged; otherwise the next life of the node makes up for it.
    pub reported: bool,
}

/// What a desk knows, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeskSnapshot {
    /// The leader took the node in.
    pub joined: bool,
    /// The leader refuses to take the node in, and why; it may pass.
    pub refused: Option<String>,
    /// It takes nothing new.
    pub draining: bool,
    /// The newest term seen.
    pub epoch: Epoch,
    /// Inputs without a verdict.
    pub unsettled: usize,
    /// How many tasks wait for each role, as the leader said last.
    pub waiting: BTreeMap<RoleName, u32>,
    /// The agents.
    pub agents: Vec<AgentSnapshot>,
}

/// One agent as its desk sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSnapshot {
    /// Who it is.
    pub info: AgentInfo,
    /// Whether it can work.
    pub life: AgentLife,
    /// Restarts in this life of the node.
    pub restarts: u32,
    /// What it has.
    pub attempt: Option<AttemptRef>,
    /// How long it has had nothing to do; zero while it has.
    pub idle: Duration,
    /// It is to leave.
    pub leaving: bool,
}

/// How everybody on the node reaches the desk. It may be handed out before the desk starts; until then what is told is lost, and
/// nothing has happened that would be worth telling.
#[derive(Clone, Default)]
pub struct DeskHandle(Arc<OnceLock<ActorRef<DeskMessage>>>);

impl DeskHandle {
    /// A handle of a desk that is to be started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends without waiting.
    pub fn tell(&self, message: DeskMessage) {
        if self.0.get().is_none_or(|desk| desk.cast(message).is_err()) {
            tracing::debug!("a message for the desk is lost: the desk is not there");
        }
    }

    /// A supervisor saw an agent end.
    pub fn agent_exited(&self, agent: AgentId, reason: String) {
        self.tell(DeskMessage::AgentExited { agent, reason });
    }

    /// A supervisor started an agent, for the first time (`restarts` 0) or again.
    pub fn agent_up(&self, agent: AgentId, restarts: u32) {
        self.tell(DeskMessage::AgentUp { agent, restarts });
    }

    /// A supervisor gave an agent up.
    pub fn agent_quarantined(&self, agent: AgentId, reason: String) {
        self.tell(DeskMessage::AgentQuarantined { agent, reason });
    }

    /// Drains the desk; `None` if it died meanwhile. Takes up to `grace`, the end of the processes, and [`DeskSettings::flush`].
    pub async fn drain(&self, grace: Duration) -> Option<Drained> {
        self.ask(|reply| DeskMessage::Drain { grace, reply }).await
    }

    /// What the desk knows; `None` if it is not there.
    pub async fn snapshot(&self) -> Option<DeskSnapshot> {
        self.ask(DeskMessage::Snapshot).await
    }

    /// Hands a command over and waits for the answer; `None` if the desk is not there.
    pub async fn command(&self, command: NodeCommand) -> Option<NodeAnswer> {
        self.ask(|reply| DeskMessage::Command(Box::new(command), reply)).await
    }

    async fn ask<T: Send + 'static>(&self, message: impl FnOnce(RpcReplyPort<T>) -> DeskMessage) -> Option<T> {
        let desk = self.0.get()?;
        let (sender, receiver) = ractor::concurrency::oneshot();
        let sent: Result<(), MessagingErr<DeskMessage>> = desk.cast(message(sender.into()));
        sent.ok()?;
        receiver.await.ok()
    }
}

/// The desk's memory.
pub struct DeskState {
    arguments: DeskArguments,
    myself: ActorRef<DeskMessage>,
    /// The newest term seen; older ones are refused.
    epoch: Epoch,
    held: BTreeMap<AttemptRef, Held>,
    /// Attempts that ended or never began here; whatever comes late for them changes nothing.
    ended: Recent,
    agents: BTreeMap<AgentId, AgentSlot>,
    outbox: Outbox,
    membership: Membership,
    waiting: BTreeMap<RoleName, u32>,
    drain: Option<Drain>,
    /// When the last heartbeat that was acknowledged was sent, by the node's own clock.
    acknowledged: Duration,
    /// Since when the node is a member.
    joined_at: Duration,
    /// Why the leader did not take the node in the last time.
    join_refused: Option<String>,
    heartbeats: mpsc::Sender<Beat>,
    _heartbeat_task: AbortOnDropHandle<()>,
}

impl DeskState {
    /// Sends the desk a message after a while.
    fn later(&self, after: Duration, message: DeskMessage) {
        // Nobody waits for the timer; it ends with the actor.
        drop(self.myself.send_after(after, move || message));
    }
}

impl Actor for Desk {
    type Msg = DeskMessage;
    type State = DeskState;
    type Arguments = DeskArguments;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, arguments: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        if arguments.handle.0.set(myself.clone()).is_err() {
            return Err("this life of the node had a desk already; its memory is lost, so the node must end".into());
        }
        let told = myself.clone();
        let outbox = Outbox::start(arguments.link.clone(), arguments.uptime.clone(), move |settlement| {
            // A desk that is gone needs no verdicts.
            let _ = told.cast(DeskMessage::Settled(settlement));
        });
        let (heartbeats, due) = mpsc::channel(1);
        let heartbeat_task = tokio::spawn(wiring::send_heartbeats(arguments.bus.clone(), arguments.shard, due, myself.clone()));
        // These tasks end with the actor.
        drop(myself.send_interval(arguments.settings.ping, || DeskMessage::PingDue));
        drop(myself.send_interval(arguments.settings.heartbeat, || DeskMessage::HeartbeatDue));
        drop(myself.send_interval(fence::FENCE_PERIOD, || DeskMessage::FenceDue));
        myself.cast(DeskMessage::JoinDue)?;
        let agents = arguments.agents.iter().map(|info| (info.agent.clone(), AgentSlot::new(info.clone()))).collect();
        let now = (arguments.uptime)();
        Ok(DeskState {
            acknowledged: now,
            joined_at: now,
            join_refused: None,
            membership: Membership::staffing(&arguments.settings),
            myself,
            arguments,
            epoch: Epoch(0),
            held: BTreeMap::new(),
            ended: Recent::default(),
            agents,
            outbox,
            waiting: BTreeMap::new(),
            drain: None,
            heartbeats,
            _heartbeat_task: AbortOnDropHandle::new(heartbeat_task),
        })
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, message: Self::Msg, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        // First: whoever was stopped for long must not act on what came meanwhile.
        state.fence();
        match message {
            DeskMessage::Command(command, reply) => {
                let answer = state.command(*command);
                // Whoever asked may have given up; a command is sent again until it is confirmed.
                let _ = reply.send(answer);
            }
            DeskMessage::Job { attempt, report } => state.job(&attempt, report),
            DeskMessage::Intend { attempt, intent, reply } => state.intend(&attempt, intent, reply),
            DeskMessage::EffectEnded { attempt, effect, end } => state.effect_ended(&attempt, effect, end),
            DeskMessage::Declined { attempt } => state.declined(&attempt),
            DeskMessage::CancelHeard { attempt } => state.cancel_heard(&attempt),
            DeskMessage::Pong { agent, actor } => state.pong(&agent, actor),
            DeskMessage::AgentExited { agent, reason } => state.agent_exited(&agent, &reason),
            DeskMessage::AgentUp { agent, restarts } => state.agent_up(&agent, restarts),
            DeskMessage::AgentQuarantined { agent, reason } => state.agent_quarantined(&agent, &reason),
            DeskMessage::ActorDead { agent, actor, reason } => state.actor_dead(&agent, actor, &reason),
            DeskMessage::Hire { added, cause } => state.hire(added, cause),
            DeskMessage::Dismiss { agent, cause, for_sure } => state.dismiss(&agent, Leaving { cause, for_sure }),
            DeskMessage::LeaveDue { agent } => state.leave_if_idle(&agent),
            DeskMessage::Settled(settlement) => state.settled(settlement),
            DeskMessage::ClaimOverdue { attempt } => state.claim_overdue(&attempt),
            DeskMessage::CancelOverdue { attempt } => state.cancel_overdue(&attempt),
            DeskMessage::PingDue => state.ping(),
            DeskMessage::HeartbeatDue => state.heartbeat(),
            DeskMessage::HeartbeatAnswered { sent_at, answer } => state.heartbeat_answered(sent_at, answer),
            DeskMessage::FenceDue => {}
            DeskMessage::JoinDue => state.join_due(),
            DeskMessage::Drain { grace, reply } => state.drain(grace, reply),
            DeskMessage::GraceOver => state.grace_over(),
            DeskMessage::Snapshot(reply) => {
                let _ = reply.send(state.snapshot());
            }
        }
        state.after_each();
        Ok(())
    }
}
