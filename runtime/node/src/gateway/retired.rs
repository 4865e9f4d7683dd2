//! Epics that were put away: the Manager remembers only that they were, their final views are in the object store. They are shown as
//! if they were still in memory; nothing about them changes any more.

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::EpicId;
use amphi_protocol::view::{EpicView, TaskView};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;

use super::Gateway;

/// Views that are fetched at once.
const AT_ONCE: usize = 16;

/// An epic that was put away.
#[derive(Deserialize)]
pub(super) struct PutAway {
    /// Its final view, with all tasks.
    pub epic: EpicView,
    /// Its graph.
    pub graph: Value,
}

/// The epic, if it was put away.
pub(super) async fn find(gateway: &Gateway, epic: &EpicId) -> Result<Option<PutAway>, ApiError> {
    let id = epic.clone();
    let name = gateway.manager.read(move |at| at.state.history().retired.get(&id).map(|retired| retired.view.clone())).await?;
    match name {
        Some(name) => fetch(gateway, &name).await.map(Some),
        None => Ok(None),
    }
}

/// The final view under this name.
async fn fetch(gateway: &Gateway, name: &str) -> Result<PutAway, ApiError> {
    let bytes = gateway.objects.get(name).await.map_err(|error| {
        tracing::warn!(%error, name, "the view of an epic that was put away cannot be read");
        ApiError::new(ErrorCode::ClusterUnreachable, "the object store cannot be read now").hint("try again")
    })?;
    let read = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    read.ok_or_else(|| {
        ApiError::new(ErrorCode::JournalDamaged, format!("{name} is missing or damaged in the object store"))
            .hint("`amphi epic events` still rebuilds what happened from the journal")
    })
}

/// The heads of several, in the same order.
pub(super) async fn heads(gateway: &Gateway, names: Vec<String>) -> Result<Vec<EpicView>, ApiError> {
    let fetched = futures::stream::iter(names).map(|name| async move {
        let mut view = fetch(gateway, &name).await?.epic;
        view.tasks = None;
        Ok(view)
    });
    fetched.buffered(AT_ONCE).collect::<Vec<Result<EpicView, ApiError>>>().await.into_iter().collect()
}

impl PutAway {
    /// The view with a page of its tasks: at most `limit` after the task `after`.
    pub fn page(mut self, after: Option<&str>, limit: usize) -> EpicView {
        let tasks = self.epic.tasks.take().unwrap_or_default();
        let first = after.and_then(|after| tasks.iter().position(|task| task.task == after)).map_or(0, |position| position + 1);
        let more = tasks.len() > first.saturating_add(limit);
        let page: Vec<TaskView> = tasks.into_iter().skip(first).take(limit).collect();
        self.epic.next = page.last().filter(|_| more).map(|last| last.task.clone());
        self.epic.tasks = Some(page);
        self.epic
    }

    /// One task.
    pub fn task(self, key: &str) -> Option<TaskView> {
        self.epic.tasks.unwrap_or_default().into_iter().find(|task| task.task == key)
    }
}
