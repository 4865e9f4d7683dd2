//! Roles as data: the ones that ship, and what the team file makes of them.
//!
//! A new default role is one file in `config/roles` and one line in [`DEFAULT_ROLES`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amphi_protocol::ids::RoleName;

use crate::layers::Origin;
use crate::read::{Reader, nearest};
use crate::yaml::{Entry, Kind, Node, parse};

macro_rules! default_roles {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each role that ships.
        pub const DEFAULT_ROLES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../roles/", $name, ".yaml"))),)*];
    };
}

default_roles!["BackupKeeper", "BuildMaster", "DatabaseArchitect", "DeployCommander", "MonitoringSentinel", "TestGuardian"];

pub(crate) const ROLE_KEYS: &[&str] = &[
    "skills",
    "responsibilities",
    "engine",
    "model",
    "tools",
    "replicas",
    "concurrency",
    "autonomy",
    "restart",
    "command",
    "workspace",
    "match",
];
pub(crate) const RESTART_KEYS: &[&str] = &["strategy", "max", "within"];
pub(crate) const ENGINES: &[(&str, RoleEngine)] =
    &[("builtin", RoleEngine::Builtin), ("llm", RoleEngine::Llm), ("acp", RoleEngine::Acp), ("synadia", RoleEngine::Synadia)];
pub(crate) const STRATEGIES: &[(&str, RoleStrategy)] =
    &[("one_for_one", RoleStrategy::OneForOne), ("one_for_all", RoleStrategy::OneForAll), ("rest_for_one", RoleStrategy::RestForOne)];
pub(crate) const AUTONOMIES: &[(&str, ())] = &[("observe", ()), ("propose", ()), ("act", ())];

/// Tools that ship by the interface contract; others come from servers.
const BUILT_IN_TOOLS: &[&str] = &[
    "noop",
    "sleep",
    "fail",
    "panic",
    "hang",
    "http.check",
    "http.post",
    "http.wait",
    "message.send",
    "file.write",
    "git.clone",
    "git.commit",
    "git.tag",
    "backup.snapshot",
    "backup.restore",
    "backup.verify",
    "prom.assert",
];

/// Most agents of one role on a node.
const REPLICAS_MAX: u32 = 10_000;

/// How many agents of a role a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// As many as the node's capacity.
    Capacity,
    /// Between two numbers, both included; the same number twice if it is fixed.
    Range {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
}

impl Replicas {
    /// How many a node starts with: the least; the queue brings more.
    pub fn count(self, capacity: u32) -> u32 {
        self.bounds(capacity).0
    }

    /// The fewest and the most that a node of this capacity has.
    pub fn bounds(self, capacity: u32) -> (u32, u32) {
        match self {
            Self::Capacity => (capacity, capacity),
            Self::Range { min, max } => (min, max),
        }
    }
}

/// Who runs a role's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleEngine {
    /// Commands and built-in tools.
    Builtin,
    /// An agent loop with a model.
    Llm,
    /// An agent that speaks ACP.
    Acp,
    /// An agent that is on NATS already.
    Synadia,
}

/// Who is restarted with an agent that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleStrategy {
    /// Nobody else.
    OneForOne,
    /// All agents of the role on the node.
    OneForAll,
    /// Those that were started later.
    RestForOne,
}

/// How a role's agents are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleRestart {
    /// Who.
    pub strategy: RoleStrategy,
    /// How often.
    pub max: u32,
    /// In which period.
    pub within: Duration,
}

impl Default for RoleRestart {
    fn default() -> Self {
        Self { strategy: RoleStrategy::OneForOne, max: 5, within: Duration::from_secs(60) }
    }
}

/// One role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleConfig {
    /// Sorted, each once.
    pub skills: Vec<String>,
    /// In words for people.
    pub responsibilities: Vec<String>,
    /// Tools that its agents may use, sorted, each once.
    pub tools: Vec<String>,
    /// Who runs its tasks. Only `builtin` runs in this release.
    pub engine: RoleEngine,
    /// Agents per node.
    pub replicas: Replicas,
    /// Restarts.
    pub restart: RoleRestart,
}

impl Default for RoleConfig {
    fn default() -> Self {
        Self {
            skills: Vec::new(),
            responsibilities: Vec::new(),
            tools: Vec::new(),
            engine: RoleEngine::Builtin,
            replicas: Replicas::Capacity,
            restart: RoleRestart::default(),
        }
    }
}

/// All roles, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    /// The roles.
    pub by_name: BTreeMap<RoleName, RoleConfig>,
}

impl Roles {
    /// One role.
    pub fn get(&self, name: &str) -> Option<&RoleConfig> {
        self.by_name.get(name)
    }

    /// The roles whose agents this release can run.
    pub fn runnable(&self) -> impl Iterator<Item = (&RoleName, &RoleConfig)> {
        self.by_name.iter().filter(|(_, role)| role.engine == RoleEngine::Builtin)
    }

    /// Role to skills, as documents are compiled against it.
    pub fn skills_by_role(&self) -> BTreeMap<RoleName, Vec<String>> {
        self.by_name.iter().map(|(name, role)| (name.clone(), role.skills.clone())).collect()
    }

    /// Role to the tools that it may use, of the roles that name any; `always` are for everybody.
    pub fn tools_by_role(&self, always: &BTreeSet<String>) -> BTreeMap<RoleName, Vec<String>> {
        let limited = self.by_name.iter().filter(|(_, role)| !role.tools.is_empty());
        limited.map(|(name, role)| (name.clone(), role.tools.iter().chain(always).cloned().collect())).collect()
    }

    /// All tools that some role may use.
    pub fn tools(&self) -> BTreeSet<String> {
        self.by_name.values().flat_map(|role| role.tools.iter().cloned()).collect()
    }
}

/// The roles that ship, as a layer below all files.
pub(crate) fn default_roles_layer() -> Node {
    let entry = |(name, text): &(&str, &str)| Entry {
        key: (*name).to_owned(),
        origin: Origin::Default,
        value: parse(text, None).expect("a test reads every role that ships"),
    };
    let roles = Node { origin: Origin::Default, kind: Kind::Map(DEFAULT_ROLES.iter().map(entry).collect()) };
    Node { origin: Origin::Default, kind: Kind::Map(vec![Entry { key: "roles".to_owned(), origin: Origin::Default, value: roles }]) }
}

pub(crate) fn read_roles(reader: &mut Reader, node: &Node) -> Roles {
    let mut roles = Roles::default();
    for entry in reader.open_map(node, "roles") {
        match RoleName::parse(&entry.key) {
            Ok(name) => {
                let role = read_role(reader, &entry.value, &entry.key);
                roles.by_name.insert(name, role);
            }
            Err(error) => reader.problem(&entry.origin, error.to_string(), None),
        }
    }
    roles
}

fn read_role(reader: &mut Reader, node: &Node, name: &str) -> RoleConfig {
    let mut role = RoleConfig::default();
    let base = format!("roles.{name}");
    for entry in reader.map(node, &base, ROLE_KEYS) {
        let (value, path) = (&entry.value, format!("{base}.{}", entry.key));
        match entry.key.as_str() {
            "skills" => role.skills = sorted(reader.texts(value, &path)),
            "responsibilities" => role.responsibilities = reader.texts(value, &path),
            "tools" => role.tools = read_tools(reader, value, &path),
            "replicas" => role.replicas = read_replicas(reader, value, &path).unwrap_or(role.replicas),
            "restart" => role.restart = read_restart(reader, value, &path),
            "engine" => {
                role.engine = reader.choice(value, &path, ENGINES).unwrap_or(role.engine);
                if role.engine != RoleEngine::Builtin {
                    let message = format!("`{path}` is not acted on by this release: {name} gets no agents");
                    reader.warn(&value.origin, message, Some("only `builtin` runs".to_owned()));
                }
            }
            "concurrency" => {
                if reader.whole(value, &path, 1..=1000).is_some_and(|count| count > 1) {
                    not_acted_on(reader, entry, &path, "one task at a time");
                }
            }
            "autonomy" => {
                if reader.choice(value, &path, AUTONOMIES).is_some() && !matches!(&value.kind, Kind::Text(text) if text == "act") {
                    not_acted_on(reader, entry, &path, "its agents act without asking");
                }
            }
            "model" | "workspace" => {
                reader.text(value, &path);
                not_acted_on(reader, entry, &path, "it has no effect");
            }
            "command" => {
                reader.texts(value, &path);
                not_acted_on(reader, entry, &path, "it has no effect");
            }
            _ => {
                reader.open_map(value, &path);
                not_acted_on(reader, entry, &path, "it has no effect");
            }
        }
    }
    role
}

fn not_acted_on(reader: &mut Reader, entry: &Entry, path: &str, instead: &str) {
    reader.warn(&entry.origin, format!("`{path}` is not acted on by this release: {instead}"), None);
}

fn read_tools(reader: &mut Reader, node: &Node, path: &str) -> Vec<String> {
    let tools = sorted(reader.texts(node, path));
    for tool in &tools {
        if !BUILT_IN_TOOLS.contains(&tool.as_str())
            && let Some(near) = nearest(tool, BUILT_IN_TOOLS)
        {
            reader.warn(&node.origin, format!("`{path}`: no tool `{tool}` ships"), Some(format!("did you mean `{near}`?")));
        }
    }
    tools
}

fn read_replicas(reader: &mut Reader, node: &Node, path: &str) -> Option<Replicas> {
    let range = match &node.kind {
        Kind::Null => return Some(Replicas::Capacity),
        Kind::Integer(count) => u32::try_from(*count).ok().map(|count| (count, count)),
        Kind::Text(text) => text.split_once("..").and_then(|(min, max)| Some((min.trim().parse().ok()?, max.trim().parse().ok()?))),
        _ => None,
    };
    match range {
        Some((min, max)) if min <= max && max <= REPLICAS_MAX => Some(Replicas::Range { min, max }),
        _ => {
            let message = format!("`{path}` must be `n` or `min..max`, at most {REPLICAS_MAX}");
            reader.problem(&node.origin, message, Some("leave it out for as many as the node's capacity".to_owned()));
            None
        }
    }
}

fn read_restart(reader: &mut Reader, node: &Node, base: &str) -> RoleRestart {
    let mut restart = RoleRestart::default();
    for entry in reader.map(node, base, RESTART_KEYS) {
        let (value, path) = (&entry.value, format!("{base}.{}", entry.key));
        match entry.key.as_str() {
            "strategy" => restart.strategy = reader.choice(value, &path, STRATEGIES).unwrap_or(restart.strategy),
            "max" => restart.max = reader.whole(value, &path, 0..=1000).map_or(restart.max, |max| max as u32),
            _ => restart.within = reader.duration(value, &path).unwrap_or(restart.within),
        }
    }
    restart
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}
