//! What the server keeps in `<data>/nats/`: its identity (ports, credentials), its configuration, its store, its log, its pid.
//!
//! Everything here is private to the owner. The identity is written once and stays, so that clients find the server again.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects::{INTERNAL, JOURNALS, SEATS_STREAM, SEATS_SUBJECTS, journal_stream};
use serde::{Deserialize, Serialize};

use super::super::remembered::write_durably;
use super::lock::create_private_folder;
use super::{Durability, ManagedError, file_error};

/// Bytes of the log's end that an error shows.
const LOG_TAIL_BYTES: u64 = 600;
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
    /// Of [`NODE_USER`]; missing in data folders of earlier builds.
    #[serde(default)]
    pub(super) node_password: String,
}

/// The nodes of this `up`, one of which runs the Manager.
const CORE_USER: &str = "amphi-core";
/// Nodes of other machines, which run no Manager: they may not write to the journal.
pub(super) const NODE_USER: &str = "amphi-node";
/// Shards whose journals are protected; more than any release runs.
const SHARDS: u32 = 16;
/// What changes a stream as a whole.
const STREAM_VERBS: [&str; 6] = ["CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "MSG.DELETE"];

/// What everybody but the nodes may not publish: one foreign record in the journal, or one deleted, and no Manager could ever lead
/// again. As the list of a server configuration.
fn core_only() -> String {
    let journals = (0..SHARDS).map(|shard| journal_stream(ShardId(shard)));
    let streams = journals.chain([SEATS_STREAM.to_owned()]);
    let verbs = streams.flat_map(|stream| STREAM_VERBS.map(|verb| format!("\"$JS.API.STREAM.{verb}.{stream}\"")));
    [format!("\"{JOURNALS}\""), format!("\"{SEATS_SUBJECTS}\"")].into_iter().chain(verbs).collect::<Vec<_>>().join(", ")
}

/// What clients may not publish besides: they listen to what nodes say to each other, and do not take part.
fn nodes_only() -> String {
    format!("{}, \"{INTERNAL}\"", core_only())
}

impl Identity {
    /// For clients.
    pub(super) fn url(&self) -> String {
        format!("nats://{}:{}@127.0.0.1:{}", self.user, self.password, self.port)
    }

    /// For the nodes.
    pub(super) fn core_url(&self) -> String {
        format!("nats://{CORE_USER}:{}@127.0.0.1:{}", self.core_password, self.port)
    }
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
                if identity.core_password.is_empty() || identity.node_password.is_empty() {
                    identity.core_password = random_hex(24)?;
                    identity.node_password = random_hex(24)?;
                    self.keep(&identity)?;
                }
                if is_free(identity.port) && is_free(identity.monitor_port) {
                    return Ok(identity);
                }
                tracing::warn!(port = identity.port, "the port of the NATS server is taken by another process; choosing a new one");
                with_free_ports(identity)?
            }
            None => with_free_ports(Identity {
                server_name: format!("amphi-{}", random_hex(8)?),
                port: 0,
                monitor_port: 0,
                user: "amphi".to_owned(),
                password: random_hex(24)?,
                core_password: random_hex(24)?,
                node_password: random_hex(24)?,
            })?,
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

    fn keep(&self, identity: &Identity) -> Result<(), ManagedError> {
        let bytes = serde_json::to_vec(identity).map_err(|e| file_error("writing the identity of the NATS server", e.into()))?;
        write_durably(&self.root.join("identity.json"), &bytes).map_err(|e| file_error("writing the identity of the NATS server", e))
    }

    pub(super) fn write_config(&self, identity: &Identity, durability: Durability) -> Result<(), ManagedError> {
        let root = self.root.display();
        let sync_interval = match durability {
            Durability::Power => "always",
            Durability::Process => "\"2m\"",
        };
        let Identity { server_name, port, monitor_port, user, password, core_password, node_password } = identity;
        let (core_only, nodes_only) = (core_only(), nodes_only());
        let text = format!(
            r#"# Written by `amphi up` at each start; changes are lost.
server_name: "{server_name}"
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
max_payload: 8MB
max_pending: 64MB
write_deadline: "5s"
ping_interval: "20s"
authorization {{
  users: [
    {{ user: "{CORE_USER}", password: "{core_password}" }}
    {{ user: "{NODE_USER}", password: "{node_password}", permissions: {{ publish: {{ deny: [{core_only}] }} }} }}
    {{ user: "{user}", password: "{password}", permissions: {{ publish: {{ deny: [{nodes_only}] }} }} }}
  ]
}}
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
