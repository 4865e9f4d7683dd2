//! What the tests of the engines share.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
#![allow(dead_code)] // each test binary uses its part
#![allow(unused_imports)]

mod tool_bench;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use amphi_adapters::process::{GuardCommand, ProcessConfig, ProcessEngine};
use amphi_ports::{Engine, JobNews, JobOrder, ObjectStore, OutputChunk, OutputLog, OutputSource, StoreError};
use amphi_protocol::document::{Script, Work, Workspace};
use amphi_protocol::ids::{AttemptRef, EpicId, RoleName, Token};
use amphi_protocol::journal::AttemptEnd;
use amphi_protocol::node::Job;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use tool_bench::ToolBench;

/// Time after which a test gives up: generous, the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps everything in memory.
#[derive(Default)]
pub struct Memory {
    pub chunks: Mutex<Vec<(String, OutputChunk)>>,
    pub objects: Mutex<BTreeMap<String, Bytes>>,
    /// How many appends fail before one works.
    pub failures: AtomicU32,
}

impl Memory {
    pub fn text(&self, source: OutputSource) -> String {
        let chunks = self.chunks.lock().unwrap();
        let bytes: Vec<u8> =
            chunks.iter().filter(|(_, chunk)| chunk.source == source).flat_map(|(_, chunk)| chunk.bytes.to_vec()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl OutputLog for Memory {
    fn append<'a>(&'a self, _: &'a AttemptRef, task: &'a str, chunk: OutputChunk) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if fails {
                return Err(StoreError { what: "append".to_owned(), source: None, damaged: false });
            }
            self.chunks.lock().unwrap().push((task.to_owned(), chunk));
            Ok(())
        })
    }
}

impl ObjectStore for Memory {
    fn delete<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.objects.lock().unwrap().insert(name.to_owned(), bytes);
            Ok(())
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move { Ok(self.objects.lock().unwrap().get(name).cloned()) })
    }
}

/// A process engine over a folder of its own.
pub struct Bench {
    pub engine: Arc<ProcessEngine>,
    pub memory: Arc<Memory>,
    pub folder: tempfile::TempDir,
    next: AtomicU32,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_secrets(&[])
    }

    pub fn without_cgroups() -> Self {
        Self::with(&[], false)
    }

    pub fn with_secrets(secrets: &[(&str, &str)]) -> Self {
        Self::with(secrets, true)
    }

    fn with(secrets: &[(&str, &str)], use_cgroups: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ProcessConfig::new(folder.path().join("data"), "/home/somebody".to_owned());
        config.guard = GuardCommand { program: env!("CARGO_BIN_EXE_amphi-test-node").into(), arguments: vec!["guard".into()] };
        config.secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        config.use_cgroups = use_cgroups;
        let memory = Arc::new(Memory::default());
        let engine = Arc::new(ProcessEngine::open(config, memory.clone(), memory.clone()).unwrap());
        Self { engine, memory, folder, next: AtomicU32::new(0) }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn order(&self, job: Job) -> JobOrder {
        let i = self.next.fetch_add(1, Ordering::SeqCst);
        order(i, job)
    }

    pub async fn run(&self, job: Job) -> AttemptEnd {
        self.start(job).end().await
    }

    pub fn start(&self, job: Job) -> Running {
        let (news, heard) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let end = tokio::spawn(self.engine.run(self.order(job), news, cancel.clone()));
        Running { end, heard, cancel }
    }
}

/// A job under way.
pub struct Running {
    pub end: tokio::task::JoinHandle<AttemptEnd>,
    pub heard: mpsc::UnboundedReceiver<JobNews>,
    pub cancel: CancellationToken,
}

impl Running {
    pub async fn end(self) -> AttemptEnd {
        tokio::time::timeout(PATIENCE, self.end).await.expect("the job ends in time").unwrap()
    }

    pub async fn started(&mut self) -> u32 {
        loop {
            match tokio::time::timeout(PATIENCE, self.heard.recv()).await.expect("the job starts in time") {
                Some(JobNews::Started { pid: Some(pid) }) => return pid,
                Some(_) => {}
                None => panic!("the job ended before it started"),
            }
        }
    }
}

pub fn order(i: u32, job: Job) -> JobOrder {
    let attempt = AttemptRef { epic: EpicId::parse("release-1").unwrap(), i, run: 2, attempt: 3 };
    JobOrder { attempt, task: format!("t[{i}]"), token: Token(77), job: Arc::new(job), hurry: CancellationToken::new(), role: role() }
}

pub fn role() -> RoleName {
    RoleName::parse("Tester").unwrap()
}

pub fn shell(text: &str) -> Job {
    job(Work::Run(Script { text: text.to_owned(), variables: BTreeMap::new() }))
}

pub fn job(work: Work) -> Job {
    Job {
        effects: BTreeMap::new(),
        work,
        workspace: Workspace::None,
        workdir: None,
        env: BTreeMap::new(),
        values: BTreeMap::new(),
        outputs: BTreeMap::new(),
        idempotency_key: "epic/t/2".to_owned(),
        inputs: BTreeMap::new(),
        reference: None,
    }
}

/// Waits until `done` says so.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A mark that no other process has: digits, so that it can be the fraction of a `sleep`.
pub fn new_mark() -> String {
    format!("{:020}", uuid::Uuid::now_v7().as_u128() % 100_000_000_000_000_000_000)
}

/// A script whose processes do all they can to live on: another session, double fork, deaf to TERM, stopped, without environment.
/// It becomes [`NASTY`] processes with `mark` in their command line.
pub fn nasty(mark: &str) -> String {
    let nap = format!("sleep 1000.{mark}");
    format!(
        "trap '' TERM HUP INT\n\
         setsid sh -c '{nap}; :' &\n\
         ( setsid sh -c '( {nap}; : ) & {nap}; :' & )\n\
         {nap} &\n\
         sh -c 'kill -STOP $$; {nap}' &\n\
         env -i setsid {nap} &\n\
         {nap}\n:\n"
    )
}

/// Fewest processes that [`nasty`] becomes.
pub const NASTY: usize = 8;

/// Waits until all of [`nasty`] is there, its stopped process stopped.
pub fn wait_for_nasty(mark: &str) {
    wait_until("the nasty processes come up", || {
        let pids = living(mark);
        pids.len() >= NASTY && pids.iter().any(|pid| read(Path::new(&format!("/proc/{pid}/stat"))).contains(") T "))
    });
}

/// Living processes with `mark` in their command line, zombies and this process's own not counted.
pub fn living(mark: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|bytes| contains(&bytes, mark.as_bytes())))
        .filter(|pid| !read(Path::new(&format!("/proc/{pid}/cmdline"))).contains("amphi-test-node"))
        .collect()
}

pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// True while `pid` is a process and no zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !matches!(stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()), Some('Z' | 'X') | None)
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
