//! The nats-server that `amphi up` runs itself: started, watched, started again, ended.
//!
//! Two servers on one store lose each other's acknowledged messages, so nothing starts here without a [`DataLock`], and a server that
//! a killed `up` left behind is ended first. Port and credentials stay the same over restarts. Never logs or passes credentials on a
//! command line.
//!
//! Start at [`ManagedServer::start`].

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphi_protocol::ids::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

pub mod accounts;
mod files;
mod health;
mod keeper;
mod leftover;
mod locate;
mod lock;
mod users;

pub use leftover::{end_leftover, end_process, process_start_time};
pub use locate::find_server;
pub use lock::{DataLock, LockError};
pub use users::{AdmitError, NodeUrls, Users};

use files::{Folder, Identity};
use keeper::Keeper;

/// How long a server may take until it is ready; recovery of a large store is part of it.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at a server that starts.
const READY_POLL: Duration = Duration::from_millis(20);
/// How often other ports are tried when the server dies at its very first start.
const PORT_TRIES: u32 = 3;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Loss of power too: each write is synced before its ack.
    #[default]
    Power,
    /// kill -9 of anything, but not loss of power. Faster.
    Process,
}

/// The name of a managed server: this and so many random bytes in hex.
const NAME_PREFIX: &str = "amphi-";
const NAME_BYTES: usize = 8;

/// Whether a server has the name of a managed one, so that another `amphi up` knows one when it joins.
pub(super) fn has_managed_name(name: &str) -> bool {
    let random = name.strip_prefix(NAME_PREFIX);
    random.is_some_and(|random| random.len() == 2 * NAME_BYTES && random.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// How to run the server.
#[derive(Debug, Clone)]
pub struct ManagedOptions {
    /// The data folder of `up`; the server lives in `nats/` below it.
    pub data: PathBuf,
    /// Folder that holds `bin/nats-server`, looked at first.
    pub tools: Option<PathBuf>,
    /// What an acknowledged write must survive.
    pub durability: Durability,
    /// Nodes of this machine, each of which gets a user of its own and may have a Manager's seat.
    pub nodes: Vec<NodeId>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// No usable program.
    #[error("no nats-server of version 2.11 or newer was found ({looked})\nrun scripts/get-nats-server.sh, or put one on PATH")]
    NotFound {
        /// Where it was looked for, and what was wrong there.
        looked: String,
    },
    /// A file of the server could not be read or written.
    #[error("{what} failed")]
    File {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It does not start.
    #[error("nats-server does not become ready: {why}\nits log is {}", log.display())]
    NotReady {
        /// What was seen.
        why: String,
        /// Where to look.
        log: PathBuf,
    },
    /// A process that a killed `up` left behind does not end.
    #[error("process {pid}, left behind on this data folder, does not end")]
    LeftoverLives {
        /// Its process.
        pid: u32,
    },
}

/// What the watched server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// Its process runs (it may still be recovering its store).
    Running {
        /// Its process.
        pid: u32,
    },
    /// It is dead and will be started again within a second.
    Down,
    /// It was stopped.
    Stopped,
    /// It died too often in a row and is not started again.
    Failed {
        /// The last exit.
        why: String,
    },
}

/// A running server. Dropping it kills the server; [`ManagedServer::stop`] ends it in order.
#[derive(Debug)]
pub struct ManagedServer {
    keeper: Keeper,
    users: Users,
    health: tokio::task::JoinHandle<()>,
}

impl ManagedServer {
    /// Ends a left-over server of this data folder, starts one and returns when it takes JetStream requests. The lock proves that
    /// nobody else does the same; hold it as long as the server.
    pub async fn start(options: ManagedOptions, lock: &DataLock) -> Result<Self, ManagedError> {
        debug_assert!(lock.path().starts_with(&options.data), "the lock must be that of the data folder");
        let prepared = tokio::task::spawn_blocking(move || prepare(options)).await;
        let (folder, program, mut identity, durability) =
            prepared.map_err(|e| file_error("preparing nats-server", io::Error::other(e)))??;
        for attempt in 1.. {
            folder.write_config(&identity, durability)?;
            folder.write_users(&identity)?;
            let keeper =
                Keeper::start(program.clone(), folder.clone()).map_err(|e| file_error("starting the thread that keeps nats-server", e))?;
            match wait_ready(&keeper, &identity, &folder).await {
                Ok(()) => {
                    keeper.was_ready();
                    let health = tokio::spawn(health::watch(keeper.handle(), identity.clone(), folder.clone()));
                    let users = Users { folder, identity: Arc::new(Mutex::new(identity)), handle: keeper.handle(), durability };
                    return Ok(Self { keeper, users, health });
                }
                // Most often somebody took the port between our look and the server's start.
                Err(error) if attempt < PORT_TRIES && matches!(*keeper.states().borrow(), ServerState::Failed { .. }) => {
                    tracing::warn!(%error, "nats-server did not start; trying other ports");
                    identity = folder.change_ports(&identity)?;
                }
                Err(error) => {
                    keeper.stop().await;
                    return Err(error);
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// A URL with credentials that any client can use; it may do all that a client may. A secret.
    pub fn url(&self) -> String {
        self.users.identity().url()
    }

    /// A URL that may do everything among nodes and Managers. A secret.
    pub fn core_url(&self) -> String {
        self.users.identity().core_url()
    }

    /// The same machine's URL on the clients' side. A secret.
    pub fn edge_url(&self) -> String {
        self.users.identity().edge_url()
    }

    /// The URL of another client, by its access (`viewer`). A secret.
    pub fn client_url(&self, user: &str) -> Option<String> {
        let identity = self.users.identity();
        identity.clients.get(user).map(|password| identity.url_of(user, password))
    }

    /// Who may log in.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// The monitoring port, on loopback.
    pub fn monitor_port(&self) -> u16 {
        self.users.identity().monitor_port
    }

    /// What an acknowledged write survives.
    pub fn durability(&self) -> Durability {
        self.users.durability
    }

    /// The process; `None` while it is dead.
    pub fn pid(&self) -> Option<u32> {
        match *self.keeper.states().borrow() {
            ServerState::Running { pid } => Some(pid),
            ServerState::Down | ServerState::Stopped | ServerState::Failed { .. } => None,
        }
    }

    /// Tells each change; the present state can be read from it.
    pub fn states(&self) -> watch::Receiver<ServerState> {
        self.keeper.states()
    }

    /// Ends the server in order (TERM, after 10 s KILL) and returns when it is gone.
    pub async fn stop(self) {
        self.health.abort();
        self.keeper.stop().await;
    }
}

/// The URLs of both sides of the server that lives in a data folder, if one ever did; whether it runs is another question. Secrets.
///
/// # Errors
/// Its identity cannot be read.
pub fn local_urls(data: &std::path::Path) -> io::Result<Option<(String, String)>> {
    let bytes = match std::fs::read(data.join("nats").join("identity.json")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let identity: Identity = serde_json::from_slice(&bytes)?;
    Ok(Some((identity.core_url(), identity.edge_url())))
}

fn prepare(options: ManagedOptions) -> Result<(Arc<Folder>, PathBuf, Identity, Durability), ManagedError> {
    let program = locate::find_server(options.tools.as_deref())?;
    let folder = Folder::open(&options.data)?;
    leftover::end_leftover(&options.data)?;
    folder.move_to_accounts()?;
    let mut identity = folder.identity()?;
    for node in &options.nodes {
        identity.own_node(node)?;
    }
    folder.keep(&identity)?;
    Ok((Arc::new(folder), program, identity, options.durability))
}

async fn wait_ready(keeper: &Keeper, identity: &Identity, folder: &Folder) -> Result<(), ManagedError> {
    let states = keeper.states();
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let not_ready = |why: String| ManagedError::NotReady { why, log: folder.log() };
        if let ServerState::Failed { why } = &*states.borrow() {
            return Err(not_ready(format!("{why}; {}", folder.log_tail())));
        }
        match health::probe(identity).await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() >= deadline => return Err(not_ready(why)),
            Err(_) => {}
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

fn file_error(what: impl Into<String>, source: io::Error) -> ManagedError {
    ManagedError::File { what: what.into(), source }
}
