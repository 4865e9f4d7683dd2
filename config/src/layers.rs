//! Layers of values and where each came from. The higher layer wins, value by value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::yaml::{Entry, Kind, Node};

/// Where a value came from, from the highest precedence to the lowest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag {
        /// `--http`.
        flag: Arc<str>,
    },
    /// The environment.
    Environment {
        /// `AMPHI_HTTP`.
        variable: Arc<str>,
    },
    /// A file.
    File {
        /// As it was found.
        path: Arc<Path>,
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
    },
    /// Built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::File { path, line, .. } => write!(f, "file {}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value in effect with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginedValue {
    /// As JSON.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// A flag that sets a value of the team file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// `cluster.http`.
    pub path: String,
    /// `--http`.
    pub flag: String,
    /// As it was given.
    pub value: String,
}

/// The environment of the process, read once by the binary and passed on. It may hold secrets, so it is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the environment of this process. Only the binary calls this. What is not UTF-8 is left out.
    pub fn capture() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect())
    }

    /// The same without one variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// The value of a variable; empty counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Names that begin with `prefix`.
    pub(crate) fn names<'e>(&'e self, prefix: &'e str) -> impl Iterator<Item = &'e str> {
        self.0.keys().map(String::as_str).filter(move |name| name.starts_with(prefix))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

/// Scalars that the environment can set: `AMPHI_` and the path in capitals, `.` as `_`.
pub(crate) const ENVIRONMENT_PATHS: &[&str] = &[
    "cluster.name",
    "cluster.nats",
    "cluster.http",
    "cluster.shards",
    "cluster.replicas",
    "cluster.durability",
    "cluster.durability_confirmed",
    "health.heartbeat",
    "health.node_dead",
    "health.manager_lease",
    "health.stuck_after",
    "limits.document",
    "limits.depth",
    "limits.runs",
    "limits.output_value",
    "limits.substituted_value",
    "limits.history",
    "limits.open_epics",
    "limits.waiting_runs",
];

/// Shorter names for some of them.
pub(crate) const ENVIRONMENT_NAMES: &[(&str, &str)] = &[("AMPHI_NATS_URL", "cluster.nats"), ("AMPHI_HTTP", "cluster.http")];

/// `AMPHI_CLUSTER_HTTP` for `cluster.http`.
pub(crate) fn variable_of(path: &str) -> String {
    format!("AMPHI_{}", path.to_ascii_uppercase().replace('.', "_"))
}

/// What the environment says about the team file.
pub(crate) fn environment_layer(environment: &Environment) -> Node {
    let mut layer = empty();
    let long = ENVIRONMENT_PATHS.iter().map(|path| (variable_of(path), *path));
    let short = ENVIRONMENT_NAMES.iter().map(|(name, path)| ((*name).to_owned(), *path));
    for (variable, path) in long.chain(short) {
        if let Some(value) = environment.get(&variable) {
            put(&mut layer, path, Origin::Environment { variable: variable.as_str().into() }, value);
        }
    }
    layer
}

/// What the flags say about the team file.
pub(crate) fn flag_layer(flags: &[FlagValue]) -> Node {
    let mut layer = empty();
    for flag in flags {
        put(&mut layer, &flag.path, Origin::Flag { flag: flag.flag.as_str().into() }, &flag.value);
    }
    layer
}

pub(crate) fn empty() -> Node {
    Node { origin: Origin::Default, kind: Kind::Map(Vec::new()) }
}

fn put(layer: &mut Node, path: &str, origin: Origin, value: &str) {
    let leaf = Node { origin: origin.clone(), kind: Kind::Text(value.to_owned()) };
    let tree = path.rsplit('.').fold(leaf, |value, key| Node {
        origin: origin.clone(),
        kind: Kind::Map(vec![Entry { key: key.to_owned(), origin: origin.clone(), value }]),
    });
    merge(layer, tree);
}

/// Lays `higher` over `lower`: mappings key by key, everything else as a whole.
pub(crate) fn merge(lower: &mut Node, higher: Node) {
    match (&mut lower.kind, higher) {
        (Kind::Map(below), Node { kind: Kind::Map(above), origin }) => {
            lower.origin = origin;
            for entry in above {
                match below.iter_mut().find(|known| known.key == entry.key) {
                    Some(known) => {
                        known.origin = entry.origin;
                        // A secret has one source: `env` over `file` must not give both.
                        if entry.key == "secrets" {
                            replace_entries(&mut known.value, entry.value)
                        } else {
                            merge(&mut known.value, entry.value)
                        }
                    }
                    None => below.push(entry),
                }
            }
        }
        (_, higher) => *lower = higher,
    }
}

fn replace_entries(lower: &mut Node, higher: Node) {
    match (&mut lower.kind, higher) {
        (Kind::Map(below), Node { kind: Kind::Map(above), .. }) => {
            below.retain(|known| above.iter().all(|entry| entry.key != known.key));
            below.extend(above);
        }
        (_, higher) => *lower = higher,
    }
}

/// All values with their paths. Lists are values; so are empty mappings.
pub(crate) fn flatten(node: &Node) -> BTreeMap<String, OriginedValue> {
    let mut flat = BTreeMap::new();
    walk(node, String::new(), &mut flat);
    flat
}

fn walk(node: &Node, path: String, flat: &mut BTreeMap<String, OriginedValue>) {
    match &node.kind {
        Kind::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                walk(&entry.value, path, flat);
            }
        }
        _ => {
            let value = match node.json() {
                Value::String(text) if path == "cluster.nats" => Value::String(without_credentials(&text)),
                other => other,
            };
            flat.insert(path, OriginedValue { value, origin: node.origin.clone() });
        }
    }
}

/// A URL as it may be shown: user and password of each server become `***`.
pub(crate) fn without_credentials(url: &str) -> String {
    let servers = url.split(',').map(|server| {
        let (scheme, rest) = server.split_once("://").map_or(("", server), |(scheme, rest)| (scheme, rest));
        match rest.rsplit_once('@') {
            Some((_, host)) if scheme.is_empty() => format!("***@{host}"),
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => server.to_owned(),
        }
    });
    servers.collect::<Vec<_>>().join(",")
}
