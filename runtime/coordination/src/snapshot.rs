//! The state as bytes and back: what is put into the object store so that a start needs not the whole journal.
//!
//! JSON, because stored things describe themselves. The derives stand on the state's own types: a mirror of forty types would rot
//! with every new field. In return each snapshot carries [`State::digest`], and loading computes it again: a field that was left out,
//! or whose meaning changed between builds, shows as another digest ([`Loaded::is_exact`]). Never decides what to do about that.
//!
//! Each specification stands once, by its hash; plans follow from specifications and are expanded again.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_protocol::document::{EpicSpec, Plan};
use amphi_protocol::journal::{Decision, Record, SnapshotRef};
use serde::{Deserialize, Serialize};

use crate::state::State;

/// The number of the format that this build writes; a newer one is refused.
pub const SNAPSHOT_SCHEMA: u32 = 1;

/// A state that was read from bytes.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The state.
    pub state: State,
    /// Hash of the journal record with the state's index: what the next record continues.
    pub hash: String,
    /// It is what was written, to the last field. False only if another build wrote it, whose state had other fields.
    pub is_exact: bool,
}

/// Why bytes are no snapshot of this build.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not JSON of the wanted shape.
    #[error("the snapshot cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer build.
    #[error("the snapshot has schema {found}, this build reads up to {SNAPSHOT_SCHEMA}")]
    NewerSchema {
        /// The schema found.
        found: u32,
    },
    /// An epic's specification is not in it.
    #[error("the snapshot lacks the specification with sha256 {hash}")]
    SpecMissing {
        /// Its hash.
        hash: String,
    },
}

#[derive(Serialize)]
struct Image<'a> {
    amphi_snapshot: u32,
    digest: &'a str,
    hash: &'a str,
    specs: BTreeMap<&'a str, &'a EpicSpec>,
    state: &'a State,
}

#[derive(Deserialize)]
struct Stored {
    amphi_snapshot: u32,
    digest: String,
    hash: String,
    specs: BTreeMap<String, Arc<EpicSpec>>,
    state: State,
}

/// The snapshots on which recovery relies, newest first, as the record that a journal's last one points to names them.
pub fn relied_on(marker: &Record) -> Vec<SnapshotRef> {
    let taken = marker.decisions.iter().flatten().rev().find_map(|decision| match decision {
        Decision::SnapshotTaken { snapshot, older } => Some([Some(snapshot.clone()), older.clone()]),
        _ => None,
    });
    taken.into_iter().flatten().flatten().collect()
}

/// The bytes of `state`, whose last record has the hash `hash`. `digest` is the state's own.
pub fn encode(state: &State, hash: &str, digest: &str) -> Vec<u8> {
    let specs = state.epics.values().map(|epic| (epic.spec_hash.as_str(), &*epic.spec)).collect();
    let image = Image { amphi_snapshot: SNAPSHOT_SCHEMA, digest, hash, specs, state };
    serde_json::to_vec(&image).expect("a state has only string and number keys and finite numbers")
}

/// Reads a snapshot. The caller has checked that the bytes are those that were written.
///
/// # Errors
/// The bytes are no snapshot, or one of a newer build.
pub fn decode(bytes: &[u8]) -> Result<Loaded, SnapshotError> {
    #[derive(Deserialize)]
    struct Head {
        amphi_snapshot: u32,
    }
    let stored: Stored = match serde_json::from_slice(bytes) {
        Ok(stored) => stored,
        // Newer shapes need not fit: say so rather than what does not fit.
        Err(error) => match serde_json::from_slice::<Head>(bytes) {
            Ok(head) if head.amphi_snapshot > SNAPSHOT_SCHEMA => return Err(SnapshotError::NewerSchema { found: head.amphi_snapshot }),
            Ok(_) | Err(_) => return Err(error.into()),
        },
    };
    let Stored { amphi_snapshot: found, digest, hash, specs, mut state } = stored;
    if found > SNAPSHOT_SCHEMA {
        return Err(SnapshotError::NewerSchema { found });
    }
    let mut plans: BTreeMap<&str, Arc<Plan>> = BTreeMap::new();
    for epic in state.epics.values_mut() {
        let Some((known, spec)) = specs.get_key_value(&epic.spec_hash) else {
            return Err(SnapshotError::SpecMissing { hash: epic.spec_hash.clone() });
        };
        epic.plan = plans.entry(known).or_insert_with(|| Arc::new(Plan::expand(spec))).clone();
        epic.spec = spec.clone();
    }
    let is_exact = state.digest() == digest;
    Ok(Loaded { state, hash, is_exact })
}

/// Stands in an epic until [`decode`] puts the specification there.
pub(crate) fn no_spec() -> Arc<EpicSpec> {
    let empty = r#"{"name":"unread","project":"unread","priority":0,"tasks":[]}"#;
    Arc::new(serde_json::from_str(empty).expect("an epic needs no more than a name, a project, a priority and tasks"))
}

/// Stands in an epic until [`decode`] expands its specification.
pub(crate) fn no_plan() -> Arc<Plan> {
    Arc::new(Plan::expand(&no_spec()))
}

/// A map whose keys are no strings, as a list of pairs.
pub(crate) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
