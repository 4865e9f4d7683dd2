//! Memory outside the store: what a node knows of each journal, kept in its own data folder, so that an old backup or an empty disk
//! under JetStream is noticed.
//!
//! Never goes back by itself, and is never trusted to say what is *in* the journal: it says only how far the journal must reach and
//! which record must stand there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amphi_protocol::ids::{CommitIndex, ShardId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Shortest time between two writes that nobody waits for.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);

/// How far a journal reached when this node last looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The cluster that the journal belongs to.
    pub cluster_id: String,
    /// Its shard.
    pub shard: ShardId,
    /// Dense index of the last record known.
    pub index: CommitIndex,
    /// Hash of that record.
    pub hash: String,
}

impl Remembered {
    /// The file of `shard` in a node's data folder.
    pub fn path(data: &Path, shard: ShardId) -> PathBuf {
        data.join(format!("remembered-{shard}.json"))
    }

    /// What is remembered of `shard`; `None` if nothing was ever. A file that cannot be understood is an error, not "nothing".
    pub fn read(data: &Path, shard: ShardId) -> io::Result<Option<Self>> {
        match fs::read(Self::path(data, shard)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The shards of which something is remembered in a node's data folder, which may not exist yet.
    pub fn shards(data: &Path) -> io::Result<Vec<ShardId>> {
        let entries = match fs::read_dir(data) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut shards = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("remembered-")?.strip_suffix(".json")?.parse().ok());
            shards.extend(number.map(ShardId));
        }
        Ok(shards)
    }

    /// Writes it so that after a power cut either the old or the new content is there. Blocking.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        write_durably(&Self::path(data, self.shard), &serde_json::to_vec(self)?)
    }
}

/// Replaces the content of a private file (mode 0600) atomically and durably. Blocking.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

/// Writes what is remembered, newest only, at most every 200 ms unless somebody waits for it. One per node. A note of an older
/// commit of the same journal is passed over: it tells nothing new.
#[derive(Debug, Clone)]
pub struct RememberedWriter {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Note(Remembered),
    Flush(oneshot::Sender<io::Result<()>>),
}

impl RememberedWriter {
    /// Starts writing to the node's data folder `data`. Ends when the last clone is dropped, after a last write.
    pub fn start(data: PathBuf) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(write_all(data, inbox));
        Self { orders }
    }

    /// Notes it; written soon. Only the newest note of a stretch is written, so the queue drains at once.
    pub fn note(&self, remembered: Remembered) {
        if self.orders.send(Order::Note(remembered)).is_err() {
            tracing::error!("the writer of the node's memory has ended");
        }
    }

    /// Returns when everything noted before is on the disk.
    pub async fn flush(&self) -> io::Result<()> {
        let (answer, done) = oneshot::channel();
        let ended = || io::Error::other("the writer of the node's memory has ended");
        self.orders.send(Order::Flush(answer)).map_err(|_| ended())?;
        done.await.map_err(|_| ended())?
    }
}

async fn write_all(data: PathBuf, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let mut newest = Newest::new();
    let mut waiting: Vec<oneshot::Sender<io::Result<()>>> = Vec::new();
    let mut open = true;
    while open {
        let Some(first) = inbox.recv().await else { break };
        take(first, &mut newest, &mut waiting);
        // Whoever waits is served at once; notes alone collect for a while.
        let pause = tokio::time::sleep(WRITE_INTERVAL);
        tokio::pin!(pause);
        while waiting.is_empty() && open {
            tokio::select! {
                () = &mut pause => break,
                order = inbox.recv() => match order {
                    Some(order) => take(order, &mut newest, &mut waiting),
                    None => open = false,
                },
            }
        }
        while let Ok(order) = inbox.try_recv() {
            take(order, &mut newest, &mut waiting);
        }
        let written = write_newest(&data, &mut newest).await;
        if let Err(error) = &written {
            tracing::error!(%error, folder = %data.display(), "could not write the node's memory of the journal");
        }
        for answer in waiting.drain(..) {
            let copy = written.as_ref().map(|&()| ()).map_err(|e| io::Error::new(e.kind(), e.to_string()));
            answer.send(copy).ok();
        }
    }
}

/// The newest note of each shard, and whether it is on the disk.
type Newest = BTreeMap<ShardId, (Remembered, bool)>;

fn take(order: Order, newest: &mut Newest, waiting: &mut Vec<oneshot::Sender<io::Result<()>>>) {
    match order {
        Order::Note(note) => match newest.get(&note.shard) {
            Some((known, _)) if known.cluster_id == note.cluster_id && known.index >= note.index => {}
            _ => drop(newest.insert(note.shard, (note, false))),
        },
        Order::Flush(answer) => waiting.push(answer),
    }
}

/// A note that could not be written stays for the next try.
async fn write_newest(data: &Path, newest: &mut Newest) -> io::Result<()> {
    for (note, written) in newest.values_mut().filter(|(_, written)| !written) {
        let (note, folder) = (note.clone(), data.to_owned());
        tokio::task::spawn_blocking(move || note.write(&folder)).await.map_err(io::Error::other)??;
        *written = true;
    }
    Ok(())
}
