//! The node's end of the pipe to `up`: what the node is told, how it says that it is ready, how it learns that `up` is gone.
//!
//! The spec holds credentials, so it comes on standard input and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use amphi_protocol::ids::{NodeId, ShardId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Longest spec that is read.
const SPEC_BYTES_MAX: u64 = 1024 * 1024;

/// What a node process is told by `up`.
#[derive(Clone, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its id.
    pub node: NodeId,
    /// Where NATS is, with credentials.
    pub nats: String,
    /// The same server on the clients' side, where clients have an account of their own.
    #[serde(default)]
    pub edge: Option<String>,
    /// Its own data folder; exists, mode 0700.
    pub data: PathBuf,
    /// Tasks that it runs at once.
    pub capacity: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The team file, absolute.
    pub config: Option<PathBuf>,
    /// Whether it has a Manager's seat: it stands by, and leads when nobody else does.
    pub seat: bool,
    /// Shards whose journals a node of this `up` remembers.
    #[serde(default)]
    pub remembered: BTreeSet<ShardId>,
    /// Where it listens for HTTP.
    pub http: Option<SocketAddr>,
    /// Which cluster it belongs to, for what it remembers of the journal.
    pub cluster: String,
    /// Whether `up` runs the NATS server itself.
    pub managed: bool,
}

impl std::fmt::Debug for NodeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeSpec").field("node", &self.node).field("data", &self.data).field("seat", &self.seat).finish_non_exhaustive()
    }
}

/// The line by which a node says that it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReadyLine {
    pub(super) ready: ReadyBody,
}

/// What it says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ReadyBody {
    /// `http://host:port`, where it really listens.
    #[serde(default)]
    pub(super) http: Option<String>,
    /// How many shards the cluster has.
    #[serde(default)]
    pub(super) shards: u32,
}

/// Reads the spec from standard input, and watches the pipe from then on: the token is cancelled when `up` is gone. Blocks until the
/// line is there; call it first thing.
pub fn read_spec() -> io::Result<(NodeSpec, CancellationToken)> {
    let mut line = Vec::new();
    let read = io::stdin().lock().take(SPEC_BYTES_MAX).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no spec on standard input; `amphi up` starts this program"));
    }
    let spec = serde_json::from_slice(&line)?;
    let gone = CancellationToken::new();
    let told = gone.clone();
    // A thread of its own: the runtime's standard input would hold up its end.
    std::thread::Builder::new().name("watch up".to_owned()).spawn(move || {
        let mut sink = [0; 256];
        let mut pipe = io::stdin().lock();
        loop {
            match pipe.read(&mut sink) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        told.cancel();
    })?;
    Ok((spec, gone))
}

/// Tells `up` that this node is registered and, with a seat, that its Manager leads.
pub fn announce_ready(http: Option<String>, shards: usize) -> io::Result<()> {
    let shards = u32::try_from(shards).unwrap_or(u32::MAX);
    let line = serde_json::to_string(&ReadyLine { ready: ReadyBody { http, shards } })?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
