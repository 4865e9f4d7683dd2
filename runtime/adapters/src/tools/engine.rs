//! The engine of `tool`, and the one that finds the engine for a job.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amphi_ports::{AgentMail, EffectLedger, Engine, JobNews, JobOrder};
use amphi_protocol::document::{OUTPUT_BYTES_MAX, Work, Workspace, check_outputs};
use amphi_protocol::journal::{AttemptEnd, Outcome};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::child::Launcher;
use super::ledger::Ledger;
use super::message_send::Voice;
use super::{Arguments, Context, ToolError, find};
use crate::process::{Basics, GuardCommand, Secrets, attempt_name, failed, fill, fill_text, no_value, work_folder};
use crate::worktree::WITHOUT_WORKTREE;

/// Runs tools inside this process.
pub struct ToolEngine {
    shared: Arc<Shared>,
}

#[derive(Clone)]
struct Shared {
    data_dir: PathBuf,
    secrets: Secrets,
    /// By reference text: `secrets.X`.
    secret_values: BTreeMap<String, String>,
    launcher: Arc<Launcher>,
    mail: Option<Arc<dyn AgentMail>>,
    ledger: Option<Arc<dyn EffectLedger>>,
    /// Longest value of an output.
    output_bytes: usize,
}

impl ToolEngine {
    /// An engine whose private folders are made under `data_dir`, the same as the process engine's. Nothing is touched before a job.
    pub fn new(data_dir: PathBuf, secrets: &BTreeMap<String, String>) -> Self {
        let secret_values = secrets.iter().map(|(name, value)| (format!("secrets.{name}"), value.clone())).collect();
        let launcher = Arc::new(Launcher::new(data_dir.clone()));
        Self {
            shared: Arc::new(Shared {
                data_dir,
                secrets: Secrets::new(secrets),
                secret_values,
                launcher,
                mail: None,
                ledger: None,
                output_bytes: OUTPUT_BYTES_MAX,
            }),
        }
    }

    /// The same engine whose tools run their programs with these basics (before: the standard `PATH`, `HOME=/`) and this guard.
    pub fn with_programs(self, basics: Basics, guard: GuardCommand) -> Self {
        let launcher = Arc::new(Launcher::with(self.shared.data_dir.clone(), guard, basics));
        self.changed(|shared| shared.launcher = launcher)
    }

    /// The same engine with another bound for the values of outputs.
    pub fn with_output_bytes(self, output_bytes: usize) -> Self {
        self.changed(|shared| shared.output_bytes = output_bytes)
    }

    /// The same engine whose tools can send messages to other agents.
    pub fn with_mail(self, mail: Arc<dyn AgentMail>) -> Self {
        self.changed(|shared| shared.mail = Some(mail))
    }

    /// The same engine whose tools write down in `ledger` what they bring about outside.
    pub fn with_ledger(self, ledger: Arc<dyn EffectLedger>) -> Self {
        self.changed(|shared| shared.ledger = Some(ledger))
    }

    fn changed(self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Shared::clone(&self.shared);
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }
}

impl Engine for ToolEngine {
    fn run(&self, job: JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> BoxFuture<'static, AttemptEnd> {
        let shared = Arc::clone(&self.shared);
        async move {
            if cancel.is_cancelled() {
                return failed(Outcome::Cancelled, "cancelled before it began");
            }
            let _ = news.send(JobNews::Started { pid: None });
            let mut work = std::pin::pin!(run(&shared, &job, news, cancel.clone()));
            let end = tokio::select! {
                biased;
                end = &mut work => end,
                () = cancel.cancelled() => {
                    if must_finish(&job.job.work) {
                        work.await;
                    }
                    failed(Outcome::Cancelled, "ended on request")
                }
            };
            shared.secrets.clean(end)
        }
        .boxed()
    }
}

fn must_finish(work: &Work) -> bool {
    match work {
        Work::Tool { tool, .. } => find(tool).is_some_and(super::Tool::must_finish),
        Work::Run(_) | Work::Wait(_) | Work::Epic(_) => false,
    }
}

async fn run(shared: &Shared, order: &JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> AttemptEnd {
    let Work::Tool { tool: name, with } = &order.job.work else {
        return failed(Outcome::Exit, "this engine runs tools only");
    };
    let Some(tool) = find(name) else { return failed(Outcome::Exit, format!("there is no tool `{name}`")) };
    let mut values = order.job.values.clone();
    values.extend(shared.secret_values.iter().map(|(name, value)| (name.clone(), value.clone())));
    let with = match fill(with, &values) {
        Ok(with) => with,
        Err(reference) => return failed(Outcome::Exit, no_value(&reference)),
    };
    let checked = Arguments::check(tool.parameters(), &with, false).and_then(|arguments| tool.check(&arguments).map(|()| arguments));
    let arguments = match checked {
        Ok(arguments) => arguments,
        Err(error) => return failed(Outcome::Exit, format!("{name}: {error}")),
    };
    let place = match Place::make(shared, order, &values) {
        Ok(place) => place,
        Err(ToolError { outcome, text }) => return failed(outcome, text),
    };
    let (attempt, launcher) = (attempt_name(&order.attempt), Arc::clone(&shared.launcher));
    let voice = shared.mail.as_ref().map(|mail| Voice::new(mail.clone(), order));
    let hurry = order.hurry.clone();
    let ledger = Some(Ledger::new(shared.ledger.clone(), order));
    let context = Context { workspace: place.work.clone(), attempt, news, cancel, hurry, launcher, voice, ledger };
    let answer = tool.run(&context, arguments).await;
    drop(place);
    match answer {
        Ok(raw) => match check_outputs(&order.job.outputs, raw, shared.output_bytes) {
            Ok(outputs) => AttemptEnd { outcome: Outcome::Succeeded, exit_code: None, error: None, outputs, artifacts: Vec::new() },
            Err(error) => failed(Outcome::Output, error),
        },
        Err(ToolError { outcome, text }) => failed(outcome, text),
    }
}

/// Where a tool may write. A private folder goes away with it.
struct Place {
    work: PathBuf,
    private: Option<PathBuf>,
}

impl Place {
    fn make(shared: &Shared, order: &JobOrder, values: &BTreeMap<String, String>) -> Result<Self, ToolError> {
        let workdir = order.job.workdir.as_deref().map(|text| fill_text(text, values)).transpose();
        let workdir = workdir.map_err(|reference| ToolError::failed(no_value(&reference)))?;
        let (workspace, private) = match &order.job.workspace {
            Workspace::Path(path) => (Path::new(path).to_owned(), None),
            Workspace::Git { .. } => return Err(ToolError::failed(WITHOUT_WORKTREE)),
            Workspace::None => {
                let folder = shared.data_dir.join("attempts").join(attempt_name(&order.attempt));
                std::fs::create_dir_all(&folder)?;
                (folder.canonicalize()?, Some(folder))
            }
        };
        let mut place = Self { work: workspace, private };
        place.work =
            work_folder(&place.work, workdir.as_deref(), place.private.is_some()).map_err(|error| ToolError::failed(error.to_string()))?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(folder) = &self.private
            && let Err(error) = std::fs::remove_dir_all(folder)
        {
            tracing::warn!(folder = %folder.display(), %error, "the folder of an ended attempt stays until the next start");
        }
    }
}

/// One engine for all kinds of work.
pub struct Engines {
    processes: Arc<dyn Engine>,
    tools: Arc<dyn Engine>,
}

impl Engines {
    /// `run` goes to `processes`, `tool` to `tools`.
    pub fn new(processes: Arc<dyn Engine>, tools: Arc<dyn Engine>) -> Self {
        Self { processes, tools }
    }
}

impl Engine for Engines {
    fn run(&self, job: JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> BoxFuture<'static, AttemptEnd> {
        match &job.job.work {
            Work::Run(_) => self.processes.run(job, news, cancel),
            // A wait never leaves the Manager; the tools refuse what is none of theirs.
            Work::Tool { .. } | Work::Wait(_) | Work::Epic(_) => self.tools.run(job, news, cancel),
        }
    }
}
