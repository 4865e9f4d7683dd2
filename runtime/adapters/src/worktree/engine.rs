//! The engine in front of the others: it gives each job of a `git` workspace a worktree, and passes it on with that as its folder.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{Engine, JobNews, JobOrder, OutputChunk, OutputLog, OutputSource, Pins};
use amphi_protocol::document::Workspace;
use amphi_protocol::journal::AttemptEnd;
use amphi_protocol::node::Job;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::store::{Kept, Store, WorktreeConfig};
use crate::process::{Secrets, failed};

/// How long the end of an attempt waits for a line about its worktree to be stored.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// Makes worktrees for the engine behind it.
pub struct GitWorkspaces {
    inner: Arc<dyn Engine>,
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    log: Arc<dyn OutputLog>,
    secrets: Secrets,
}

impl GitWorkspaces {
    /// In front of `inner`. Call [`crate::process::confirm_dead`] first: this removes locks that a killed git left.
    pub fn open(
        config: WorktreeConfig,
        inner: Arc<dyn Engine>,
        log: Arc<dyn OutputLog>,
        pins: Arc<dyn Pins>,
        secrets: &BTreeMap<String, String>,
    ) -> io::Result<Self> {
        let shared = Shared { store: Store::open(config, pins)?, log, secrets: Secrets::new(secrets) };
        Ok(Self { inner, shared: Arc::new(shared) })
    }

    /// Removes what earlier lives of the node left and what holds nothing of its own. May run beside jobs.
    pub fn sweep(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move { shared.store.sweep().await }
    }
}

impl Engine for GitWorkspaces {
    fn run(&self, job: JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> BoxFuture<'static, AttemptEnd> {
        if !matches!(job.job.workspace, Workspace::Git { .. }) {
            return self.inner.run(job, news, cancel);
        }
        let (inner, shared) = (Arc::clone(&self.inner), Arc::clone(&self.shared));
        async move {
            let end = run(&*inner, &shared, job, news, cancel).await;
            shared.secrets.clean(end)
        }
        .boxed()
    }
}

async fn run(
    inner: &dyn Engine,
    shared: &Shared,
    order: JobOrder,
    news: mpsc::UnboundedSender<JobNews>,
    cancel: CancellationToken,
) -> AttemptEnd {
    let Workspace::Git { url, reference } = &order.job.workspace else { return inner.run(order, news, cancel).await };
    let taken = match shared.store.take(&order, (url, reference.as_deref()), &news, &cancel).await {
        Ok(taken) => taken,
        Err(error) => return failed(error.outcome, error.text),
    };
    if taken.is_continued {
        shared.say(&order, &format!("amphi: going on in the worktree as the attempt before left it: {}", taken.tree.display())).await;
    }
    let job = Job { workspace: Workspace::Path(taken.tree.display().to_string()), ..Job::clone(&order.job) };
    let end = inner.run(JobOrder { job: Arc::new(job), ..order.clone() }, news, cancel.clone()).await;
    let in_haste = cancel.is_cancelled() || order.hurry.is_cancelled();
    if let Some(Kept { tree, branch, why }) = shared.store.give_back(taken, in_haste).await {
        shared.say(&order, &format!("amphi: the worktree is kept ({why}): {} on branch {branch}", tree.display())).await;
    }
    end
}

impl Shared {
    /// A line in the task's output.
    async fn say(&self, order: &JobOrder, line: &str) {
        let chunk = OutputChunk { source: OutputSource::Err, bytes: format!("{line}\n").into() };
        match timeout(LOG_PATIENCE, self.log.append(&order.attempt, &order.task, chunk)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::warn!(attempt = %order.attempt, "could not be stored in the output of the task: {line}"),
        }
    }
}
