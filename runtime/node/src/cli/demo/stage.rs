//! The processes of the demo: `amphi up` with its nodes, and the shop's service host. Whatever happens they end with the demo: in order if
//! there is time, by the kernel if there is not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use amphi_adapters::nats::managed::process_start_time;
use amphi_protocol::api::ErrorCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::failure::Failure;
use crate::up::spawner::Spawner;

/// Node processes.
pub(super) const NODES: u32 = 3;
/// Tasks that a node runs at once.
const CAPACITY: u32 = 2;
/// How long the cluster, or the service host, may take to be there.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long `amphi up` may take to end. It gives its nodes 30 s.
const END_PATIENCE: Duration = Duration::from_secs(40);
/// How long what is killed may take to be gone.
const GONE_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Text of a log's end that an error shows.
const TAIL_BYTES: usize = 2000;

/// A place with processes.
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    spawner: Spawner,
    up: Option<Child>,
    host: Option<Child>,
    /// Every process that was ever seen, with its start time, which tells it from a later one of the same number.
    seen: BTreeMap<u32, u64>,
}

/// An accident of the demo itself.
pub(super) fn broken(what: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::Internal, what)
}

impl Stage {
    /// An empty private folder, and nothing that runs.
    pub(super) fn new() -> Result<Self, Failure> {
        let name = uuid::Uuid::now_v7().simple().to_string();
        let folder = std::env::temp_dir().join(format!("amphi-demo-{}", &name[20..]));
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| Failure::file("make", &folder, &error))?;
        let folder = folder.canonicalize().map_err(|error| Failure::file("find", &folder, &error))?;
        let spawner = Spawner::start().map_err(|error| broken(format!("no thread for processes: {error}")))?;
        Ok(Self { folder, spawner, up: None, host: None, seen: BTreeMap::new() })
    }

    pub(super) fn shop(&self) -> PathBuf {
        self.folder.join("shop")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    /// Starts `amphi up` and waits until it is ready; gives the ready object.
    pub(super) async fn start_cluster(&mut self) -> Result<Value, Failure> {
        let program = std::env::current_exe().map_err(|error| broken(format!("this program has no path: {error}")))?;
        let mut command = self.command(&program, "up.log")?;
        let (nodes, capacity) = (NODES.to_string(), CAPACITY.to_string());
        command.args(["up", "--nodes", &nodes, "--capacity", &capacity, "--data"]).arg(self.data()).stdin(Stdio::null());
        let child = self.spawner.spawn(command).await.map_err(|error| broken(format!("`amphi up` cannot be started: {error}")))?;
        self.see(child.id());
        self.up = Some(child);
        let end = Instant::now() + START_PATIENCE;
        loop {
            if let Some(ready) = self.ready() {
                return Ok(ready);
            }
            let ended = self.up.as_mut().and_then(|up| up.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > end {
                return Err(broken(format!("the cluster did not get ready\n{}", self.tail("up.log"))));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The ready object as it is now: a restarted node has another pid.
    pub(super) fn ready(&mut self) -> Option<Value> {
        let ready: Value = serde_json::from_slice(&fs::read(self.data().join("ready.json")).ok()?).ok()?;
        let pids: Vec<u64> = std::iter::once(&ready["nats_pid"])
            .chain(ready["nodes"].as_array()?.iter().map(|node| &node["pid"]))
            .filter_map(Value::as_u64)
            .collect();
        for pid in pids {
            self.see(u32::try_from(pid).ok());
        }
        Some(ready)
    }

    /// Starts the shop's service host and waits until it can be asked; gives what it says about itself.
    pub(super) async fn start_host(&mut self) -> Result<Value, Failure> {
        let shop = self.shop();
        let mut command = self.command(Path::new("python3"), "host.log")?;
        command.arg("ops/host.py").current_dir(&shop).stdin(Stdio::piped());
        let child = self.spawner.spawn(command).await.map_err(|error| broken(format!("the service host cannot be started: {error}")))?;
        self.see(child.id());
        self.host = Some(child);
        let end = Instant::now() + START_PATIENCE;
        loop {
            let known = fs::read(shop.join("var/host.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if let Some(known) = known {
                return Ok(known);
            }
            let ended = self.host.as_mut().and_then(|host| host.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > end {
                return Err(broken(format!("the service host did not get ready\n{}", self.tail("host.log"))));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// A command in the demo's folder that knows nothing of the user's own clusters and configuration.
    fn command(&self, program: &Path, log: &str) -> Result<Command, Failure> {
        let path = self.folder.join(log);
        let log = fs::File::create(&path).map_err(|error| Failure::file("write", &path, &error))?;
        let mut command = Command::new(program);
        let is_ours = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b"AMPHI_") && name != "AMPHI_LOG";
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C at the terminal is for the demo, which ends all in order.
            .process_group(0);
        Ok(command)
    }

    /// Remembers a process.
    pub(super) fn see(&mut self, pid: Option<u32>) {
        if let Some((pid, start)) = pid.and_then(|pid| process_start_time(pid).map(|start| (pid, start))) {
            self.seen.insert(pid, start);
        }
    }

    /// Pids of everything that was ever seen.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.seen.keys().copied().collect()
    }

    fn tail(&self, log: &str) -> String {
        let bytes = fs::read(self.folder.join(log)).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned()
    }

    /// Ends everything, services first. Gives the exit code of `amphi up` (none: it was killed, or never ran) and what is left.
    pub(super) async fn end(&mut self) -> (Option<i32>, Vec<u32>) {
        self.ready();
        if let Some(mut host) = self.host.take() {
            drop(host.stdin.take()); // its sign to end, and its services' with it
            if timeout(GONE_PATIENCE, host.wait()).await.is_err() {
                host.kill().await.ok();
            }
        }
        let mut code = None;
        if let Some(mut up) = self.up.take() {
            if let Some(pid) = up.id().and_then(|pid| i32::try_from(pid).ok()) {
                // It may just have ended.
                kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
            }
            match timeout(END_PATIENCE, up.wait()).await {
                Ok(status) => code = status.ok().and_then(|status| status.code()),
                Err(_) => drop(up.kill().await),
            }
        }
        let end = Instant::now() + GONE_PATIENCE;
        while !self.left().is_empty() && Instant::now() < end {
            sleep(LOOK_EVERY).await;
        }
        (code, self.left())
    }

    /// Processes of the demo that still run: those that were seen, and those that have its folder on their command line.
    fn left(&self) -> Vec<u32> {
        let known = self.seen.iter().filter(|(pid, start)| process_start_time(**pid) == Some(**start)).map(|(pid, _)| *pid);
        let folder = self.folder.as_os_str().as_encoded_bytes();
        let named = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().filter(|pid| *pid != std::process::id())?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            line.windows(folder.len()).any(|part| part == folder).then_some(pid)
        });
        let mut left: Vec<u32> = known.chain(named).collect();
        left.sort_unstable();
        left.dedup();
        left
    }

    /// Removes the folder; what cannot be removed stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }
}
