//! A backup becomes the store of a data folder in which nothing runs. What nodes of that folder remember is compared first: a backup that is
//! older than what they have seen takes effects and tokens back that were given away, so it needs the operator's word.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use amphi_adapters::nats::managed::{DataLock, LockError};
use amphi_adapters::nats::remembered::{Remembered, write_durably};
use amphi_protocol::ids::{CommitIndex, NodeId, ShardId};
use serde::Serialize;

use super::manifest::{Manifest, ManifestError, ShardTail};
use super::{HOME_FILE, put_back};

/// What is wanted.
#[derive(Debug)]
pub struct RestoreOptions {
    /// The backup.
    pub from: PathBuf,
    /// The data folder.
    pub data: PathBuf,
    /// Also into a folder that holds a cluster; its store is moved aside.
    pub force: bool,
    /// Also if nodes remember more than the backup holds.
    pub accept_older: bool,
    /// The time, RFC 3339.
    pub now: String,
}

/// What was restored.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The cluster.
    pub cluster: String,
    /// When the backup was made.
    pub made_at: String,
    /// Where each shard stands now.
    pub shards: Vec<ShardTail>,
    /// What nodes remembered beyond that and had to forget.
    pub forgotten: Vec<Forgotten>,
    /// Where the former store is, if there was one.
    pub former_store: Option<PathBuf>,
}

/// Commits that a node of the folder had seen and the backup does not hold.
#[derive(Debug, Clone, Serialize)]
pub struct Forgotten {
    /// The node's folder.
    pub node: String,
    /// The shard.
    pub shard: ShardId,
    /// The last commit that it remembered.
    pub remembered: CommitIndex,
    /// The last commit of the backup.
    pub restored: CommitIndex,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup is not good.
    #[error(transparent)]
    Backup(#[from] ManifestError),
    /// Somebody uses the folder.
    #[error(transparent)]
    InUse(#[from] LockError),
    /// The folder holds something.
    #[error("{} is not empty", data.display())]
    NotEmpty {
        /// The folder.
        data: PathBuf,
    },
    /// The folder belongs to another cluster.
    #[error("{} belongs to the cluster {found}, and the backup is of {wanted}", data.display())]
    OtherCluster {
        /// The folder.
        data: PathBuf,
        /// Its cluster.
        found: String,
        /// The backup's.
        wanted: String,
    },
    /// The backup is old.
    #[error("the backup is older than what was seen here: {} remembers commit {} of shard {}, and the backup ends at {}",
        first.node, first.remembered, first.shard, first.restored)]
    Older {
        /// The first node that remembers more.
        first: Forgotten,
    },
    /// A file could not be moved, read or written.
    #[error("{what} failed")]
    File {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The streams could not be made, or do not prove good.
    #[error("the restored journals do not prove good: {why}")]
    Unproven {
        /// What was found.
        why: String,
    },
}

/// Restores a backup.
///
/// # Errors
/// See [`RestoreError`]; a folder that held nothing is left without a store, one that held a cluster gets its store back.
pub async fn restore(options: &RestoreOptions) -> Result<Restored, RestoreError> {
    let manifest = Manifest::read(&options.from)?;
    manifest.check_files(&options.from).await?;
    let data = &options.data;
    let store = data.join("nats").join("store");
    if !options.force && fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(RestoreError::NotEmpty { data: data.clone() });
    }
    let id_file = data.join("cluster-id");
    let known = fs::read_to_string(&id_file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if let Some(found) = known.filter(|known| *known != manifest.cluster) {
        return Err(RestoreError::OtherCluster { data: data.clone(), found, wanted: manifest.cluster });
    }
    {
        // `up` must not run; the server that it may have left behind is ended when ours starts.
        let _free = DataLock::acquire(data)?;
    }
    let forgotten = older(data, &manifest)?;
    if let Some(first) = forgotten.first().filter(|_| !options.accept_older) {
        return Err(RestoreError::Older { first: first.clone() });
    }
    amphi_adapters::nats::managed::end_leftover(data).map_err(|error| RestoreError::Unproven { why: error.to_string() })?;
    let former = aside(&store, &options.now)?;
    let proven = put_back(&manifest, &options.from, data).await.map_err(|error| format!("{error:#}")).and_then(|tails| {
        if tails == manifest.shards {
            Ok(tails)
        } else {
            Err(format!("they end at {tails:?}, and the manifest says {:?}", manifest.shards))
        }
    });
    let shards = match proven {
        Ok(shards) => shards,
        Err(why) => {
            let _gone = fs::remove_dir_all(&store);
            if let Some(former) = &former {
                fs::rename(former, &store).map_err(file("putting the former store back"))?;
            }
            return Err(RestoreError::Unproven { why });
        }
    };
    write_durably(&id_file, manifest.cluster.as_bytes()).map_err(file("writing the cluster's id"))?;
    settle(data, &manifest).map_err(file("writing the nodes' folders"))?;
    forget(data, &forgotten, options)?;
    Ok(Restored { cluster: manifest.cluster, made_at: manifest.made_at, shards, forgotten, former_store: former })
}

/// What nodes of the folder remember beyond the backup.
fn older(data: &Path, manifest: &Manifest) -> Result<Vec<Forgotten>, RestoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data).map_err(file("reading the data folder"))?.flatten().filter(|entry| entry.path().is_dir()) {
        for shard in Remembered::shards(&entry.path()).map_err(file("reading what a node remembers"))? {
            let remembered = Remembered::read(&entry.path(), shard).map_err(file("reading what a node remembers"))?;
            let Some(remembered) = remembered.filter(|remembered| remembered.cluster_id == manifest.cluster) else { continue };
            let restored = manifest.shards.iter().find(|tail| tail.shard == shard).map_or(CommitIndex(0), |tail| tail.index);
            if remembered.index > restored {
                let node = entry.file_name().to_string_lossy().into_owned();
                found.push(Forgotten { node, shard, remembered: remembered.index, restored });
            }
        }
    }
    found.sort_by(|a, b| (&a.node, a.shard).cmp(&(&b.node, b.shard)));
    Ok(found)
}

/// The former store stays, under another name.
fn aside(store: &Path, now: &str) -> Result<Option<PathBuf>, RestoreError> {
    if !store.exists() {
        return Ok(None);
    }
    let former = store.with_file_name(format!("store-before-restore-{}", now.replace(':', "-")));
    fs::rename(store, &former).map_err(file("moving the former store aside"))?;
    Ok(Some(former))
}

/// Nodes that have no folder here get one that is known to the cluster as theirs.
fn settle(data: &Path, manifest: &Manifest) -> io::Result<()> {
    for (node, home) in manifest.homes.iter().filter(|(node, _)| NodeId::parse(node).is_ok()) {
        let folder = data.join(node);
        if !folder.join(HOME_FILE).exists() {
            fs::create_dir_all(&folder)?;
            write_durably(&folder.join(HOME_FILE), home.as_bytes())?;
        }
    }
    Ok(())
}

/// Nodes forget what the backup does not hold, and the folder says for ever that they did.
fn forget(data: &Path, forgotten: &[Forgotten], options: &RestoreOptions) -> Result<(), RestoreError> {
    for lost in forgotten {
        fs::remove_file(Remembered::path(&data.join(&lost.node), lost.shard)).map_err(file("removing what a node remembers"))?;
    }
    let note = serde_json::json!({ "at": options.now, "from": options.from, "forgotten": forgotten });
    let mut log =
        fs::OpenOptions::new().create(true).append(true).open(data.join("restores.ndjson")).map_err(file("noting the restore"))?;
    writeln!(log, "{note}").and_then(|()| log.sync_all()).map_err(file("noting the restore"))
}

fn file(what: &'static str) -> impl Fn(io::Error) -> RestoreError {
    move |source| RestoreError::File { what: what.to_owned(), source }
}
