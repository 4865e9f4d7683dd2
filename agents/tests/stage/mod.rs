//! A node without NATS and without processes: a fake engine, a fake leader, a fake bus and the smallest supervisor that restarts.
#![allow(dead_code, reason = "each test file uses its part of the stage")]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphi_agents::registry::AgentRegistry;
use amphi_agents::{
    Desk, DeskArguments, DeskHandle, DeskSettings, Jobs, LeaderLink, LeaderReply, LinkError, RoleProfile, Specialist, SpecialistArguments,
    Verdict,
};
use amphi_ports::{BusError, BusMessage, Engine, JobNews, JobOrder, MessageBus};
use amphi_protocol::document::{Work, Workspace};
use amphi_protocol::ids::{AgentId, AttemptRef, CommitIndex, EpicId, Epoch, Incarnation, NodeId, RoleName, ShardId, Token};
use amphi_protocol::journal::{AgentLife, AgentReport, AttemptEnd, AttemptNews, Input, Outcome};
use amphi_protocol::node::{Assignment, HeartbeatAnswer, Job, NodeAnswer, NodeCommand, Order, Standing};
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Generous, and virtual: tests run with paused time.
const DEADLINE: Duration = Duration::from_secs(120);

pub fn attempt(i: u32) -> AttemptRef {
    AttemptRef { epic: EpicId::parse("epic-1").unwrap(), i, run: 1, attempt: 1 }
}

/// An engine whose tools are named in the test.
#[derive(Default)]
pub struct FakeEngine {
    /// Every job that began.
    pub begun: Mutex<Vec<AttemptRef>>,
    /// Jobs whose "processes" live.
    pub alive: Arc<AtomicUsize>,
}

fn end(outcome: Outcome) -> AttemptEnd {
    AttemptEnd { outcome, exit_code: None, error: None, outputs: BTreeMap::new(), artifacts: Vec::new() }
}

impl Engine for FakeEngine {
    fn run(&self, order: JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> BoxFuture<'static, AttemptEnd> {
        self.begun.lock().unwrap().push(order.attempt.clone());
        let alive = self.alive.clone();
        async move {
            let Work::Tool { tool, with } = &order.job.work else { panic!("the stage knows only tools") };
            alive.fetch_add(1, Ordering::SeqCst);
            let _ = news.send(JobNews::Started { pid: Some(order.attempt.i) });
            let outcome = match tool.as_str() {
                "noop" => Outcome::Succeeded,
                "sleep" => {
                    let ms = with.get("ms").and_then(Value::as_u64).unwrap_or(60_000);
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(ms)) => Outcome::Succeeded,
                        () = cancel.cancelled() => Outcome::Cancelled,
                    }
                }
                // Needs its time to die, and less when it is told to hurry.
                "slow_to_die" => {
                    cancel.cancelled().await;
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs(5)) => {}
                        () = order.hurry.cancelled() => {}
                    }
                    Outcome::Cancelled
                }
                // Needs 5 s to die, as a process that ignores TERM does.
                "stubborn" => {
                    cancel.cancelled().await;
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    Outcome::Cancelled
                }
                "chatty" => {
                    for percent in 0..100 {
                        let _ = news.send(JobNews::Progress { percent: Some(percent), message: None });
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Outcome::Succeeded
                }
                "engine_panic" => {
                    alive.fetch_sub(1, Ordering::SeqCst);
                    panic!("the engine has a defect")
                }
                other => panic!("no tool {other}"),
            };
            alive.fetch_sub(1, Ordering::SeqCst);
            end(outcome)
        }
        .boxed()
    }
}

/// How the leader behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Takes what comes.
    Present,
    /// Nobody leads.
    Away,
    /// Takes it, and the answer is lost.
    Mute,
}

/// A leader that keeps what a journal would: each input once.
pub struct FakeLeader {
    mood: Mutex<Mood>,
    journal: Mutex<Vec<Input>>,
    refusals: Mutex<HashMap<AttemptRef, &'static str>>,
    /// The node is known.
    member: AtomicBool,
    requests: AtomicUsize,
    changed: Notify,
}

impl FakeLeader {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(Mood::Present),
            journal: Mutex::default(),
            refusals: Mutex::default(),
            member: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// From now on reports of this attempt are refused.
    pub fn refuse(&self, attempt: AttemptRef, code: &'static str) {
        self.refusals.lock().unwrap().insert(attempt, code);
    }

    /// The node is not known any more.
    pub fn forget_node(&self) {
        self.member.store(false, Ordering::SeqCst);
    }

    pub fn journal(&self) -> Vec<Input> {
        self.journal.lock().unwrap().clone()
    }

    /// What was told of an attempt, in order.
    pub fn news(&self, attempt: &AttemptRef) -> Vec<AttemptNews> {
        let of = |input: Input| match input {
            Input::Attempt(report) if report.attempt == *attempt => Some(report.what),
            _ => None,
        };
        self.journal().into_iter().filter_map(of).collect()
    }

    pub fn outcome(&self, attempt: &AttemptRef) -> Option<Outcome> {
        self.news(attempt).into_iter().find_map(|news| match news {
            AttemptNews::Ended(end) => Some(end.outcome),
            _ => None,
        })
    }

    /// What was told of agents, in order.
    pub fn agent_reports(&self) -> Vec<(AgentId, AgentLife, u32)> {
        let of = |input: Input| match input {
            Input::Agent(AgentReport { agent, state, restarts, .. }) => Some((agent, state, restarts)),
            _ => None,
        };
        self.journal().into_iter().filter_map(of).collect()
    }

    /// Waits until the journal is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if wanted(self) {
                    return;
                }
                changed.await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, wait).await.is_ok();
        assert!(in_time, "in vain: {what}; the journal: {:#?}", self.journal());
    }

    pub async fn until_ended(&self, attempt: &AttemptRef) -> Outcome {
        self.until(&format!("the end of {attempt}"), |leader| leader.outcome(attempt).is_some()).await;
        self.outcome(attempt).unwrap()
    }

    fn take(&self, input: &Input) -> Verdict {
        let refusal = match input {
            Input::Attempt(report) => self.refusals.lock().unwrap().get(&report.attempt).copied(),
            _ => None,
        };
        let mut journal = self.journal.lock().unwrap();
        let known = match input {
            Input::Join(_) => self.member.swap(true, Ordering::SeqCst),
            _ => journal.contains(input),
        };
        match (refusal, known) {
            (Some(code), _) => Verdict::Refused(code.to_owned()),
            (None, true) => Verdict::Refused("known already".to_owned()),
            (None, false) => {
                journal.push(input.clone());
                Verdict::Accepted
            }
        }
    }
}

pub struct FakeLink(pub Arc<FakeLeader>);

impl LeaderLink for FakeLink {
    fn send(&self, inputs: Vec<Input>) -> BoxFuture<'static, Result<LeaderReply, LinkError>> {
        let leader = self.0.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            leader.requests.fetch_add(1, Ordering::SeqCst);
            let mood = leader.mood();
            let results = match mood {
                Mood::Away => Err(LinkError::NoLeader),
                Mood::Present | Mood::Mute => Ok(inputs.iter().map(|input| leader.take(input)).collect()),
            };
            leader.changed.notify_waiters();
            match (mood, results) {
                (_, Err(error)) => Err(error),
                (Mood::Mute, Ok(_)) => Err(LinkError::Unknown(BusError::Timeout { subject: "leader".to_owned() })),
                (_, Ok(results)) => Ok(LeaderReply { epoch: Epoch(1), index: CommitIndex(1), results }),
            }
        }
        .boxed()
    }
}

/// A bus that remembers what was published and lets the test speak.
#[derive(Default)]
pub struct FakeBus {
    pub published: Mutex<Vec<BusMessage>>,
    pub changed: Notify,
    pub down: AtomicBool,
    /// What a request is answered with; without it nobody listens.
    pub answer: Mutex<Option<String>>,
    /// What the leader makes of heartbeats; without it they are heard and not answered.
    pub standing: Mutex<Option<Standing>>,
    subscribers: Mutex<HashMap<String, mpsc::UnboundedSender<BusMessage>>>,
}

impl FakeBus {
    pub fn deliver(&self, message: BusMessage) {
        let subscribers = self.subscribers.lock().unwrap();
        subscribers.get(&message.subject).expect("somebody listens").send(message).unwrap();
    }

    async fn hear_heartbeat(
        &self,
        subject: String,
        headers: BTreeMap<String, String>,
        body: Bytes,
        timeout: Duration,
    ) -> Result<BusMessage, BusError> {
        self.publish(subject.clone(), headers, body).await?;
        let standing = *self.standing.lock().unwrap();
        let Some(standing) = standing else {
            tokio::time::sleep(timeout).await;
            return Err(BusError::Timeout { subject });
        };
        tokio::time::sleep(Duration::from_millis(2)).await;
        let body = codec::encode(&HeartbeatAnswer { epoch: Epoch(1), standing, waiting: BTreeMap::new() });
        Ok(BusMessage { subject, reply: None, headers: BTreeMap::new(), body: Bytes::from(body) })
    }

    pub fn listens(&self, subject: &str) -> bool {
        self.subscribers.lock().unwrap().contains_key(subject)
    }

    /// The next message on `subject` that the test has not taken yet.
    pub async fn next(&self, subject: &str) -> BusMessage {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let mut published = self.published.lock().unwrap();
                    if let Some(position) = published.iter().position(|message| message.subject == subject) {
                        return published.remove(position);
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("a message comes in time")
    }
}

impl MessageBus for FakeBus {
    fn publish(&self, subject: String, headers: BTreeMap<String, String>, body: Bytes) -> BoxFuture<'_, Result<(), BusError>> {
        self.published.lock().unwrap().push(BusMessage { subject, reply: None, headers, body });
        self.changed.notify_waiters();
        async { Ok(()) }.boxed()
    }

    fn request(
        &self,
        subject: String,
        headers: BTreeMap<String, String>,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BusMessage, BusError>> {
        if subjects::matches(&subjects::heartbeats(ShardId(0)), &subject) {
            return self.hear_heartbeat(subject, headers, body, timeout).boxed();
        }
        let Some(answer) = self.answer.lock().unwrap().clone() else {
            return async move { Err(BusError::NoResponders { subject }) }.boxed();
        };
        let reply = BusMessage { subject: subject.clone(), reply: None, headers: BTreeMap::new(), body: Bytes::from(answer) };
        async move { self.publish(subject, headers, body).await.map(|()| reply) }.boxed()
    }

    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<BoxStream<'static, BusMessage>, BusError>> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.subscribers.lock().unwrap().insert(subject, sender);
        self.changed.notify_waiters();
        let stream: BoxStream<'static, BusMessage> = Box::pin(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        async move { Ok(stream) }.boxed()
    }

    fn is_connected(&self) -> bool {
        !self.down.load(Ordering::SeqCst)
    }

    fn connections(&self) -> u64 {
        1
    }
}

/// Restarts every agent that ends, 50 ms later, and tells the desk.
struct TestSupervisor;

struct Supervised {
    desk: DeskHandle,
    agents: HashMap<AgentId, SpecialistArguments>,
    restarts: HashMap<AgentId, u32>,
}

impl Actor for TestSupervisor {
    type Msg = AgentId;
    type State = Supervised;
    type Arguments = Supervised;

    async fn pre_start(&self, myself: ActorRef<AgentId>, arguments: Supervised) -> Result<Supervised, ActorProcessingErr> {
        for agent in arguments.agents.values() {
            Specialist::start(agent.clone(), myself.get_cell()).await?;
        }
        Ok(arguments)
    }

    async fn handle(&self, myself: ActorRef<AgentId>, agent: AgentId, state: &mut Supervised) -> Result<(), ActorProcessingErr> {
        Specialist::start(state.agents[&agent].clone(), myself.get_cell()).await?;
        let restarts = state.restarts.entry(agent.clone()).or_default();
        *restarts += 1;
        state.desk.agent_up(agent, *restarts);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<AgentId>,
        event: SupervisionEvent,
        state: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, reason): (ActorCell, String) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        let agent = AgentId::parse(&cell.get_name().unwrap()).unwrap();
        state.desk.agent_exited(agent.clone(), reason);
        drop(myself.send_after(Duration::from_millis(50), move || agent));
        Ok(())
    }
}

/// A whole node.
pub struct Stage {
    pub node: NodeId,
    pub engine: Arc<FakeEngine>,
    pub leader: Arc<FakeLeader>,
    pub bus: Arc<FakeBus>,
    pub desk: DeskHandle,
    pub agents: Vec<AgentId>,
    pub restarted: Arc<Mutex<Vec<AgentId>>>,
    pub left: Arc<Mutex<Vec<AgentId>>>,
}

pub const LIFE: Incarnation = Incarnation(1000);
static NODES: AtomicU64 = AtomicU64::new(0);

impl Stage {
    /// A node with agents, joined. Actor names are global in a process, so every node has its own.
    pub async fn with_agents(count: u32) -> Self {
        let stage = Self::starting(count, Mood::Present).await;
        stage.leader.until("the join", |leader| leader.journal().iter().any(|input| matches!(input, Input::Join(_)))).await;
        stage
    }

    /// A node that is about to join a leader in this mood.
    pub async fn starting(count: u32, mood: Mood) -> Self {
        Self::with_settings(count, mood, DeskSettings::default()).await
    }

    pub async fn with_settings(count: u32, mood: Mood, settings: DeskSettings) -> Self {
        let node = NodeId::parse(&format!("node-{}", NODES.fetch_add(1, Ordering::SeqCst))).unwrap();
        let profile =
            Arc::new(RoleProfile::new(RoleName::parse("BuildMaster").unwrap(), vec!["shell".to_owned(), "build".to_owned()], Vec::new()));
        let agents: Vec<AgentId> = (1..=count).map(|n| profile.agent_id(&node, ShardId(0), n).unwrap()).collect();
        let (engine, leader, bus) = (Arc::new(FakeEngine::default()), FakeLeader::new(), Arc::new(FakeBus::default()));
        leader.set_mood(mood);
        *bus.standing.lock().unwrap() = Some(Standing::Member);
        let (desk, registry) = (DeskHandle::new(), AgentRegistry::new());
        let jobs = Jobs::new(engine.clone(), desk.clone());
        let restarted: Arc<Mutex<Vec<AgentId>>> = Arc::default();
        let left: Arc<Mutex<Vec<AgentId>>> = Arc::default();
        let leavers = left.clone();
        let restarts = restarted.clone();
        let arguments = DeskArguments {
            node: node.clone(),
            incarnation: LIFE,
            pid: 1,
            capacity: count,
            labels: BTreeMap::new(),
            agents: agents.iter().map(|agent| profile.info(agent.clone())).collect(),
            shard: ShardId(0),
            registry: registry.clone(),
            jobs: jobs.clone(),
            link: Arc::new(FakeLink(leader.clone())),
            bus: bus.clone(),
            handle: desk.clone(),
            restart_agent: Arc::new(move |agent| restarts.lock().unwrap().push(agent.clone())),
            home: "here".to_owned(),
            uptime: {
                let boot = tokio::time::Instant::now();
                Arc::new(move || boot.elapsed())
            },
            agent_left: Arc::new(move |agent| leavers.lock().unwrap().push(agent.clone())),
            settings,
        };
        Actor::spawn(None, Desk, arguments).await.unwrap();
        let arguments_of = |agent: &AgentId| SpecialistArguments {
            agent: agent.clone(),
            profile: profile.clone(),
            jobs: jobs.clone(),
            desk: desk.clone(),
            registry: registry.clone(),
            mailbox: Arc::default(),
            inboxes: Default::default(),
            faults: true,
        };
        let supervised = Supervised {
            desk: desk.clone(),
            agents: agents.iter().map(|agent| (agent.clone(), arguments_of(agent))).collect(),
            restarts: HashMap::new(),
        };
        Actor::spawn(None, TestSupervisor, supervised).await.unwrap();
        Self { node, engine, leader, bus, desk, agents, restarted, left }
    }

    pub fn order(&self, i: u32, agent: usize, tool: &str) -> Order {
        self.order_with(i, agent, tool, json!({}), false)
    }

    pub fn claimed_order(&self, i: u32, agent: usize, tool: &str) -> Order {
        self.order_with(i, agent, tool, json!({}), true)
    }

    pub fn order_with(&self, i: u32, agent: usize, tool: &str, with: Value, needs_claim: bool) -> Order {
        let job = Job {
            effects: BTreeMap::new(),
            work: Work::Tool { tool: tool.to_owned(), with },
            workspace: Workspace::None,
            workdir: None,
            env: BTreeMap::new(),
            values: BTreeMap::new(),
            outputs: BTreeMap::new(),
            idempotency_key: format!("epic-1/t{i}/1"),
            inputs: BTreeMap::new(),
            reference: None,
        };
        Order::Assign(Assignment {
            attempt: attempt(i),
            task: format!("t{i}"),
            agent: self.agents[agent].clone(),
            token: Token(u64::from(i)),
            needs_claim,
            job_json: serde_json::to_string(&job).unwrap(),
        })
    }

    pub fn command(&self, orders: Vec<Order>) -> NodeCommand {
        NodeCommand { epoch: Epoch(1), node: self.node.clone(), incarnation: LIFE, orders }
    }

    /// Sends orders; they are confirmed.
    pub async fn tell(&self, orders: Vec<Order>) {
        assert_eq!(self.desk.command(self.command(orders)).await, Some(NodeAnswer::Confirmed));
    }

    pub fn begun(&self, attempt: &AttemptRef) -> usize {
        self.engine.begun.lock().unwrap().iter().filter(|begun| *begun == attempt).count()
    }

    pub fn alive(&self) -> usize {
        self.engine.alive.load(Ordering::SeqCst)
    }

    /// Waits until everything told has its verdict.
    pub async fn until_settled(&self) {
        let wait = async {
            while self.desk.snapshot().await.unwrap().unsettled > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("everything is settled in time");
    }
}
