//! The team file as types. What stands here is checked; units are in the types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::layers::Origin;
use crate::read::{Reader, shown};
use crate::roles::{Roles, read_roles};
use crate::secrets::SecretSource;
use crate::yaml::{Kind, Node};
use amphi_protocol::document::Limits;
use amphi_protocol::journal::Admission;

pub(crate) const TEAM_KEYS: &[&str] =
    &["version", "cluster", "models", "tools", "roles", "policies", "health", "secrets", "triggers", "notify", "limits"];
pub(crate) const CLUSTER_KEYS: &[&str] = &["name", "nats", "http", "shards", "replicas", "durability", "durability_confirmed"];
pub(crate) const NATS_KEYS: &[&str] = &["context"];
pub(crate) const HEALTH_KEYS: &[&str] = &[
    "heartbeat",
    "node_dead",
    "manager_lease",
    "stuck_after",
    "agent_idle",
    "memory_pressure",
    "cpu_pressure",
    "on_stuck",
    "on_failed",
    "on_exhausted",
];
pub(crate) const SECRET_KEYS: &[&str] = &["env", "file"];
pub(crate) const LIMITS_KEYS: &[&str] =
    &["document", "depth", "runs", "output_value", "substituted_value", "history", "open_epics", "waiting_runs"];
/// Keys with their shape (`true`: a list) that are read but have no effect yet.
const LATER_KEYS: &[(&str, bool)] = &[("models", false), ("tools", false), ("policies", true), ("triggers", true), ("notify", false)];

pub(crate) const DURABILITIES: &[(&str, Durability)] = &[("power", Durability::Power), ("process", Durability::Process)];
pub(crate) const ON_STUCK: &[(&str, OnStuck)] = &[("restart", OnStuck::Restart), ("escalate", OnStuck::Escalate)];
pub(crate) const ON_FAILED: &[(&str, OnFailed)] = &[("reassign", OnFailed::Reassign), ("escalate", OnFailed::Escalate)];
pub(crate) const ON_EXHAUSTED: &[(&str, OnExhausted)] =
    &[("quarantine", OnExhausted::Quarantine), ("scale_down", OnExhausted::ScaleDown), ("escalate", OnExhausted::Escalate)];

/// Everything that a team configures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TeamConfig {
    /// Where it runs.
    pub cluster: ClusterConfig,
    /// Who works.
    pub roles: Roles,
    /// When somebody counts as stuck or dead.
    pub health: HealthConfig,
    /// Names of secrets and where a node finds them.
    pub secrets: BTreeMap<String, SecretSource>,
    /// How large things may be.
    pub limits: LimitsConfig,
}

/// Where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// For people.
    pub name: String,
    /// The NATS server.
    pub nats: NatsTarget,
    /// Where HTTP listens; `None`: not at all.
    pub http: Option<SocketAddr>,
    /// Shards of the coordination state.
    pub shards: u32,
    /// Servers that keep each stream; `None`: three where the NATS server belongs to a cluster, one where it stands alone.
    pub replicas: Option<usize>,
    /// What an acknowledged commit survives.
    pub durability: Durability,
    /// The operator vouches for the durability of a foreign server.
    pub durability_confirmed: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: "amphi".to_owned(),
            nats: NatsTarget::Managed,
            http: None,
            shards: 1,
            replicas: None,
            durability: Durability::Power,
            durability_confirmed: false,
        }
    }
}

/// Which NATS server.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsTarget {
    /// One that `amphi up` starts.
    Managed,
    /// A URL, or several with commas. It may hold credentials, so it is not shown.
    Url(String),
    /// A NATS context by its name.
    Context(String),
}

impl std::fmt::Debug for NatsTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Managed => f.write_str("Managed"),
            Self::Url(url) => write!(f, "Url({})", crate::layers::without_credentials(url)),
            Self::Context(name) => write!(f, "Context({name})"),
        }
    }
}

/// What an acknowledged commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Loss of power.
    Power,
    /// kill -9 of every process.
    Process,
}

/// When somebody counts as stuck or dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// Between two heartbeats of a node.
    pub heartbeat: Duration,
    /// Silence after which a node is dead.
    pub node_dead: Duration,
    /// Of a Manager's leadership; see [`HealthConfig::manager_lease`].
    pub manager_lease: Option<Duration>,
    /// Time without progress after which an attempt is stuck.
    pub stuck_after: Duration,
    /// An agent beyond its role's least number leaves when it had nothing to do for so long.
    pub agent_idle: Duration,
    /// Share of time (percent, over 10 s) in which something waits for memory, from which on no agents come and surplus ones leave.
    pub memory_pressure: u64,
    /// The same for processor time.
    pub cpu_pressure: u64,
    /// What happens to a stuck agent.
    pub on_stuck: OnStuck,
    /// What happens to the task of an agent that failed.
    pub on_failed: OnFailed,
    /// What happens to an agent that fails too often.
    pub on_exhausted: OnExhausted,
}

impl HealthConfig {
    /// The lease: as configured, or 3 s on one server and 15 s on a replicated one.
    pub fn manager_lease(&self, replicated: bool) -> Duration {
        self.manager_lease.unwrap_or(Duration::from_secs(if replicated { 15 } else { 3 }))
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            node_dead: Duration::from_secs(15),
            manager_lease: None,
            stuck_after: Duration::from_secs(300),
            agent_idle: Duration::from_secs(60),
            memory_pressure: 20,
            cpu_pressure: 95,
            on_stuck: OnStuck::Restart,
            on_failed: OnFailed::Reassign,
            on_exhausted: OnExhausted::Quarantine,
        }
    }
}

/// What happens to a stuck agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStuck {
    /// It is replaced.
    Restart,
    /// A person is asked.
    Escalate,
}

/// What happens to the task of an agent that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailed {
    /// Another agent gets it.
    Reassign,
    /// A person is asked.
    Escalate,
}

/// What happens to an agent that fails too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// It stays down until somebody restarts it.
    Quarantine,
    /// The role has one agent less.
    ScaleDown,
    /// A person is asked.
    Escalate,
}

/// How large things may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Bytes of a document.
    pub document_bytes: u64,
    /// Levels of nesting in a document.
    pub depth: u64,
    /// Runs of an epic.
    pub runs: u64,
    /// Bytes of an output value.
    pub output_value_bytes: u64,
    /// Bytes of a value that is substituted.
    pub substituted_value_bytes: u64,
    /// How long history is kept.
    pub history: Duration,
    /// Epics of one project that may be open.
    pub open_epics: u64,
    /// Runs of all epics that may wait.
    pub waiting_runs: u64,
}

impl LimitsConfig {
    /// Those that a document is held against.
    pub fn of_documents(&self) -> Limits {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Limits {
            document_bytes: size(self.document_bytes),
            depth: size(self.depth),
            runs: size(self.runs),
            value_bytes: size(self.substituted_value_bytes),
        }
    }

    /// Those that a submission is held against.
    pub fn of_admission(&self) -> Admission {
        Admission { open_epics: self.open_epics, waiting_runs: self.waiting_runs }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            document_bytes: 4 * 1024 * 1024,
            depth: 64,
            runs: 100_000,
            output_value_bytes: 64 * 1024,
            substituted_value_bytes: 64 * 1024,
            history: Duration::from_secs(90 * 86_400),
            open_epics: 10_000,
            waiting_runs: 1_000_000,
        }
    }
}

/// Reads the merged tree.
pub(crate) fn read_team(reader: &mut Reader, root: &Node) -> TeamConfig {
    let mut team = TeamConfig::default();
    for entry in reader.map(root, "", TEAM_KEYS) {
        let value = &entry.value;
        match entry.key.as_str() {
            "version" => {
                if !matches!(value.kind, Kind::Integer(1)) {
                    reader.problem(&value.origin, "`version` must be 1", None);
                }
            }
            "cluster" => team.cluster = read_cluster(reader, value),
            "roles" => team.roles = read_roles(reader, value),
            "health" => team.health = read_health(reader, value),
            "secrets" => team.secrets = read_secrets(reader, value),
            "limits" => team.limits = read_limits(reader, value),
            key => {
                let list = LATER_KEYS.iter().any(|(name, list)| *name == key && *list);
                let shape_fits = matches!((&value.kind, list), (Kind::Null, _) | (Kind::List(_), true) | (Kind::Map(_), false));
                if !shape_fits {
                    let wanted = if list { "a list" } else { "a mapping" };
                    reader.problem(&value.origin, format!("`{key}` must be {wanted}, not {}", value.class()), None);
                }
                reader.warn(&entry.origin, format!("`{key}` is not acted on by this release"), None);
            }
        }
    }
    team
}

/// What only the values of all layers together can show.
pub(crate) fn check_together(reader: &mut Reader, team: &TeamConfig, root: &Node) {
    let health = &team.health;
    if health.node_dead < health.heartbeat.saturating_mul(3) {
        let section = root.get("health").unwrap_or(root);
        let changed =
            ["heartbeat", "node_dead"].into_iter().filter_map(|key| section.get(key)).find(|value| value.origin != Origin::Default);
        let hint = Some("one lost heartbeat must not kill a node".to_owned());
        reader.problem(&changed.unwrap_or(section).origin, "`health.node_dead` must be at least three heartbeats", hint);
    }
}

/// A majority has to be left when one is lost, so there is no even number.
fn read_replicas(reader: &mut Reader, value: &Node) -> Option<usize> {
    if value.kind == Kind::Null {
        return None;
    }
    match reader.whole(value, "cluster.replicas", 1..=5)? {
        odd @ (1 | 3 | 5) => Some(odd as usize),
        even => {
            reader.problem(&value.origin, format!("`cluster.replicas` must be 1, 3 or 5, not {even}"), None);
            None
        }
    }
}

fn read_cluster(reader: &mut Reader, node: &Node) -> ClusterConfig {
    let mut cluster = ClusterConfig::default();
    for entry in reader.map(node, "cluster", CLUSTER_KEYS) {
        let (value, path) = (&entry.value, format!("cluster.{}", entry.key));
        match entry.key.as_str() {
            "name" => {
                if let Some(name) = reader.text(value, &path) {
                    if amphi_protocol::ids::EpicName::parse(&name).is_err() {
                        reader.problem(&value.origin, format!("`{path}` must match [a-z0-9][a-z0-9-]{{0,63}}"), None);
                    }
                    cluster.name = name;
                }
            }
            "nats" => cluster.nats = read_nats(reader, value).unwrap_or(cluster.nats),
            "http" => cluster.http = read_http(reader, value),
            "shards" => cluster.shards = reader.whole(value, &path, 1..=256).map_or(1, |shards| shards as u32),
            "replicas" => cluster.replicas = read_replicas(reader, value),
            "durability" => cluster.durability = reader.choice(value, &path, DURABILITIES).unwrap_or(cluster.durability),
            _ => cluster.durability_confirmed = reader.boolean(value, &path).unwrap_or_default(),
        }
    }
    cluster
}

fn read_nats(reader: &mut Reader, node: &Node) -> Option<NatsTarget> {
    match &node.kind {
        Kind::Null => Some(NatsTarget::Managed),
        Kind::Text(url) if is_nats_url(url) => Some(NatsTarget::Url(url.clone())),
        Kind::Map(_) => {
            reader.map(node, "cluster.nats", NATS_KEYS);
            let context = node.get("context");
            let name = context.and_then(|context| reader.text(context, "cluster.nats.context"));
            if context.is_none() {
                reader.problem(&node.origin, "`cluster.nats` needs a `context`", None);
            }
            name.map(NatsTarget::Context)
        }
        _ => {
            let hint = "for instance nats://127.0.0.1:4222, or { context: NAME }; leave it out for a managed server";
            reader.problem(&node.origin, "`cluster.nats` must be a NATS URL or a context", Some(hint.to_owned()));
            None
        }
    }
}

fn is_nats_url(text: &str) -> bool {
    let server = |server: &str| {
        let rest = server.split_once("://");
        let scheme_fits = rest.is_none_or(|(scheme, _)| matches!(scheme, "nats" | "tls" | "ws" | "wss"));
        let rest = rest.map_or(server, |(_, rest)| rest);
        scheme_fits && !rest.is_empty() && !rest.contains(char::is_whitespace) && !rest.chars().any(char::is_control)
    };
    text.split(',').all(server)
}

fn read_http(reader: &mut Reader, node: &Node) -> Option<SocketAddr> {
    if node.kind == Kind::Null {
        return None;
    }
    let text = reader.text(node, "cluster.http")?;
    let address = text.parse().ok();
    if address.is_none() {
        let hint = Some("for instance 127.0.0.1:7766".to_owned());
        reader.problem(&node.origin, format!("`cluster.http` must be an address with a port, not `{}`", shown(&text)), hint);
    }
    address
}

fn read_health(reader: &mut Reader, node: &Node) -> HealthConfig {
    let mut health = HealthConfig::default();
    for entry in reader.map(node, "health", HEALTH_KEYS) {
        let (value, path) = (&entry.value, format!("health.{}", entry.key));
        match entry.key.as_str() {
            "heartbeat" => health.heartbeat = reader.duration(value, &path).unwrap_or(health.heartbeat),
            "node_dead" => health.node_dead = reader.duration(value, &path).unwrap_or(health.node_dead),
            "stuck_after" => health.stuck_after = reader.duration(value, &path).unwrap_or(health.stuck_after),
            "agent_idle" => health.agent_idle = reader.duration(value, &path).unwrap_or(health.agent_idle),
            "memory_pressure" => health.memory_pressure = reader.whole(value, &path, 1..=100).unwrap_or(health.memory_pressure),
            "cpu_pressure" => health.cpu_pressure = reader.whole(value, &path, 1..=100).unwrap_or(health.cpu_pressure),
            "manager_lease" if value.kind == Kind::Null => health.manager_lease = None,
            "manager_lease" => health.manager_lease = reader.duration(value, &path),
            "on_stuck" => health.on_stuck = reader.choice(value, &path, ON_STUCK).unwrap_or(health.on_stuck),
            "on_failed" => health.on_failed = reader.choice(value, &path, ON_FAILED).unwrap_or(health.on_failed),
            _ => health.on_exhausted = reader.choice(value, &path, ON_EXHAUSTED).unwrap_or(health.on_exhausted),
        }
    }
    let default = HealthConfig::default();
    let changed = [
        ("on_stuck", health.on_stuck != default.on_stuck, "stuck agents are restarted"),
        ("on_failed", health.on_failed != default.on_failed, "tasks of failed agents are reassigned"),
        ("on_exhausted", health.on_exhausted != default.on_exhausted, "agents that fail too often are quarantined"),
    ];
    for (key, changed, instead) in changed {
        if let (true, Some(value)) = (changed, node.get(key)) {
            reader.warn(&value.origin, format!("`health.{key}` is not acted on by this release: {instead}"), None);
        }
    }
    health
}

fn read_secrets(reader: &mut Reader, node: &Node) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    for entry in reader.open_map(node, "secrets") {
        let path = format!("secrets.{}", shown(&entry.key));
        let head_fits = entry.key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !head_fits || entry.key.len() > 64 || !entry.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            reader.problem(&entry.origin, format!("`{path}`: a secret's name must match [A-Za-z_][A-Za-z0-9_]{{0,63}}"), None);
            continue;
        }
        let keys = match entry.value.kind {
            Kind::Map(_) => reader.map(&entry.value, &path, SECRET_KEYS),
            _ => Vec::new(),
        };
        let source = match keys[..] {
            [only] => reader.text(&only.value, &format!("{path}.{}", only.key)).map(|text| match only.key.as_str() {
                "env" => SecretSource::Environment { variable: text },
                _ => SecretSource::File { path: relative_to_file(&only.value.origin, text) },
            }),
            _ => {
                let hint = Some("the value itself never stands in a file that is shared".to_owned());
                reader.problem(&entry.value.origin, format!("`{path}` must be {{ env: VARIABLE }} or {{ file: PATH }}"), hint);
                None
            }
        };
        if let Some(source) = source {
            secrets.insert(entry.key.clone(), source);
        }
    }
    secrets
}

fn relative_to_file(origin: &Origin, text: String) -> PathBuf {
    match origin {
        Origin::File { path, .. } => path.parent().map_or_else(|| PathBuf::from(&text), |folder| folder.join(&text)),
        Origin::Flag { .. } | Origin::Environment { .. } | Origin::Default => PathBuf::from(text),
    }
}

fn read_limits(reader: &mut Reader, node: &Node) -> LimitsConfig {
    let mut limits = LimitsConfig::default();
    for entry in reader.map(node, "limits", LIMITS_KEYS) {
        let (value, path) = (&entry.value, format!("limits.{}", entry.key));
        match entry.key.as_str() {
            "document" => limits.document_bytes = reader.whole(value, &path, 1024..=268_435_456).unwrap_or(limits.document_bytes),
            "depth" => limits.depth = reader.whole(value, &path, 8..=256).unwrap_or(limits.depth),
            "runs" => limits.runs = reader.whole(value, &path, 1..=10_000_000).unwrap_or(limits.runs),
            "output_value" => limits.output_value_bytes = reader.whole(value, &path, 1..=262_144).unwrap_or(limits.output_value_bytes),
            "substituted_value" => {
                limits.substituted_value_bytes = reader.whole(value, &path, 1..=1_048_576).unwrap_or(limits.substituted_value_bytes);
            }
            "open_epics" => limits.open_epics = reader.whole(value, &path, 1..=1_000_000).unwrap_or(limits.open_epics),
            "waiting_runs" => limits.waiting_runs = reader.whole(value, &path, 1..=100_000_000).unwrap_or(limits.waiting_runs),
            _ => limits.history = reader.duration(value, &path).unwrap_or(limits.history),
        }
    }
    limits
}
