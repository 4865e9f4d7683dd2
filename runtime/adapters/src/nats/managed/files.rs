//! What the server keeps in `<data>/nats/`: its identity (ports, credentials), its configuration, its store, its log, its pid.
//!
//! Everything here is private to the owner. The identity is written once and stays, so that clients find the server again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use amphi_protocol::access::Access;
use amphi_protocol::ids::NodeId;
use amphi_protocol::subjects::{EVENTS_STREAM, MESSAGES_STREAM, OUTPUT_STREAM, PINS_BUCKET};
use serde::{Deserialize, Serialize};

use super::super::remembered::write_durably;
use super::accounts::{Accounts, CORE_ACCOUNT, CORE_USER, EDGE_ACCOUNT, EDGE_USER, Login, NodeLogin};
use super::lock::create_private_folder;
use super::{Durability, ManagedError, NAME_BYTES, NAME_PREFIX, file_error};

/// Bytes of the log's end that an error shows.
const LOG_TAIL_BYTES: u64 = 600;
/// The URLs of all clients by their access. Private to the owner, as everything here.
pub(super) const USERS_FILE: &str = "users.json";
/// What clients read, and where nodes leave it. Artifacts stay with the snapshots, which are in the same bucket.
fn edge_streams() -> [String; 4] {
    [EVENTS_STREAM.to_owned(), MESSAGES_STREAM.to_owned(), OUTPUT_STREAM.to_owned(), format!("KV_{PINS_BUCKET}")]
}

/// Largest file of what the server writes outside its own log before it is turned over.
const CONSOLE_BYTES_MAX: u64 = 1024 * 1024;

/// Who the server is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Unique, so that a probe knows whether ours answers.
    pub(super) server_name: String,
    pub(super) port: u16,
    pub(super) monitor_port: u16,
    pub(super) user: String,
    pub(super) password: String,
    /// Of [`CORE_USER`]; missing in data folders of earlier builds.
    #[serde(default)]
    pub(super) core_password: String,
    /// Of [`EDGE_USER`]; missing in data folders of earlier builds.
    #[serde(default)]
    pub(super) edge_password: String,
    /// Passwords of the other clients by their users; missing in data folders of earlier builds.
    #[serde(default)]
    pub(super) clients: BTreeMap<String, String>,
    /// Nodes that may log in, by their ids.
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, KnownNode>,
    /// Nodes that were shut out; they are not let in again under these ids.
    #[serde(default)]
    pub(super) revoked: BTreeSet<String>,
}

impl Identity {
    /// For clients.
    pub(super) fn url(&self) -> String {
        self.url_of(&self.user, &self.password)
    }

    /// For `up` itself, and for nodes whose machine has no users of its own.
    pub(super) fn core_url(&self) -> String {
        self.url_of(CORE_USER, &self.core_password)
    }

    /// The same on the clients' side.
    pub(super) fn edge_url(&self) -> String {
        self.url_of(EDGE_USER, &self.edge_password)
    }

    pub(super) fn url_of(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Fills in what earlier builds did not have; true if something was missing.
    fn complete(&mut self) -> Result<bool, ManagedError> {
        let before = self.clone();
        for password in [&mut self.core_password, &mut self.edge_password] {
            if password.is_empty() {
                *password = random_hex(24)?;
            }
        }
        for access in [Access::Submitter, Access::Viewer, Access::Approver] {
            if !self.clients.contains_key(access.as_str()) {
                self.clients.insert(access.as_str().to_owned(), random_hex(24)?);
            }
        }
        Ok(before != *self)
    }

    /// A user for a node of this machine, made if there is none. Such a node may have a seat.
    pub(super) fn own_node(&mut self, node: &NodeId) -> Result<(), ManagedError> {
        self.revoked.remove(node.as_str());
        match self.nodes.get_mut(node.as_str()) {
            Some(known) => known.seat = true,
            None => {
                self.nodes.insert(node.to_string(), KnownNode { password: random_hex(24)?, seat: true });
            }
        }
        Ok(())
    }

    /// Everybody who may log in.
    fn accounts(&self) -> Accounts {
        let admin = (Access::Admin, Login { user: self.user.clone(), password: self.password.clone() });
        let others = self.clients.iter().filter_map(|(user, password)| {
            let access = Access::of_user(user)?;
            Some((access, Login { user: user.clone(), password: password.clone() }))
        });
        let nodes = self.nodes.iter().filter_map(|(node, known)| {
            let node = NodeId::parse(node).ok()?;
            Some(NodeLogin { node, password: known.password.clone(), seat: known.seat })
        });
        Accounts {
            core_password: self.core_password.clone(),
            edge_password: self.edge_password.clone(),
            clients: [admin].into_iter().chain(others).collect(),
            nodes: nodes.collect(),
        }
    }
}

/// A node that may log in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownNode {
    pub(super) password: String,
    /// Whether a Manager may run there.
    pub(super) seat: bool,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("server_name", &self.server_name).field("port", &self.port).finish_non_exhaustive()
    }
}

/// A process, told apart from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub(super) start_time: u64,
}

/// The folder of one server.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Creates what is missing. The path is made absolute, because the command line of the server is how it is recognised later.
    pub(super) fn open(data: &Path) -> Result<Self, ManagedError> {
        let root = data.join("nats");
        create_private_folder(&root).map_err(|e| file_error(format!("creating {}", root.display()), e))?;
        let root = root.canonicalize().map_err(|e| file_error(format!("finding {}", root.display()), e))?;
        let text = root.to_string_lossy();
        if text.contains(['"', '\\', '\n', char::REPLACEMENT_CHARACTER]) {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "the path holds a quote, a backslash, a line break or no UTF-8");
            return Err(file_error(format!("using {text} as data folder"), why));
        }
        Ok(Self { root })
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root.join("server.conf")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    fn pid_path(&self) -> PathBuf {
        self.root.join("pid.json")
    }

    /// The identity of before, or a new one. Ports that somebody else took in the meantime are replaced.
    pub(super) fn identity(&self) -> Result<Identity, ManagedError> {
        let path = self.root.join("identity.json");
        let known = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file_error(format!("reading {}", path.display()), error)),
        };
        let identity = match known {
            Some(bytes) => {
                let mut identity: Identity =
                    serde_json::from_slice(&bytes).map_err(|e| file_error(format!("reading {}", path.display()), e.into()))?;
                if identity.complete()? {
                    self.keep(&identity)?;
                }
                if is_free(identity.port) && is_free(identity.monitor_port) {
                    return Ok(identity);
                }
                tracing::warn!(port = identity.port, "the port of the NATS server is taken by another process; choosing a new one");
                with_free_ports(identity)?
            }
            None => {
                let mut identity = Identity {
                    server_name: format!("{NAME_PREFIX}{}", random_hex(NAME_BYTES)?),
                    port: 0,
                    monitor_port: 0,
                    user: Access::Admin.as_str().to_owned(),
                    password: random_hex(24)?,
                    core_password: String::new(),
                    edge_password: String::new(),
                    clients: BTreeMap::new(),
                    nodes: BTreeMap::new(),
                    revoked: BTreeSet::new(),
                };
                identity.complete()?;
                with_free_ports(identity)?
            }
        };
        self.keep(&identity)?;
        Ok(identity)
    }

    /// The same identity on other ports.
    pub(super) fn change_ports(&self, identity: &Identity) -> Result<Identity, ManagedError> {
        let identity = with_free_ports(identity.clone())?;
        self.keep(&identity)?;
        Ok(identity)
    }

    pub(super) fn keep(&self, identity: &Identity) -> Result<(), ManagedError> {
        let bytes = serde_json::to_vec(identity).map_err(|e| file_error("writing the identity of the NATS server", e.into()))?;
        write_durably(&self.root.join("identity.json"), &bytes).map_err(|e| file_error("writing the identity of the NATS server", e))
    }

    pub(super) fn write_config(&self, identity: &Identity, durability: Durability) -> Result<(), ManagedError> {
        let root = self.root.display();
        let sync_interval = match durability {
            Durability::Power => "always",
            Durability::Process => "\"2m\"",
        };
        let Identity { server_name, port, monitor_port, .. } = identity;
        let accounts = identity.accounts().to_config();
        let text = format!(
            r#"# Written by `amphi up` at each start; changes are lost.
server_name: "{server_name}"
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
max_payload: 8MB
max_pending: 64MB
write_deadline: "5s"
ping_interval: "20s"
{accounts}
jetstream {{
  store_dir: "{root}/store"
  sync_interval: {sync_interval}
  limits {{ default_max_consumers: 10000, max_ack_pending: 10000 }}
}}
log_file: "{root}/server.log"
logfile_size_limit: 10MB
logfile_max_num: 3
"#
        );
        write_durably(&self.config(), text.as_bytes()).map_err(|e| file_error("writing the configuration of the NATS server", e))
    }

    /// One URL for each client, for whoever may read this folder.
    pub(super) fn write_users(&self, identity: &Identity) -> Result<(), ManagedError> {
        let others = identity.clients.iter().map(|(user, password)| (user.as_str(), identity.url_of(user, password)));
        let urls: BTreeMap<&str, String> = others.chain([(Access::Admin.as_str(), identity.url())]).collect();
        let bytes = serde_json::to_vec_pretty(&urls).map_err(|e| file_error("writing the users of the NATS server", e.into()))?;
        write_durably(&self.root.join(USERS_FILE), &bytes).map_err(|e| file_error("writing the users of the NATS server", e))
    }

    /// What earlier builds kept in the one account that they had goes to the account that has it now. The server must not run.
    pub(super) fn move_to_accounts(&self) -> Result<(), ManagedError> {
        let accounts = self.root.join("store").join("jetstream");
        let (before, core, edge) = (accounts.join("$G"), accounts.join(CORE_ACCOUNT), accounts.join(EDGE_ACCOUNT).join("streams"));
        if core.exists() || !before.exists() {
            return Ok(());
        }
        let moved = || -> io::Result<()> {
            fs::create_dir_all(&edge)?;
            for stream in edge_streams() {
                let from = before.join("streams").join(&stream);
                if from.exists() {
                    fs::rename(from, edge.join(&stream))?;
                }
            }
            // Last: until then a broken move begins again.
            fs::rename(&before, &core)
        };
        moved().map_err(|e| file_error("moving the streams of an earlier build to their accounts", e))
    }

    /// Where the server's own output goes (panics and what it says before it has its log), turned over when it is large.
    pub(super) fn console(&self) -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.root.join("console.log");
        if fs::metadata(&path).is_ok_and(|m| m.len() > CONSOLE_BYTES_MAX) {
            fs::rename(&path, self.root.join("console.log.1"))?;
        }
        fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    pub(super) fn write_pid(&self, pid: PidFile) -> io::Result<()> {
        write_durably(&self.pid_path(), &serde_json::to_vec(&pid)?)
    }

    /// `None` if there is none, or none that can be understood.
    pub(super) fn read_pid(&self) -> Option<PidFile> {
        serde_json::from_slice(&fs::read(self.pid_path()).ok()?).ok()
    }

    pub(super) fn remove_pid(&self) {
        if let Err(error) = fs::remove_file(self.pid_path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "could not remove the pid file of the NATS server");
        }
    }

    /// The last lines of the log and of the console, for an error.
    pub(super) fn log_tail(&self) -> String {
        let mut text = tail(&self.root.join("console.log"));
        text.push_str(&tail(&self.log()));
        text.trim().replace('\n', " | ")
    }
}

fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn with_free_ports(mut identity: Identity) -> Result<Identity, ManagedError> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| file_error("looking for a free port", e));
    // Both at once, or they could be the same.
    let (first, second) = (listen()?, listen()?);
    let port = |listener: &TcpListener| listener.local_addr().map(|a| a.port()).map_err(|e| file_error("looking for a free port", e));
    identity.port = port(&first)?;
    identity.monitor_port = port(&second)?;
    Ok(identity)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// `bytes` random bytes from the kernel, as hex.
fn random_hex(bytes: usize) -> Result<String, ManagedError> {
    let mut buffer = vec![0; bytes];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut buffer));
    read.map_err(|e| file_error("reading random bytes", e))?;
    Ok(hex::encode(buffer))
}
