//! `amphi up`: the parent of a cluster on this machine. It holds the lock on the data folder, runs the NATS server and the node
//! processes, and brings both down.
//!
//! Never decides anything about work, and never shares its lock, its credentials (on a command line) or its end with its children:
//! nodes and NATS end when this process ends, however it ends.
//!
//! Start at [`run`]; the other end of the pipe, inside a node process, is [`child`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amphi_adapters::nats::managed::{DataLock, Durability, LockError, ManagedOptions, ManagedServer, NodeUrls, ServerState};
use amphi_adapters::nats::remembered::write_durably;
use amphi_adapters::nats::{Remembered, check_server, connect, connect_node, connect_node_now, with_credentials, without_credentials};
use amphi_protocol::ids::{NodeId, ShardId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub mod child;
mod deaths;
mod join;
mod logins;
mod names;
mod nodes;
mod ready;
pub(crate) mod spawner;
#[cfg(test)]
mod tests;

pub use child::NodeSpec;
pub use names::kept;

/// Where a node keeps the number of its life, in its own data folder.
pub const INCARNATION_FILE: &str = "incarnation";

use logins::{Applicant, Login};
use nodes::{NodeNews, NodeOrders};
use ready::{Ready, ReadyFiles};
use spawner::Spawner;

/// Everything went well.
const EXIT_OK: u8 = 0;
/// Wrong options.
const EXIT_USAGE: u8 = 2;
/// Somebody else has the data folder.
const EXIT_CONFLICT: u8 = 5;
/// There is no NATS server, or a node does not start.
const EXIT_UNREACHABLE: u8 = 6;
/// Ended at once on a second signal.
const EXIT_INTERRUPTED: u8 = 130;
/// How often a node may die before it was ever ready.
const EARLY_DEATHS_MAX: u32 = 10;
/// The file in the data folder with the URL that nodes of other machines may use, also for a Manager of their own.
const NODE_URL_FILE: &str = "node-url";
/// Tasks that a node runs at once, per core, if nothing is said.
const CAPACITY_PER_CORE: u32 = 4;

/// What `amphi up` was told.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Number of node processes, at least 1.
    pub nodes: u32,
    /// The data folder.
    pub data: PathBuf,
    /// The team file, for the nodes.
    pub config: Option<PathBuf>,
    /// A foreign NATS server; none: a managed one.
    pub nats: Option<String>,
    /// The same server on the clients' side, where an operator has set up accounts.
    pub nats_edge: Option<String>,
    /// Where the first node listens for HTTP.
    pub http: Option<SocketAddr>,
    /// Also write the ready object there.
    pub ready_file: Option<PathBuf>,
    /// Tasks that each node runs at once; default 4 per core.
    pub capacity: Option<u32>,
    /// Labels of the nodes.
    pub labels: BTreeMap<String, String>,
    /// Goes before the node ids.
    pub node_prefix: Option<String>,
    /// No node leads.
    pub no_manager: bool,
    /// A dead node stays dead.
    pub no_restart: bool,
    /// What an acknowledged write survives, for the managed server.
    pub durability: Durability,
    /// The operator vouches for a foreign server.
    pub durability_confirmed: bool,
    /// Folder with `bin/nats-server`, looked at first.
    pub tools: Option<PathBuf>,
    /// The program that is run as `<program> node --spec -`; default: this one.
    pub program: Option<PathBuf>,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            data: PathBuf::from("."),
            config: None,
            nats: None,
            nats_edge: None,
            http: None,
            ready_file: None,
            capacity: None,
            labels: BTreeMap::new(),
            node_prefix: None,
            no_manager: false,
            no_restart: false,
            durability: Durability::default(),
            durability_confirmed: false,
            tools: None,
            program: None,
        }
    }
}

/// Why `up` did not come up, for people, and the exit code.
struct Refusal {
    code: u8,
    text: String,
}

impl Refusal {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    fn caused(code: u8, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { code, text }
    }
}

/// Runs a cluster in the foreground until a signal ends it. Prints one line `ready {…}` on standard output; talks on standard error.
/// Returns the exit code: 0 after an orderly end, 2 wrong options, 5 the data folder is in use, 6 no NATS or a node does not start,
/// 130 ended at once by a second signal.
pub async fn run(options: UpOptions) -> u8 {
    match try_run(options).await {
        Ok(code) => code,
        Err(refusal) => {
            say(&format!("error: {}", refusal.text));
            refusal.code
        }
    }
}

async fn try_run(mut options: UpOptions) -> Result<u8, Refusal> {
    // Signals first: one that comes during the start must not kill us with the children half up.
    let mut signals = Signals::new().map_err(|e| Refusal::caused(EXIT_UNREACHABLE, &e))?;
    options.data = folder(&options.data).map_err(|e| Refusal::caused(EXIT_USAGE, &e))?;
    let lock = lock(&options.data)?;
    let files = ReadyFiles::new(&options.data, options.ready_file.clone());
    files.remove_stale();
    nodes::end_leftovers(&options.data).await.map_err(|e| Refusal::caused(EXIT_UNREACHABLE, &e))?;

    let nodes = node_ids(&options)?;
    let nats = tokio::select! {
        nats = Nats::start(&options, &nodes, &lock) => nats?,
        () = signals.any() => return Ok(EXIT_OK),
    };
    let result = match start_nodes(&options, nodes, &nats) {
        Ok(cluster) => cluster.serve(&nats, &files, &mut signals).await,
        Err(refusal) => Err(refusal),
    };
    files.remove();
    match result {
        // At once: the server is killed with its handle.
        Ok(EXIT_INTERRUPTED) => Ok(EXIT_INTERRUPTED),
        result => {
            nats.stop(&mut signals).await;
            result
        }
    }
}

/// The data folder, made if it is missing, without links and dots: everything else names files below it.
fn folder(data: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    data.canonicalize()
}

fn lock(data: &Path) -> Result<DataLock, Refusal> {
    DataLock::acquire(data).map_err(|error| {
        let code = match error {
            LockError::Held { .. } => EXIT_CONFLICT,
            LockError::Failed { .. } => EXIT_USAGE,
        };
        let mut refusal = Refusal::caused(code, &error);
        if code == EXIT_CONFLICT {
            refusal.text.push_str("\nstop it first, or give this one another folder with --data");
        }
        refusal
    })
}

/// The server, ours or a foreign one.
struct Nats {
    /// For clients.
    url: String,
    /// Where each node logs in.
    logins: BTreeMap<NodeId, Login>,
    /// Whether our nodes may lead.
    seat: bool,
    managed: Option<Managed>,
}

/// Our own server, and the task that lets other machines' nodes in.
struct Managed {
    server: ManagedServer,
    door: AbortOnDropHandle<()>,
}

impl Nats {
    async fn start(options: &UpOptions, nodes: &[NodeId], lock: &DataLock) -> Result<Self, Refusal> {
        let unreachable = |error: &dyn std::error::Error| Refusal::caused(EXIT_UNREACHABLE, error);
        if let Some(url) = &options.nats {
            return Self::join(options, nodes, url).await;
        }
        let managed = ManagedOptions {
            data: options.data.clone(),
            tools: options.tools.clone(),
            durability: options.durability,
            nodes: nodes.to_vec(),
        };
        let server = ManagedServer::start(managed, lock).await.map_err(|e| unreachable(&e))?;
        say(&format!("NATS runs (pid {}), data in {}", server.pid().unwrap_or_default(), options.data.display()));
        let core_url = server.core_url();
        // For an operator who joins with other machines: a client's URL is enough for nodes, this one also for a Manager.
        let written = write_durably(&options.data.join(NODE_URL_FILE), core_url.as_bytes());
        written.map_err(|e| Refusal::new(EXIT_UNREACHABLE, format!("writing {NODE_URL_FILE}: {e}")))?;
        let client = connect_node(&core_url, "amphi-up", "up").await.map_err(|e| unreachable(&e))?;
        let logins = nodes.iter().filter_map(|node| server.users().of(node)).map(|NodeUrls { node, core, edge }| {
            let at = |(user, password): (String, String)| with_credentials(&core_url, &user, &password);
            (node, Login { core: at(core), edge: Some(at(edge)) })
        });
        let (url, logins, seat) = (server.url(), logins.collect(), !options.no_manager);
        let door = AbortOnDropHandle::new(tokio::spawn(logins::serve(client, server.users().clone())));
        Ok(Self { url, logins, seat, managed: Some(Managed { server, door }) })
    }

    /// Another cluster's server, or a foreign one.
    async fn join(options: &UpOptions, nodes: &[NodeId], url: &str) -> Result<Self, Refusal> {
        let unreachable = |error: &dyn std::error::Error| Refusal::caused(EXIT_UNREACHABLE, error);
        let client = connect(url, "amphi-up").await.map_err(|e| {
            let mut refusal = unreachable(&e);
            refusal.text.push_str("\nlook at the address and the credentials of --nats; the file `node-url` in the data folder of the cluster's first `amphi up` has them");
            refusal
        })?;
        // A node without a seat may not even ask JetStream where the journals are.
        if options.nats_edge.is_none() || !options.no_manager {
            check_server(&client).await.map_err(|e| unreachable(&e))?;
        }
        let same = |core: &str, edge: Option<&str>| {
            let login = Login { core: core.to_owned(), edge: edge.map(str::to_owned) };
            nodes.iter().map(|node| (node.clone(), login.clone())).collect()
        };
        if let Some(edge) = &options.nats_edge {
            let inbox = nodes.first().map_or("up", |node| node.as_str());
            let clients = connect_node_now(edge, "amphi-up", inbox).await.map_err(|e| unreachable(&e))?;
            check_server(&clients).await.map_err(|e| unreachable(&e))?;
            if !options.no_manager {
                durable(options, &client, url).await?;
            }
            // Nobody who reads our ready line is to have the rights of a node.
            return Ok(Self { url: without_credentials(url), logins: same(url, Some(edge)), seat: !options.no_manager, managed: None });
        }
        let applicants = nodes.iter().map(|node| Applicant::new(node, &options.data.join(node.as_str()))).collect::<io::Result<Vec<_>>>();
        let applicants = applicants.map_err(|e| Refusal::caused(EXIT_USAGE, &e))?;
        let admission = join::admission(&client, &applicants, !options.no_manager).await?;
        let logins = match admission.users {
            true => applicants.iter().map(|applicant| (applicant.node.clone(), applicant.login(url))).collect(),
            false => same(url, None),
        };
        let seat = admission.seat && !options.no_manager;
        if seat {
            durable(options, &client, url).await?;
        }
        Ok(Self { url: url.to_owned(), logins, seat, managed: None })
    }

    fn pid(&self) -> Option<u32> {
        self.managed.as_ref()?.server.pid()
    }

    /// A foreign server never changes its state here.
    fn states(&self) -> watch::Receiver<ServerState> {
        match &self.managed {
            Some(managed) => managed.server.states(),
            None => watch::channel(ServerState::Down).1,
        }
    }

    async fn stop(self, signals: &mut Signals) {
        if let Some(Managed { server, door }) = self.managed {
            // Ours goes first: a connection that is lost on purpose is no news.
            drop(door);
            tokio::select! {
                () = server.stop() => {}
                () = signals.any() => {}
            }
        }
    }
}

/// Who may lead accepts work, and must not say `accepted` to what a loss of power may take back.
async fn durable(options: &UpOptions, client: &async_nats::Client, url: &str) -> Result<(), Refusal> {
    if options.durability == Durability::Power && !options.durability_confirmed {
        return join::survives_power_loss(client, url).await;
    }
    Ok(())
}

fn start_nodes(options: &UpOptions, nodes: Vec<NodeId>, nats: &Nats) -> Result<Cluster, Refusal> {
    let specs = specs(options, nodes, nats)?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|e| Refusal::caused(EXIT_UNREACHABLE, &e))?,
    };
    let spawner = Arc::new(Spawner::start().map_err(|e| Refusal::caused(EXIT_UNREACHABLE, &e))?);
    let orders = NodeOrders { drain: CancellationToken::new(), kill: CancellationToken::new(), restart: !options.no_restart };
    let (news, inbox) = mpsc::unbounded_channel();
    let ready = Ready::new(options.nats.is_none(), nats.url.clone(), specs.iter().map(|spec| spec.node.clone()));
    for spec in specs {
        tokio::spawn(nodes::keep(program.clone(), spec, Arc::clone(&spawner), orders.clone(), news.clone()));
    }
    Ok(Cluster { ready, orders, inbox, early_deaths: 0, announced: false })
}

/// The ids of our nodes.
fn node_ids(options: &UpOptions) -> Result<Vec<NodeId>, Refusal> {
    if options.nodes == 0 || options.nodes > 64 {
        return Err(Refusal::new(EXIT_USAGE, "--nodes must be 1 to 64"));
    }
    let prefix = names::node_prefix(&options.data, options.node_prefix.as_deref(), options.nats.is_some());
    let prefix = prefix.map_err(|e| Refusal::caused(EXIT_USAGE, &e))?;
    let nodes: Result<Vec<NodeId>, _> = (1..=options.nodes).map(|number| names::node_id(&prefix, number)).collect();
    nodes.map_err(|e| Refusal::new(EXIT_USAGE, format!("--node-prefix: {e}")))
}

fn specs(options: &UpOptions, nodes: Vec<NodeId>, nats: &Nats) -> Result<Vec<NodeSpec>, Refusal> {
    let usage = |e: io::Error| Refusal::caused(EXIT_USAGE, &e);
    let config = options.config.as_ref().map(|path| path.canonicalize()).transpose();
    let config = config.map_err(|e| Refusal::new(EXIT_USAGE, format!("reading the configuration file: {e}")))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let capacity = options.capacity.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1).saturating_mul(CAPACITY_PER_CORE));
    let cluster = names::cluster_id(&options.data, options.nats.as_deref()).map_err(usage)?;
    let folder = |node: &NodeId| options.data.join(node.as_str());
    let remembered = nodes.iter().map(|node| Remembered::shards(&folder(node))).collect::<io::Result<Vec<_>>>().map_err(usage)?;
    let remembered: BTreeSet<ShardId> = remembered.into_iter().flatten().collect();
    (1..)
        .zip(nodes)
        .map(|(number, node)| {
            let known = nats.logins.get(&node).cloned();
            let Login { core, edge } =
                known.ok_or_else(|| Refusal::new(EXIT_UNREACHABLE, format!("{node} has no user at the NATS server")))?;
            Ok(NodeSpec {
                data: folder(&node),
                node,
                nats: core,
                edge,
                capacity,
                labels: options.labels.clone(),
                config: config.clone(),
                seat: nats.seat,
                remembered: remembered.clone(),
                http: options.http.filter(|_| number == 1),
                cluster: cluster.clone(),
                managed: options.nats.is_none(),
            })
        })
        .collect()
}

/// The running nodes.
struct Cluster {
    ready: Ready,
    orders: NodeOrders,
    inbox: mpsc::UnboundedReceiver<NodeNews>,
    early_deaths: u32,
    announced: bool,
}

impl Cluster {
    async fn serve(mut self, nats: &Nats, files: &ReadyFiles, signals: &mut Signals) -> Result<u8, Refusal> {
        let mut states = nats.states();
        let watched = nats.managed.is_some();
        self.ready.nats_pid = nats.pid();
        let outcome = loop {
            tokio::select! {
                () = signals.any() => break Ok(EXIT_OK),
                changed = states.changed(), if watched => {
                    if changed.is_err() { break Err(Refusal::new(EXIT_UNREACHABLE, "the keeper of nats-server has ended")); }
                    let state = states.borrow_and_update().clone();
                    if let Err(refusal) = self.on_nats(&state, files) { break Err(refusal); }
                }
                news = self.inbox.recv() => match news {
                    Some(news) => if let Err(refusal) = self.on_node(news, files) { break Err(refusal); },
                    // All nodes are gone for good (`--no-restart`); the server stays until a signal.
                    None => { signals.any().await; break Ok(EXIT_OK); }
                }
            }
        };
        let drained = self.drain(signals).await;
        outcome.map(|code| if drained { code } else { EXIT_INTERRUPTED })
    }

    fn on_nats(&mut self, state: &ServerState, files: &ReadyFiles) -> Result<(), Refusal> {
        match state {
            ServerState::Running { pid } => {
                if self.ready.nats_pid != Some(*pid) {
                    say(&format!("NATS was started again (pid {pid})"));
                }
                self.ready.nats_pid = Some(*pid);
                self.publish(files)
            }
            ServerState::Down | ServerState::Stopped => Ok(()),
            ServerState::Failed { why } => Err(Refusal::new(EXIT_UNREACHABLE, format!("nats-server died too often: {why}"))),
        }
    }

    fn on_node(&mut self, news: NodeNews, files: &ReadyFiles) -> Result<(), Refusal> {
        match news {
            NodeNews::Spawned { node, pid } => {
                self.ready.set_pid(&node, pid);
                self.publish(files)
            }
            NodeNews::Ready { node, http } => {
                self.ready.set_ready(&node, http);
                self.publish(files)
            }
            NodeNews::Ended { node, end, code, was_ready, again, log } => {
                let then = if again { "; starting it again" } else { "" };
                say(&format!("{node} ended ({end}){then}; its log is {}", log.display()));
                if was_ready || self.announced {
                    return Ok(());
                }
                self.early_deaths += 1;
                // A usage error will not go away by itself, nor will another node with this id.
                let lasting = [EXIT_USAGE, EXIT_CONFLICT].into_iter().find(|lasting| code == Some(i32::from(*lasting)));
                if lasting.is_some() || self.early_deaths >= EARLY_DEATHS_MAX || !again {
                    let code = lasting.unwrap_or(EXIT_UNREACHABLE);
                    return Err(Refusal::new(code, format!("{node} does not start ({end})\n{}", nodes::log_tail(&log))));
                }
                Ok(())
            }
        }
    }

    /// Says that the cluster is ready, once; keeps the files up to date from then on.
    fn publish(&mut self, files: &ReadyFiles) -> Result<(), Refusal> {
        if !self.announced && !self.ready.is_complete() {
            return Ok(());
        }
        let text = self.ready.to_json();
        files.write(&text).map_err(|e| Refusal::new(EXIT_UNREACHABLE, format!("writing the ready file: {e}")))?;
        if !self.announced {
            self.announced = true;
            let mut out = io::stdout().lock();
            // Nobody reading our output is no reason to end the cluster.
            writeln!(out, "ready {text}").and_then(|()| out.flush()).ok();
        }
        Ok(())
    }

    /// Ends all nodes; false if a second signal cut it short.
    async fn drain(&mut self, signals: &mut Signals) -> bool {
        say("stopping: waiting for the nodes (again to end at once)");
        self.orders.drain.cancel();
        loop {
            tokio::select! {
                () = signals.any() => {
                    self.orders.kill.cancel();
                    // Killed processes are reaped in a moment.
                    tokio::time::timeout(Duration::from_secs(2), async { while self.inbox.recv().await.is_some() {} }).await.ok();
                    return false;
                }
                news = self.inbox.recv() => if news.is_none() { return true; }
            }
        }
    }
}

/// The signals that end us.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns with the next one.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// A line for people.
fn say(line: &str) {
    // A closed terminal is no reason to end the cluster.
    writeln!(io::stderr().lock(), "amphi up: {line}").ok();
}
