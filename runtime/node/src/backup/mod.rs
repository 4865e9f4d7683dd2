//! Backup and restore of a cluster with a managed NATS server: what is copied, in which order, and how a copy is proven to be good.
//!
//! Journals are copied first, what they refer to after them, so nothing that a journal names can be missing unless it was given up
//! meanwhile. A backup is proven by restoring it into a folder of its own: every journal is read to its end, its chain of hashes and what
//! recovery relies on are looked at, and only then the manifest says where each shard stood. A restore does the same in the real folder.

mod manifest;
mod proof;
mod restore;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use amphi_adapters::nats::connect;
use amphi_adapters::nats::copies::{StreamCopy, stream_names};
use amphi_adapters::nats::managed::{DataLock, Durability, ManagedOptions, ManagedServer, local_urls};
use amphi_protocol::subjects::{MESSAGES_STREAM, OBJECTS_BUCKET, OUTPUT_STREAM, PINS_BUCKET, SEATS_STREAM};
use anyhow::{Context as _, bail};
use async_nats::Client;

pub use manifest::{Account, Manifest, Part, ShardTail};
pub use restore::{RestoreError, RestoreOptions, restore};

/// In a node's folder: what names it over all its lives.
const HOME_FILE: &str = "home";

/// Both sides of a cluster's server.
struct Sides {
    core: Client,
    edge: Client,
}

impl Sides {
    async fn open((core, edge): &(String, String)) -> anyhow::Result<Self> {
        let core = connect(core, "amphi backup").await.context("connecting to NATS")?;
        let edge = connect(edge, "amphi backup").await.context("connecting to NATS on the clients' side")?;
        Ok(Self { core, edge })
    }

    fn of(&self, account: Account) -> &Client {
        match account {
            Account::Core => &self.core,
            Account::Edge => &self.edge,
        }
    }
}

/// Writes a backup of the cluster that runs in `data` to the folder `to`, which must not exist.
///
/// # Errors
/// Nothing runs there, a stream cannot be copied, or the copy does not prove good; nothing is left at `to` then.
pub async fn backup(data: &Path, to: &Path, made_at: String) -> anyhow::Result<Manifest> {
    let urls = local_urls(data).context("reading who may log in")?;
    let Some(urls) = urls else { bail!("no cluster with a NATS server of its own lives in {}", data.display()) };
    let cluster = std::fs::read_to_string(data.join("cluster-id")).context("reading the cluster's id")?.trim().to_owned();
    let homes = homes(data).context("reading the nodes' folders")?;
    let sides = Sides::open(&urls).await?;
    if to.exists() {
        bail!("{} is there already", to.display());
    }
    let draft = draft_of(to)?;
    let made = write(&sides, &draft, (cluster, made_at, homes)).await;
    match made {
        Ok(manifest) => {
            std::fs::rename(&draft, to).with_context(|| format!("renaming {} to {}", draft.display(), to.display()))?;
            Ok(manifest)
        }
        Err(error) => {
            // Half a backup is worse than none.
            let _kept = std::fs::remove_dir_all(&draft);
            Err(error)
        }
    }
}

/// What names the folders of the nodes below a data folder.
fn homes(data: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut homes = BTreeMap::new();
    for entry in std::fs::read_dir(data)?.flatten() {
        match std::fs::read_to_string(entry.path().join(HOME_FILE)) {
            Ok(home) => drop(homes.insert(entry.file_name().to_string_lossy().into_owned(), home.trim().to_owned())),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(homes)
}

/// A folder beside the wanted one, so that a rename is all that is left to do.
fn draft_of(to: &Path) -> anyhow::Result<PathBuf> {
    let name = to.file_name().and_then(|name| name.to_str()).context("the target has no name")?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let draft = parent.join(format!(".{name}.{}.part", std::process::id()));
    std::fs::create_dir(&draft).with_context(|| format!("making {}", draft.display()))?;
    Ok(draft)
}

async fn write(
    sides: &Sides,
    draft: &Path,
    (cluster, made_at, homes): (String, String, BTreeMap<String, String>),
) -> anyhow::Result<Manifest> {
    let mut parts = Vec::new();
    for (account, stream) in wanted(sides).await? {
        let copy = StreamCopy::take(sides.of(account), &stream, draft, account == Account::Edge).await?;
        parts.push(Part { account, copy });
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut manifest = Manifest { amphi_backup: manifest::FORMAT, cluster, made_at, version, shards: Vec::new(), homes, parts };
    // What was written is read again, and restored.
    let trial = draft.join("trial");
    manifest.check_files(draft).await?;
    manifest.shards = put_back(&manifest, draft, &trial).await.context("the backup does not prove good")?;
    std::fs::remove_dir_all(&trial).context("removing the trial")?;
    manifest.write(draft)?;
    Ok(manifest)
}

/// The streams of a backup: journals first, then what they refer to. Events are made again from the journal. The leases are
/// over by the time anybody sees them; beside them stands how many shards the cluster has.
async fn wanted(sides: &Sides) -> anyhow::Result<Vec<(Account, String)>> {
    let listed = |names: Result<Vec<String>, String>| names.map_err(|why| anyhow::anyhow!("listing the streams: {why}"));
    let core = listed(stream_names(&sides.core).await)?;
    let edge = listed(stream_names(&sides.edge).await)?;
    let journals = core.iter().filter(|name| name.starts_with("AMPHI_JOURNAL_"));
    let objects = format!("OBJ_{OBJECTS_BUCKET}");
    let pins = format!("KV_{PINS_BUCKET}");
    let others = core.iter().filter(|name| **name == objects || *name == SEATS_STREAM);
    let of_edge = edge.iter().filter(|name| [MESSAGES_STREAM, OUTPUT_STREAM, &pins].contains(&name.as_str()));
    let all: Vec<(Account, String)> =
        journals.chain(others).map(|name| (Account::Core, name.clone())).chain(of_edge.map(|name| (Account::Edge, name.clone()))).collect();
    if !all.iter().any(|(_, name)| name.starts_with("AMPHI_JOURNAL_")) {
        bail!("there is no journal on this server");
    }
    Ok(all)
}

/// Starts a server in `data`, which must have no store, makes the streams anew and looks at the journals. The server ends in any case.
async fn put_back(manifest: &Manifest, folder: &Path, data: &Path) -> anyhow::Result<Vec<ShardTail>> {
    let lock = DataLock::acquire(data)?;
    let options = ManagedOptions { data: data.to_owned(), tools: None, durability: Durability::Power, nodes: Vec::new() };
    let server = ManagedServer::start(options, &lock).await?;
    let done = load(manifest, folder, &(server.core_url(), server.edge_url())).await;
    server.stop().await;
    done
}

async fn load(manifest: &Manifest, folder: &Path, urls: &(String, String)) -> anyhow::Result<Vec<ShardTail>> {
    let sides = Sides::open(urls).await?;
    for part in &manifest.parts {
        part.copy.put_back(sides.of(part.account), folder).await?;
    }
    let mut tails = Vec::new();
    for shard in manifest.shards_of_parts() {
        tails.push(proof::of_shard(&sides.core, shard).await?);
    }
    Ok(tails)
}
