//! One node process: started with its spec on a pipe, watched, started again a second after its death, drained, killed.
//!
//! The pipe stays open as long as `up` lives; its end tells the node that `up` is gone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use amphi_adapters::nats::managed::{ManagedError, end_process, process_start_time};
use amphi_adapters::nats::remembered::write_durably;
use amphi_protocol::ids::{NodeId, ShardId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::child::{NodeSpec, ReadyLine};
use super::deaths;
use super::spawner::Spawner;

/// Pause before a dead node is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long a node may finish its work after a TERM.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// Size from which a log is turned over when its node starts, and cut while it runs.
const LOG_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Time between two looks at its size.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes of a log's end that an error shows.
const LOG_TAIL_BYTES: usize = 2000;

/// What happened to a node process.
#[derive(Debug)]
pub(super) enum NodeNews {
    Spawned { node: NodeId, pid: u32 },
    Ready { node: NodeId, http: Option<String> },
    Ended { node: NodeId, end: String, code: Option<i32>, was_ready: bool, again: bool, log: PathBuf },
}

/// What all nodes are told.
#[derive(Debug, Clone)]
pub(super) struct NodeOrders {
    /// Finish and end.
    pub(super) drain: CancellationToken,
    /// End at once.
    pub(super) kill: CancellationToken,
    /// Whether a dead one is started again.
    pub(super) restart: bool,
}

impl NodeOrders {
    fn is_over(&self) -> bool {
        self.drain.is_cancelled() || self.kill.is_cancelled()
    }
}

/// A process that a later `up` may have to end.
#[derive(Serialize, Deserialize)]
struct PidFile {
    pid: u32,
    start_time: u64,
}

/// Keeps one node running until it is told otherwise. Its `news` sender goes with it.
pub(super) async fn keep(
    program: PathBuf,
    spec: NodeSpec,
    spawner: Arc<Spawner>,
    orders: NodeOrders,
    news: mpsc::UnboundedSender<NodeNews>,
) {
    let log = spec.data.join("log");
    let mut shards = 1;
    while !orders.is_over() {
        let mut life = Life { spec: &spec, orders: &orders, news: &news, was_ready: false, pid: 0, shards };
        let lived = life.live(&program, &spawner, &log).await;
        let (was_ready, pid) = (life.was_ready, life.pid);
        shards = life.shards;
        let (end, code) = match &lived {
            Ok(status) => (status.to_string(), status.code()),
            Err(error) => (format!("it could not be started: {error}"), None),
        };
        fs::remove_file(pid_path(&spec.data)).ok();
        if orders.is_over() {
            return;
        }
        let again = orders.restart;
        let ended = NodeNews::Ended { node: spec.node.clone(), end, code, was_ready, again, log: log.clone() };
        // A closed channel means that `up` is on its way out.
        if news.send(ended).is_err() {
            return;
        }
        let proven = async {
            if let Some(death) = deaths::prove(&spec.node, &spec.data, pid, *lived.as_ref().ok()?).await {
                for shard in ShardId::all(shards) {
                    tokio::spawn(deaths::tell(spec.nats.clone(), shard, death.clone()));
                }
            }
            Some(())
        };
        tokio::select! {
            // Its next life needs the same proof, so it loses nothing by waiting for this one.
            _ = async { tokio::join!(proven, tokio::time::sleep(RESTART_DELAY)) } => {}
            () = orders.drain.cancelled() => {}
        }
        if !again {
            return;
        }
    }
}

/// One life of a node process.
struct Life<'a> {
    spec: &'a NodeSpec,
    orders: &'a NodeOrders,
    news: &'a mpsc::UnboundedSender<NodeNews>,
    was_ready: bool,
    pid: u32,
    /// How many shards the cluster has, as the node said.
    shards: u32,
}

impl Life<'_> {
    async fn live(&mut self, program: &Path, spawner: &Spawner, log: &Path) -> io::Result<std::process::ExitStatus> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.spec.data)?;
        let mut command = Command::new(program);
        command
            .args(["node", "--spec", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(open_log(log)?)
            // A Ctrl-C at the terminal is for `up`, which lets the nodes finish.
            .process_group(0);
        let mut child = spawner.spawn(command).await?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        self.pid = pid;
        if let Some(start_time) = process_start_time(pid) {
            write_durably(&pid_path(&self.spec.data), &serde_json::to_vec(&PidFile { pid, start_time })?)?;
        }
        self.tell(NodeNews::Spawned { node: self.spec.node.clone(), pid });
        // Open until the end of this life: its end is the sign that `up` is gone.
        let _liveness = self.hand_over_spec(&mut child).await?;
        self.watch(child, log).await
    }

    async fn hand_over_spec(&self, child: &mut Child) -> io::Result<Option<ChildStdin>> {
        let mut pipe = child.stdin.take();
        if let Some(pipe) = &mut pipe {
            let mut line = serde_json::to_vec(self.spec)?;
            line.push(b'\n');
            // A child that died at once has closed it; its exit status tells more.
            if let Err(error) = pipe.write_all(&line).await {
                tracing::debug!(%error, node = %self.spec.node, "could not hand over the spec");
            }
            pipe.flush().await.ok();
        }
        Ok(pipe)
    }

    async fn watch(&mut self, mut child: Child, log: &Path) -> io::Result<std::process::ExitStatus> {
        let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines());
        let mut drain_end = None;
        let mut killed = false;
        let mut log_check = tokio::time::interval(LOG_INTERVAL);
        loop {
            let next_line = async {
                match &mut lines {
                    Some(lines) => lines.next_line().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = child.wait() => return status,
                line = next_line => match line {
                    Ok(Some(line)) => self.on_line(&line),
                    Ok(None) | Err(_) => lines = None,
                },
                () = self.orders.drain.cancelled(), if drain_end.is_none() => {
                    drain_end = Some(Instant::now() + DRAIN_PATIENCE);
                    send_term(&child);
                }
                () = until(drain_end), if !killed => {
                    tracing::warn!(node = %self.spec.node, "the node did not finish in time; killing it");
                    killed = true;
                    child.start_kill()?;
                }
                () = self.orders.kill.cancelled(), if !killed => {
                    killed = true;
                    child.start_kill()?;
                }
                _ = log_check.tick() => cut_log(log),
            }
        }
    }

    fn on_line(&mut self, line: &str) {
        match serde_json::from_str::<ReadyLine>(line) {
            Ok(line) => {
                self.was_ready = true;
                self.shards = line.ready.shards.max(1);
                self.tell(NodeNews::Ready { node: self.spec.node.clone(), http: line.ready.http });
            }
            Err(_) => tracing::debug!(node = %self.spec.node, line, "the node said something on its standard output"),
        }
    }

    fn tell(&self, news: NodeNews) {
        // A closed channel means that `up` is on its way out.
        self.news.send(news).ok();
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn send_term(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may just have ended.
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
}

fn pid_path(node_data: &Path) -> PathBuf {
    node_data.join("pid.json")
}

fn open_log(log: &Path) -> io::Result<fs::File> {
    if fs::metadata(log).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        fs::rename(log, log.with_extension("1"))?;
    }
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(log)
}

/// The node writes at the end of the file wherever that is, so cutting it is safe.
fn cut_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        let cut = fs::copy(log, log.with_extension("1")).and_then(|_| fs::OpenOptions::new().write(true).open(log)?.set_len(0));
        if let Err(error) = cut {
            tracing::warn!(%error, log = %log.display(), "could not cut a log");
        }
    }
}

/// The last lines of a log.
pub(super) fn log_tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
    String::from_utf8_lossy(tail).trim().to_owned()
}

/// Ends node processes that a killed `up` left behind on this data folder. (The kernel kills them with `up`; this is the second net.)
pub(super) async fn end_leftovers(data: &Path) -> Result<(), ManagedError> {
    let data = data.to_owned();
    let ended = tokio::task::spawn_blocking(move || {
        let folders = fs::read_dir(&data).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in folders {
            let Some(noted) = fs::read(pid_path(&folder)).ok().and_then(|bytes| serde_json::from_slice::<PidFile>(&bytes).ok()) else {
                continue;
            };
            if process_start_time(noted.pid) == Some(noted.start_time) && is_node(noted.pid) {
                super::say(&format!("ending a node process that was left behind (pid {})", noted.pid));
                end_process(noted.pid, noted.start_time)?;
            }
            fs::remove_file(pid_path(&folder)).ok();
        }
        Ok(())
    });
    ended.await.map_err(|e| ManagedError::File { what: "ending left-over nodes".to_owned(), source: io::Error::other(e) })?
}

/// True if its command line is the one that we give to nodes.
fn is_node(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.ends_with(b"node\0--spec\0-\0")
}
