//! What a backup says of itself: a JSON file, and its hash beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use amphi_adapters::nats::copies::{CopyError, StreamCopy};
use amphi_adapters::nats::remembered::write_durably;
use amphi_protocol::ids::{CommitIndex, Epoch, ShardId};
use amphi_protocol::journal::Record;
use serde::{Deserialize, Serialize};

/// The number of the format that this build writes.
pub(super) const FORMAT: u32 = 1;
const FILE: &str = "manifest.json";
const HASH_FILE: &str = "manifest.sha256";

/// Which account of the server a stream belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// Managers and journals.
    Core,
    /// Clients and nodes.
    Edge,
}

/// One stream of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Whose.
    pub account: Account,
    /// The copy.
    #[serde(flatten)]
    pub copy: StreamCopy,
}

/// Where a journal stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardTail {
    /// The shard.
    pub shard: ShardId,
    /// Its last record.
    pub index: CommitIndex,
    /// That record's hash.
    pub hash: String,
    /// The term of that record.
    pub epoch: Epoch,
}

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub amphi_backup: u32,
    /// The cluster.
    pub cluster: String,
    /// When it was begun, RFC 3339.
    pub made_at: String,
    /// The build that wrote it.
    pub version: String,
    /// Where each shard stood.
    pub shards: Vec<ShardTail>,
    /// What names the data folder of each node of that machine: in a restored folder it is the same node again, not another of that id.
    pub homes: BTreeMap<String, String>,
    /// Its streams, in the order in which they were copied.
    pub parts: Vec<Part>,
}

/// Why a folder is no good backup.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It holds no manifest that can be read.
    #[error("{folder} holds no backup: {why}")]
    Missing {
        /// The folder.
        folder: String,
        /// What is wrong.
        why: String,
    },
    /// A file is not what was written.
    #[error("the backup is damaged: {what}")]
    Damaged {
        /// How that shows.
        what: String,
    },
}

impl Manifest {
    /// Reads and checks the manifest of a backup.
    ///
    /// # Errors
    /// It is missing, of a newer build, or was changed since it was written.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let missing = |why: String| ManifestError::Missing { folder: folder.display().to_string(), why };
        let bytes = fs::read(folder.join(FILE)).map_err(|error| missing(format!("{FILE}: {error}")))?;
        let hash = fs::read_to_string(folder.join(HASH_FILE)).map_err(|error| missing(format!("{HASH_FILE}: {error}")))?;
        if Record::hash(&bytes) != hash.trim() {
            return Err(ManifestError::Damaged { what: format!("{FILE} does not have the hash in {HASH_FILE}") });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| missing(format!("{FILE}: {error}")))?;
        if manifest.amphi_backup > FORMAT {
            return Err(missing(format!("its format is {}, and this build reads up to {FORMAT}", manifest.amphi_backup)));
        }
        Ok(manifest)
    }

    /// Compares every file with what was written.
    ///
    /// # Errors
    /// The first that differs.
    pub async fn check_files(&self, folder: &Path) -> Result<(), ManifestError> {
        for part in &self.parts {
            part.copy.check(folder).await.map_err(|error| ManifestError::Damaged { what: words(&error) })?;
        }
        Ok(())
    }

    pub(super) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        write_durably(&folder.join(FILE), &bytes)?;
        write_durably(&folder.join(HASH_FILE), Record::hash(&bytes).as_bytes())
    }

    /// The shards whose journals are in it.
    pub(super) fn shards_of_parts(&self) -> Vec<ShardId> {
        let number = |part: &Part| part.copy.stream.strip_prefix("AMPHI_JOURNAL_")?.parse().ok().map(ShardId);
        self.parts.iter().filter_map(number).collect()
    }
}

fn words(error: &CopyError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
