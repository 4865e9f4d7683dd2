//! Identifiers as newtypes. Text ids are checked when they are parsed, so that inside the walls none can break a subject or a path.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Longest text id that users choose.
pub const ID_LENGTH_MAX: usize = 64;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is no {kind}: expected {expected}")]
pub struct InvalidId {
    /// What was wanted, for instance `task id`.
    pub kind: &'static str,
    /// The shape that would have been accepted.
    pub expected: &'static str,
    /// The refused text, cut to a length that fits a message.
    pub shown: String,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes `text`.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    let shown: String = text.chars().take(ID_LENGTH_MAX).flat_map(char::escape_default).collect();
                    Err(InvalidId { kind: $kind, expected: $expected, shown })
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn token(text: &str, length_max: usize) -> bool {
    !text.is_empty()
        && text.len() <= length_max
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !text.starts_with('-')
}

fn name(text: &str) -> bool {
    let head = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    head && text.len() <= ID_LENGTH_MAX && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn task(text: &str) -> bool {
    let head = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    head && text.len() <= ID_LENGTH_MAX && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn printable(text: &str, length_max: usize) -> bool {
    !text.is_empty() && text.len() <= length_max && !text.chars().any(char::is_control)
}

text_id!(
    /// An accepted epic: its name and a random part, one subject token.
    EpicId, "epic id", "up to 96 of A-Z a-z 0-9 - _", |t| token(t, 96)
);
text_id!(
    /// The name that the author gave to an epic; also the shape of project names.
    EpicName, "name", "[a-z0-9][a-z0-9-]{0,63}", name
);
text_id!(
    /// The space in which locks, idempotency keys and fairness are shared.
    ProjectId, "project", "[a-z0-9][a-z0-9-]{0,63}", name
);
text_id!(
    /// The name of a task inside its epic.
    TaskName, "task id", "[a-z][a-z0-9_]{0,63}", task
);
text_id!(
    /// A phase of an epic.
    PhaseName, "phase", "up to 64 of A-Z a-z 0-9 - _", |t| token(t, ID_LENGTH_MAX)
);
text_id!(
    /// A role, for instance `BuildMaster`.
    RoleName, "role", "up to 64 of A-Z a-z 0-9 - _", |t| token(t, ID_LENGTH_MAX)
);
text_id!(
    /// One node process, for instance `node-1`; the same over its restarts.
    NodeId, "node id", "up to 64 of A-Z a-z 0-9 - _", |t| token(t, ID_LENGTH_MAX)
);
text_id!(
    /// One agent: `<node>.<role>.<n>` written with dashes, for instance `node-1-BuildMaster-2`.
    AgentId, "agent id", "up to 160 of A-Z a-z 0-9 - _", |t| token(t, 160)
);
text_id!(
    /// What a lock is held on: `db/schema`, `file/package.json`, `docker-compose.yml`.
    Resource, "resource", "1 to 256 printable characters", |t| printable(t, 256)
);
text_id!(
    /// The key under which a submission is the same submission again.
    SubmitKey, "idempotency key", "1 to 256 printable characters", |t| printable(t, 256)
);
text_id!(
    /// Who holds a lock from outside of all epics: a script, a person.
    OwnerName, "owner", "1 to 128 printable characters", |t| printable(t, 128)
);
text_id!(
    /// An incident: a question that only a person can answer.
    IncidentId, "incident id", "up to 64 of A-Z a-z 0-9 - _", |t| token(t, ID_LENGTH_MAX)
);

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number_id!(
    /// The number of a Manager's term; grows with every leader.
    Epoch
);
number_id!(
    /// A fencing token: grows with every grant in a shard.
    Token
);
number_id!(
    /// The dense number of a commit in its shard, from 1.
    CommitIndex
);
number_id!(
    /// The dense number of a public event in its shard, from 1.
    EventSeq
);
number_id!(
    /// One life of a node process: its start in milliseconds since 1970, made unique per node by a lock on its data folder.
    Incarnation
);

/// A shard of the coordination state: one Manager, one journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

impl ShardId {
    /// All shards of a cluster that has `count` of them.
    pub fn all(count: u32) -> impl Iterator<Item = Self> {
        (0..count.max(1)).map(Self)
    }

    /// The shard of a project, among `count`: the one with the highest hash (rendezvous hashing, Thaler and Ravishankar 1998), which
    /// every node finds by itself.
    pub fn of(project: &ProjectId, count: u32) -> Self {
        let weight = |shard: &Self| {
            let digest = Sha256::digest(format!("{shard} {project}"));
            digest.iter().take(8).fold(0u64, |weight, byte| weight << 8 | u64::from(*byte))
        };
        Self::all(count).max_by_key(weight).unwrap_or_default()
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970-01-01 UTC. In the journal it never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment plus `ms` milliseconds, without overflow.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment, 0 if it lies ahead.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with milliseconds, as events and replies show it.
    pub fn to_rfc3339(self) -> String {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms).map_or_else(|_| self.0.to_string(), |t| format!("{t:.3}"))
    }
}

/// One attempt of one run of one task instance. The instance is its position in the expanded plan of the epic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The epic.
    pub epic: EpicId,
    /// Position in [`crate::document::Plan::instances`].
    pub i: u32,
    /// The run, from 1.
    pub run: u32,
    /// The attempt inside the run, from 1.
    pub attempt: u32,
}

impl fmt::Display for AttemptRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}.{}", self.epic, self.i, self.run, self.attempt)
    }
}
