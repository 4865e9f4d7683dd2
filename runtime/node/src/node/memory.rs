//! What the node remembers of the journal, outside the store that holds it.

use std::path::PathBuf;

use amphi_adapters::nats::{Remembered, RememberedWriter};
use amphi_ports::{StoreError, TailMemory};
use amphi_protocol::ids::{CommitIndex, ShardId};

/// The memory of one node, in its data folder.
#[derive(Debug)]
pub struct NodeMemory {
    data: PathBuf,
    cluster: String,
    writer: RememberedWriter,
}

impl NodeMemory {
    /// The memory in `data` for the cluster `cluster`.
    pub fn open(data: PathBuf, cluster: String) -> Self {
        Self { writer: RememberedWriter::start(data.clone()), data, cluster }
    }

    /// Writes what is noted.
    pub async fn flush(&self) {
        if let Err(error) = self.writer.flush().await {
            tracing::warn!(%error, "what the node remembers of the journal could not be written");
        }
    }
}

impl TailMemory for NodeMemory {
    fn recall(&self, shard: ShardId) -> Result<Option<(u64, String)>, StoreError> {
        let failed = |source: std::io::Error| StoreError {
            what: "reading what this node remembers of the journal".to_owned(),
            source: Some(Box::new(source)),
            damaged: true,
        };
        let remembered = Remembered::read(&self.data, shard).map_err(failed)?;
        match remembered {
            Some(remembered) if remembered.cluster_id != self.cluster => {
                let what = format!("this node belongs to cluster {}, not to {}", remembered.cluster_id, self.cluster);
                Err(StoreError { what, source: None, damaged: true })
            }
            other => Ok(other.map(|remembered| (remembered.index.0, remembered.hash))),
        }
    }

    fn remember(&self, shard: ShardId, index: u64, hash: &str) {
        self.writer.note(Remembered { cluster_id: self.cluster.clone(), shard, index: CommitIndex(index), hash: hash.to_owned() });
    }
}
