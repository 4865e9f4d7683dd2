//! The engine of `run`: one shell command in its workspace, in its environment, under its guard.
//!
//! It never returns while a process of the attempt lives, and never reports an output line or a value of a secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amphi_ports::{Engine, JobNews, JobOrder, ObjectStore, OutputLog, OutputSource};
use amphi_protocol::document::{OUTPUT_BYTES_MAX, Script, Work, check_outputs};
use amphi_protocol::journal::{AttemptEnd, Outcome};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::activity::{CpuMeter, ProgressFile};
use super::environment::{Basics, EnvironmentError, environment};
use super::folders::{self, FolderError, Folders, attempt_name};
use super::inputs::{InputError, bring_inputs};
use super::mask::Secrets;
use super::output::{Collector, write_log};
use super::results::{ResultError, keep_artifacts, read_outputs};
use super::tree::{GuardCommand, Tree, TreeOrder, Trees, Verdict, is_shortage};
use super::values::{fill_text, no_value};

/// Longest text that goes to the shell as an argument; the kernel's limit is 128 KiB.
const ARGUMENT_BYTES_MAX: usize = 100 * 1024;
/// How long a dead task's output may take to reach its end: something outside of the tree may hold the pipe.
const PIPE_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of an attempt waits for its output to be stored.
const LOG_PATIENCE: Duration = Duration::from_secs(5);
/// How long the artifacts of what an attempt needs may take to come.
const INPUTS_PATIENCE: Duration = Duration::from_secs(120);
/// How long storing all artifacts of an attempt may take, outages of the store included: the work is done, and would have to be done again.
const ARTIFACTS_PATIENCE: Duration = Duration::from_secs(600);
const NEWS_EVERY: Duration = Duration::from_secs(1);

/// What a node's processes run with.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// The node's data folder: `guards` and `attempts` are made in it.
    pub data_dir: PathBuf,
    /// How to run a guard.
    pub guard: GuardCommand,
    /// `PATH`, `HOME` and `LANG` of all tasks.
    pub basics: Basics,
    /// Secrets by name.
    pub secrets: BTreeMap<String, String>,
    /// Longest value of an output.
    pub output_bytes: usize,
    /// Use cgroup2 where there is one.
    pub use_cgroups: bool,
}

impl ProcessConfig {
    /// The usual: this binary as guard, the standard `PATH` and after it this binary's folder (a task calls `amphi progress`), no
    /// secrets. `home` is the `HOME` of the tasks.
    pub fn new(data_dir: PathBuf, home: String) -> Self {
        let mut path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let own = std::env::current_exe().ok().and_then(|exe| exe.parent()?.to_str().map(str::to_owned));
        if let Some(own) = own.filter(|own| !own.contains(':') && path.split(':').all(|known| known != own)) {
            path = format!("{path}:{own}");
        }
        let basics = Basics { path, home, lang: "C.UTF-8".to_owned() };
        Self {
            data_dir,
            guard: GuardCommand::default(),
            basics,
            secrets: BTreeMap::new(),
            output_bytes: OUTPUT_BYTES_MAX,
            use_cgroups: true,
        }
    }
}

/// Runs shell commands.
pub struct ProcessEngine {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    basics: Basics,
    secrets: Secrets,
    /// By reference text: `secrets.X`.
    secret_values: BTreeMap<String, String>,
    trees: Trees,
    log: Arc<dyn OutputLog>,
    objects: Arc<dyn ObjectStore>,
    output_bytes: usize,
}

impl ProcessEngine {
    /// An engine over `config.data_dir`. Call [`super::confirm_dead`] first: this removes the folders of earlier attempts.
    pub fn open(config: ProcessConfig, log: Arc<dyn OutputLog>, objects: Arc<dyn ObjectStore>) -> io::Result<Self> {
        // Tasks get these paths in their environment, wherever they stand.
        std::fs::create_dir_all(&config.data_dir)?;
        let data_dir = config.data_dir.canonicalize()?;
        folders::sweep(&data_dir)?;
        let secret_values = config.secrets.iter().map(|(name, value)| (format!("secrets.{name}"), value.clone())).collect();
        let shared = Shared {
            trees: Trees::open(&data_dir, config.guard, config.use_cgroups)?,
            data_dir,
            basics: config.basics,
            secrets: Secrets::new(&config.secrets),
            secret_values,
            log,
            objects,
            output_bytes: config.output_bytes,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Engine for ProcessEngine {
    fn run(&self, job: JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> BoxFuture<'static, AttemptEnd> {
        let shared = Arc::clone(&self.shared);
        async move {
            let end = run(&shared, &job, &news, &cancel).await;
            shared.secrets.clean(end)
        }
        .boxed()
    }
}

/// An end without results.
pub(crate) fn failed(outcome: Outcome, error: impl Into<String>) -> AttemptEnd {
    AttemptEnd { outcome, exit_code: None, error: Some(error.into()), outputs: BTreeMap::new(), artifacts: Vec::new() }
}

async fn run(shared: &Arc<Shared>, order: &JobOrder, news: &mpsc::UnboundedSender<JobNews>, cancel: &CancellationToken) -> AttemptEnd {
    if cancel.is_cancelled() || order.hurry.is_cancelled() {
        return failed(Outcome::Cancelled, "cancelled before it began");
    }
    let begun = {
        let (shared, order) = (Arc::clone(shared), order.clone());
        tokio::task::spawn_blocking(move || begin(&shared, &order)).await
    };
    let (folders, mut tree) = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return error.into_end(),
        Err(error) => return failed(Outcome::AgentLost, format!("the start of the command broke: {error}")),
    };
    let verdict = {
        let watched = Watched { shared, order, news, cancel, folders: &folders };
        watched.to_end(&mut tree).await
    };
    let is_cancelled = cancel.is_cancelled();
    tokio::select! {
        biased;
        end = settle(shared, order, &folders, verdict, is_cancelled) => end,
        // The processes are dead; only what they left was still being stored.
        () = cancel.cancelled(), if !is_cancelled => failed(Outcome::Cancelled, "ended on request while its artifacts were being stored"),
    }
}

/// Makes folders and environment and starts the guard. Blocks.
fn begin(shared: &Shared, order: &JobOrder) -> Result<(Folders, Tree), BeginError> {
    let Work::Run(script) = &order.job.work else {
        return Err(BeginError::Task("this engine runs commands only".to_owned()));
    };
    let mut values = order.job.values.clone();
    values.extend(shared.secret_values.iter().map(|(name, value)| (name.clone(), value.clone())));
    let workdir = order.job.workdir.as_deref().map(|text| fill_text(text, &values)).transpose();
    let workdir = workdir.map_err(|reference| BeginError::Task(no_value(&reference)))?;
    let folders = Folders::make(&shared.data_dir, order, workdir.as_deref())?;
    // This thread may block, and nothing runs yet that a cancel would have to end.
    Handle::current().block_on(timeout(INPUTS_PATIENCE, bring_inputs(&order.job.inputs, &folders.inputs(), &*shared.objects)))??;
    let environment = environment(&shared.basics, order, script, &folders, &values)?;
    let tree = shared.trees.start(TreeOrder {
        name: attempt_name(&order.attempt),
        folder: folders.work.clone(),
        command: shell_command(script, &folders)?,
        environment,
    })?;
    Ok((folders, tree))
}

fn shell_command(script: &Script, folders: &Folders) -> io::Result<Vec<OsString>> {
    let mut command: Vec<OsString> = vec!["/bin/sh".into(), "-c".into()];
    if script.text.len() <= ARGUMENT_BYTES_MAX {
        command.push(script.text.clone().into());
    } else {
        std::fs::write(folders.script(), &script.text)?;
        command.extend([". \"$0\"".into(), folders.script().into_os_string()]);
    }
    Ok(command)
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error("{0}")]
    Task(String),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("the guard cannot be started")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Inputs(#[from] InputError),
    #[error("the artifacts of what it needs could not be read in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

impl BeginError {
    fn into_end(self) -> AttemptEnd {
        let system = match &self {
            Self::Folder(FolderError::Io(error)) | Self::Start(error) | Self::Inputs(InputError::Io(error)) => Some(error),
            Self::Inputs(InputError::Store(error)) if !error.damaged => return failed(Outcome::NotStarted, error.to_string()),
            Self::Late(_) => return failed(Outcome::NotStarted, self.to_string()),
            Self::Folder(_) | Self::Task(_) | Self::Environment(_) | Self::Inputs(_) => None,
        };
        let text = match system {
            Some(error) => format!("{self}: {error}"),
            None => self.to_string(),
        };
        let outcome = match system {
            Some(error) if error.raw_os_error().is_some_and(is_shortage) => Outcome::Resource,
            Some(_) => Outcome::NotStarted,
            None => Outcome::Exit,
        };
        failed(outcome, text)
    }
}

/// Everything that happens beside a running tree.
struct Watched<'a> {
    shared: &'a Shared,
    order: &'a JobOrder,
    news: &'a mpsc::UnboundedSender<JobNews>,
    cancel: &'a CancellationToken,
    folders: &'a Folders,
}

/// How the tree ended, and the last of its standard error.
struct Ended {
    verdict: Verdict,
    error_tail: String,
}

impl Watched<'_> {
    async fn to_end(&self, tree: &mut Tree) -> Ended {
        let (chunks, stored) = mpsc::unbounded_channel();
        let collector = Collector::new(&self.shared.secrets, chunks);
        let (stdout, stderr) = (tree.stdout.take(), tree.stderr.take());
        let meter = tree.cpu_meter();
        let progress = Arc::new(Mutex::new(ProgressFile::new(self.folders.progress())));
        let log = write_log(Arc::clone(&self.shared.log), self.order.attempt.clone(), self.order.task.clone(), stored);
        let readers = async {
            tokio::join!(collector.read(OutputSource::Out, stdout), collector.read(OutputSource::Err, stderr));
        };
        let watch = async {
            let mut readers = std::pin::pin!(readers);
            let mut read_all = false;
            let verdict = {
                let mut work = std::pin::pin!(self.verdict(tree));
                let mut beside = std::pin::pin!(self.tell_news(&collector, meter, &progress));
                loop {
                    tokio::select! {
                        verdict = &mut work => break verdict,
                        () = &mut readers, if !read_all => read_all = true,
                        () = &mut beside => {}
                    }
                }
            };
            if !read_all {
                let _ = timeout(PIPE_PATIENCE, readers).await;
            }
            collector.close();
            self.tell_progress(look_once(&progress));
            verdict
        };
        let mut log = std::pin::pin!(log);
        let mut watch = std::pin::pin!(watch);
        let mut is_stored = false;
        let verdict = loop {
            tokio::select! {
                verdict = &mut watch => break verdict,
                () = &mut log, if !is_stored => is_stored = true,
            }
        };
        if !is_stored && timeout(LOG_PATIENCE, log).await.is_err() {
            tracing::warn!(attempt = %self.order.attempt, "the last output could not be stored in time and is lost");
        }
        Ended { verdict, error_tail: collector.error_tail() }
    }

    async fn verdict(&self, tree: &mut Tree) -> Verdict {
        tokio::select! {
            pid = tree.started() => if let Some(pid) = pid {
                let _ = self.news.send(JobNews::Started { pid: Some(pid) });
            },
            () = self.cancel.cancelled() => {}
        }
        tree.end(self.cancel, &self.order.hurry).await
    }

    /// Once a second: is it alive, and how far is it. Never ends.
    async fn tell_news(&self, collector: &Collector<'_>, mut meter: CpuMeter, progress: &Arc<Mutex<ProgressFile>>) {
        let mut ticks = interval(NEWS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let progress = Arc::clone(progress);
            let look = move || {
                let worked = meter.has_worked();
                (meter, worked, look_once(&progress))
            };
            let Ok((used_meter, worked, said)) = tokio::task::spawn_blocking(look).await else {
                return std::future::pending().await;
            };
            meter = used_meter;
            if collector.was_active() || worked {
                let _ = self.news.send(JobNews::Active);
            }
            self.tell_progress(said);
        }
    }

    fn tell_progress(&self, said: Option<JobNews>) {
        if let Some(said) = said {
            let _ = self.news.send(self.shared.secrets.clean_news(said));
        }
    }
}

fn look_once(progress: &Mutex<ProgressFile>) -> Option<JobNews> {
    progress.lock().unwrap_or_else(PoisonError::into_inner).look()
}

/// Turns a verdict into the end of the attempt, with what the task left.
async fn settle(shared: &Shared, order: &JobOrder, folders: &Folders, ended: Ended, is_cancelled: bool) -> AttemptEnd {
    let tail = Some(ended.error_tail).filter(|tail| !tail.is_empty());
    let code = match ended.verdict {
        Verdict::Failed { errno, what } if is_shortage(errno) => return failed(Outcome::Resource, what),
        Verdict::Failed { what, .. } => return failed(Outcome::Exit, what),
        Verdict::Exit(code) if is_cancelled => {
            return AttemptEnd { exit_code: Some(code), ..failed(Outcome::Cancelled, "ended on request") };
        }
        _ if is_cancelled => return failed(Outcome::Cancelled, "ended on request"),
        Verdict::Silence => return failed(Outcome::AgentLost, "the node was silent for 5 s, so the guard ended the processes"),
        Verdict::GuardDied => return failed(Outcome::AgentLost, "the guard of the processes died, and they were ended"),
        Verdict::Exit(code) => code,
    };
    let kept = match timeout(ARTIFACTS_PATIENCE, keep_artifacts(folders.artifacts(), &*shared.objects)).await {
        Ok(kept) => kept,
        Err(elapsed) => Err(ResultError::Node { what: "the artifacts could not be stored in time".to_owned(), source: elapsed.into() }),
    };
    if code != 0 {
        let error = tail.unwrap_or_else(|| format!("the command ended with exit code {code}"));
        let artifacts = kept.unwrap_or_default();
        return AttemptEnd { exit_code: Some(code), artifacts, ..failed(Outcome::Exit, error) };
    }
    let taken = match kept {
        Ok(artifacts) => take_outputs(order, folders, shared.output_bytes).await.map(|outputs| (artifacts, outputs)),
        Err(error) => Err(error),
    };
    match taken {
        Ok((artifacts, outputs)) => AttemptEnd { outcome: Outcome::Succeeded, exit_code: Some(0), error: None, outputs, artifacts },
        Err(ResultError::Refused(text)) => AttemptEnd { exit_code: Some(0), ..failed(Outcome::Output, text) },
        Err(ResultError::Node { what, source }) => {
            AttemptEnd { exit_code: Some(0), ..failed(Outcome::Resource, format!("{what}: {source}")) }
        }
    }
}

async fn take_outputs(order: &JobOrder, folders: &Folders, longest: usize) -> Result<BTreeMap<String, serde_json::Value>, ResultError> {
    let path = folders.output();
    let raw = tokio::task::spawn_blocking(move || read_outputs(&path, longest))
        .await
        .map_err(|error| ResultError::Node { what: "$AMPHI_OUTPUT cannot be read".to_owned(), source: error.into() })??;
    check_outputs(&order.job.outputs, raw, longest).map_err(ResultError::Refused)
}
