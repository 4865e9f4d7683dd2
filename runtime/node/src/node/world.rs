//! The adapters of one node, opened in order: connection, journal, stores, engines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amphi_adapters::nats::{
    JetStreamJournal, NatsAgentMail, NatsBus, NatsEventStream, NatsLease, NatsObjectStore, NatsOutputLog, NatsPins, check_server,
    connect_node, replicas,
};
use amphi_adapters::process::{ProcessConfig, ProcessEngine};
use amphi_adapters::tools::{Engines, ToolEngine, tool_names};
use amphi_adapters::worktree::{GitWorkspaces, WORKTREES_MAX, WorktreeConfig};
use amphi_agents::DeskLedger;
use amphi_agents::manager::UpkeepLimits;
use amphi_config::{Environment, RoleBase, TeamConfig, config_folder, resolve_secrets, role_folders};
use amphi_ports::{BusError, Clock, Engine, EventStream, Journal, Lease, MessageBus, ObjectStore, TailMemory};
use amphi_protocol::ids::{ShardId, Timestamp};
use amphi_protocol::subjects;
use anyhow::{Context as _, bail};
use async_nats::Client;
use bytes::Bytes;

use super::memory::NodeMemory;
use super::pressure::Gauge;
use crate::up::NodeSpec;

/// How long a node tries to reach NATS and its streams at the start; after that `up` starts it again.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// How long neighbours may take to say that they remember a journal.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What only a node that may lead needs, of one shard.
pub struct Seat {
    pub journal: Arc<dyn Journal>,
    /// Says who is to lead.
    pub lease: Arc<dyn Lease>,
    pub events: Arc<dyn EventStream>,
}

/// Everything outside of the process.
pub struct World {
    pub client: Client,
    /// The connection on the clients' side; the same one where there are no accounts.
    pub edge: Client,
    /// Copies of each stream.
    pub replicas: usize,
    pub bus: Arc<dyn MessageBus>,
    /// The shards of the cluster.
    pub shards: Vec<ShardId>,
    /// The Managers' seats, if this node may lead: one for each shard.
    pub seats: Option<BTreeMap<ShardId, Seat>>,
    pub objects: Arc<dyn ObjectStore>,
    pub output: Arc<NatsOutputLog>,
    pub mail: Arc<NatsAgentMail>,
    pub engine: Arc<dyn Engine>,
    pub worktrees: Arc<GitWorkspaces>,
    pub clock: Arc<dyn Clock>,
    pub memory: Arc<NodeMemory>,
    /// Names of all tools.
    pub tools: BTreeSet<String>,
    /// Those of them that harm an agent on purpose; they are for all roles.
    pub fault_tools: BTreeSet<String>,
    /// What role files are laid over, and where they are.
    pub role_files: (RoleBase, Vec<PathBuf>),
    pub gauge: Gauge,
    /// The way of tools to this node's desks, which start later.
    pub ledger: Arc<DeskLedger>,
    pub faults: bool,
    pub upkeep: UpkeepLimits,
}

/// How long one answer about the number of shards may take.
const SHARD_COUNT_WITHIN: Duration = Duration::from_secs(2);

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0))
    }
}

impl World {
    /// Opens everything.
    pub async fn open(spec: &NodeSpec, team: &TeamConfig, roles: RoleBase, environment: &Environment) -> anyhow::Result<Self> {
        match tokio::time::timeout(OPEN_WITHIN, Self::try_open(spec, team, roles, environment)).await {
            Ok(opened) => opened,
            Err(_) => bail!("NATS and its streams were not there within {} s", OPEN_WITHIN.as_secs()),
        }
    }

    async fn try_open(spec: &NodeSpec, team: &TeamConfig, roles: RoleBase, environment: &Environment) -> anyhow::Result<Self> {
        let (name, node) = (format!("amphi {}", spec.node), spec.node.as_str());
        let client = connect_node(&spec.nats, &name, node).await.context("connecting to NATS")?;
        if spec.edge.is_none() || spec.seat {
            until("the NATS server", || check_server(&client)).await;
        }
        let edge = match &spec.edge {
            Some(url) => connect_node(url, &name, node).await.context("connecting to the clients' account of NATS")?,
            None => client.clone(),
        };
        until("the clients' account of NATS", || check_server(&edge)).await;
        let memory = Arc::new(NodeMemory::open(spec.data.clone(), spec.cluster.clone()));
        let replicas = until("the number of replicas", || replicas(&edge, team.cluster.replicas)).await;
        let wanted = spec.seat.then_some(team.cluster.shards);
        let bus: Arc<dyn MessageBus> = Arc::new(NatsBus::across(client.clone(), edge.clone()));
        let count = match (&spec.edge, spec.seat) {
            // Such a node may not speak to JetStream where the journals are.
            (Some(_), false) => until("the number of shards", || shard_count(&*bus)).await,
            (None, _) | (Some(_), true) => until("the number of shards", || NatsLease::shards(&client, replicas, wanted)).await,
        };
        if count != team.cluster.shards {
            tracing::warn!(configured = team.cluster.shards, count, "the cluster was made with another number of shards, which stays");
        }
        let shards: Vec<ShardId> = ShardId::all(count).collect();
        let seats = if spec.seat { Some(Self::seats(spec, (&client, &edge), &memory, (replicas, &shards)).await?) } else { None };
        // Snapshots and specifications are the Manager's; a node without a seat may not even read them.
        let artifacts = until("the artifacts", || NatsObjectStore::open(&edge, replicas)).await;
        let (objects, artifacts) = match (&spec.edge, spec.seat) {
            (None, _) | (Some(_), false) => (artifacts.clone(), artifacts),
            (Some(_), true) => {
                let objects = until("the object store", || NatsObjectStore::open(&client, replicas)).await;
                until("the artifacts", || artifacts.seal()).await;
                let artifacts = artifacts.with_former(&objects);
                (objects, artifacts)
            }
        };
        let (objects, artifacts) = (Arc::new(objects), Arc::new(artifacts));
        let output = Arc::new(until("the output stream", || NatsOutputLog::open(&edge, replicas)).await);
        let mail = Arc::new(until("the stream of messages", || NatsAgentMail::open(&client, &edge, replicas)).await);
        let secrets = match resolve_secrets(team, environment) {
            Ok(secrets) => secrets.expose_all(),
            Err(errors) => bail!("secrets: {}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        };
        let home = environment.get("HOME").unwrap_or("/").to_owned();
        let mut config = ProcessConfig::new(spec.data.clone(), home);
        config.secrets.clone_from(&secrets);
        config.output_bytes = usize::try_from(team.limits.output_value_bytes).unwrap_or(usize::MAX);
        let tools = ToolEngine::new(spec.data.clone(), &secrets).with_programs(config.basics.clone(), config.guard.clone());
        let ledger = Arc::new(DeskLedger::default());
        let tools = Arc::new(tools.with_mail(mail.clone()).with_ledger(ledger.clone()).with_output_bytes(config.output_bytes));
        let (guard, basics) = (config.guard.clone(), config.basics.clone());
        let worktrees = WorktreeConfig { data_dir: spec.data.clone(), guard, basics, worktrees_max: WORKTREES_MAX };
        let processes = ProcessEngine::open(config, output.clone(), artifacts).context("opening the process engine")?;
        let engines = Arc::new(Engines::new(Arc::new(processes), tools));
        let pins = Arc::new(NatsPins::new(&edge, replicas));
        if spec.edge.is_some() && spec.seat {
            until("what is decided once", || pins.seal()).await;
        }
        let worktrees = Arc::new(GitWorkspaces::open(worktrees, engines, output.clone(), pins, &secrets).context("opening the worktrees")?);
        let faults = environment.get("AMPHI_FAULTS") == Some("1");
        let beside = spec.config.as_deref().and_then(Path::parent).map(Path::to_owned);
        let beside = beside.unwrap_or_else(|| std::env::current_dir().unwrap_or_default());
        let user = config_folder(environment);
        // `up` has one folder for all its nodes.
        let role_files = (roles, role_folders(user.as_deref(), &beside, spec.data.parent()));
        Ok(Self {
            ledger,
            bus,
            shards,
            seats,
            engine: worktrees.clone(),
            worktrees,
            clock: Arc::new(WallClock),
            client,
            edge,
            replicas,
            objects,
            output,
            mail,
            memory,
            tools: tool_names(faults),
            fault_tools: &tool_names(faults) - &tool_names(false),
            role_files,
            gauge: Gauge::new(&team.health, environment),
            faults,
            upkeep: upkeep_limits(team, environment)?,
        })
    }
}

impl World {
    async fn seats(
        spec: &NodeSpec,
        (client, edge): (&Client, &Client),
        memory: &NodeMemory,
        (replicas, shards): (usize, &[ShardId]),
    ) -> anyhow::Result<BTreeMap<ShardId, Seat>> {
        let mut seats = BTreeMap::new();
        for &shard in shards {
            // An emptied server must not look like a new cluster to a node that is new itself: its neighbours are asked.
            let remembered = memory.recall(shard).context("this node's memory of the journal")?.is_some()
                || spec.remembered.contains(&shard)
                || tokio::time::timeout(ANSWER_WITHIN, client.request(subjects::journal_memory(shard), Bytes::new()))
                    .await
                    .is_ok_and(|answer| answer.is_ok());
            let journal = until("the journal", || JetStreamJournal::open(client, shard, replicas, !remembered)).await;
            let lease = until("the Manager's lease", || NatsLease::open(client, shard, replicas)).await;
            let events = Arc::new(NatsEventStream::new(edge, replicas));
            seats.insert(shard, Seat { journal: Arc::new(journal), lease: Arc::new(lease), events });
        }
        Ok(seats)
    }
}

/// How many shards there are, as a node with a seat says.
async fn shard_count(bus: &dyn MessageBus) -> Result<u32, BusError> {
    let subject = subjects::SHARD_COUNT.to_owned();
    let answer = bus.request(subject.clone(), BTreeMap::new(), Bytes::new(), SHARD_COUNT_WITHIN).await?;
    let count = std::str::from_utf8(&answer.body).ok().and_then(|text| text.parse().ok());
    count.ok_or_else(|| BusError::Failed { subject, source: "the answer is no number".into() })
}

/// When the journal is snapshotted, archived and trimmed. `AMPHI_UPKEEP`, for tests and emergencies, sets the numbers that are no
/// configuration: `decisions=200,bytes=1000000,segment_bytes=100000,ended_epics=10,history_ms=60000`.
fn upkeep_limits(team: &TeamConfig, environment: &Environment) -> anyhow::Result<UpkeepLimits> {
    let mut limits = UpkeepLimits { history: team.limits.history, ..UpkeepLimits::default() };
    for part in environment.get("AMPHI_UPKEEP").unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
        let (name, number) = part.split_once('=').with_context(|| format!("AMPHI_UPKEEP: `{part}` is not NAME=NUMBER"))?;
        let number: u64 = number.parse().with_context(|| format!("AMPHI_UPKEEP: `{number}` is no number"))?;
        match name {
            "decisions" => limits.decisions = number.max(1),
            "bytes" => limits.bytes = number.max(1),
            "segment_bytes" => limits.segment_bytes = usize::try_from(number.max(1))?,
            "ended_epics" => limits.ended_epics = usize::try_from(number)?,
            "history_ms" => limits.history = Duration::from_millis(number),
            _ => bail!("AMPHI_UPKEEP: `{name}` is none of decisions, bytes, segment_bytes, ended_epics, history_ms"),
        }
    }
    Ok(limits)
}

/// Tries until it works; the caller bounds the time. A server that has just been started refuses for a moment.
async fn until<T, E: std::error::Error, F: Future<Output = Result<T, E>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                let mut chain = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    chain = format!("{chain}: {cause}");
                    source = cause.source();
                }
                tracing::warn!("{what} is not there yet: {chain}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
