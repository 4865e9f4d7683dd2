//! Tasks: read, explained, retried, cancelled; and what they wrote.

use std::sync::Arc;

use amphi_adapters::process::CUT_MARK;
use amphi_coordination::put_away;
use amphi_ports::OutputSource;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{AgentId, EpicId};
use amphi_protocol::journal::Input;
use amphi_protocol::view::TaskView;
use serde_json::{Value, json};

use super::epics::{not_found, stamp, stamped, take};
use super::request::{PAGE_MAX, Request, bad_id};
use super::{Answer, Gateway, retired, shape};

/// Text of one page of output.
const LOG_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// `task.get`.
pub async fn get(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let (epic, task) = (fields.epic()?, fields.task()?.to_owned());
    let unknown = (not_found(&epic), task_not_found(&epic, &task));
    let (id, key) = (epic.clone(), task.clone());
    let (known, view) = gateway
        .manager
        .read(move |at| {
            let view = at.state.task(&id, &key).map(|view| stamped(shape(&view), at.state));
            (at.state.epic(&id).is_some(), view)
        })
        .await?;
    if known || view.is_some() {
        return view.ok_or(unknown.1);
    }
    let put_away = retired::find(&gateway, &epic).await?.ok_or(unknown.0)?;
    stamp(&gateway, shape(&put_away.task(&task).ok_or(unknown.1)?)).await
}

/// `task.list`: the tasks of an epic, optionally in one state.
pub async fn list(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let after = fields.text_if_any("after")?.map(str::to_owned);
    let state = fields.text_if_any("state")?.map(str::to_owned);
    let limit = if fields.number_if_any("limit")?.is_some() { fields.limit()? } else { PAGE_MAX };
    let (id, from) = (epic.clone(), after.clone());
    let unknown = not_found(&epic);
    let view = gateway.manager.read(move |at| at.state.epic_view(&id, from.as_deref(), limit)).await?;
    let view = match view {
        Some(view) => view,
        None => retired::find(&gateway, &epic).await?.ok_or(unknown)?.page(after.as_deref(), limit),
    };
    let wanted = |task: &TaskView| state.as_ref().is_none_or(|wanted| task.state == *wanted);
    let tasks: Vec<_> = view.tasks.into_iter().flatten().filter(wanted).collect();
    stamp(&gateway, json!({ "tasks": tasks, "next": view.next })).await
}

/// `task.why`.
pub async fn why(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let (epic, task) = (fields.epic()?, fields.task()?.to_owned());
    let unknown = (not_found(&epic), task_not_found(&epic, &task));
    let (id, key) = (epic.clone(), task.clone());
    let (known, view) = gateway
        .manager
        .read(move |at| {
            let view = at.state.why(&id, &key, (at.now, at.lease_left)).map(|view| stamped(shape(&view), at.state));
            (at.state.epic(&id).is_some(), view)
        })
        .await?;
    if known || view.is_some() {
        return view.ok_or(unknown.1);
    }
    let view = retired::find(&gateway, &epic).await?.ok_or(unknown.0)?.task(&task).ok_or(unknown.1)?;
    stamp(&gateway, json!({ "epic": view.epic, "task": view.task, "state": view.state, "waits": [] })).await
}

/// `task.cancel`.
pub async fn cancel(gateway: Arc<Gateway>, request: Request) -> Answer {
    let (epic, task, instances) = named(&gateway, &request).await?;
    let input = Input::CancelTask { epic: epic.clone(), instances, by: request.by };
    take(&gateway, input, json!({ "epic": epic, "task": task })).await
}

/// `task.retry`.
pub async fn retry(gateway: Arc<Gateway>, request: Request) -> Answer {
    let (epic, task, instances) = named(&gateway, &request).await?;
    let input = Input::RetryTask { epic: epic.clone(), instances, by: request.by };
    take(&gateway, input, json!({ "epic": epic, "task": task })).await
}

/// `task.skip`.
pub async fn skip(gateway: Arc<Gateway>, request: Request) -> Answer {
    let (epic, task, instances) = named(&gateway, &request).await?;
    let input = Input::SkipTask { epic: epic.clone(), instances, by: request.by };
    take(&gateway, input, json!({ "epic": epic, "task": task })).await
}

/// `task.assign`: `agent` has the next attempt.
pub async fn assign(gateway: Arc<Gateway>, request: Request) -> Answer {
    let agent = AgentId::parse(request.fields()?.text("agent")?).map_err(bad_id)?;
    let (epic, task, instances) = named(&gateway, &request).await?;
    let input = Input::AssignTask { epic: epic.clone(), instances, agent: agent.clone(), by: request.by };
    take(&gateway, input, json!({ "epic": epic, "task": task, "agent": agent })).await
}

/// `queue.list`: what is ready and waits.
pub async fn queue(gateway: Arc<Gateway>, request: Request) -> Answer {
    let limit = request.fields()?.limit()?;
    gateway.manager.read(move |at| stamped(shape(&at.state.queue_list(limit)), at.state)).await
}

/// `task.logs`: what one attempt wrote, by default the last.
pub async fn logs(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let (epic, task) = (fields.epic()?, fields.task()?.to_owned());
    let (run, attempt) = (fields.number_if_any("run")?, fields.number_if_any("attempt")?);
    let after = fields.number_if_any("after")?.unwrap_or(0);
    let (id, key) = (epic.clone(), task.clone());
    let (known, view) = gateway.manager.read(move |at| (at.state.epic(&id).is_some(), at.state.task(&id, &key))).await?;
    let view = match view {
        Some(view) => view,
        None if known => return Err(task_not_found(&epic, &task)),
        None => {
            let put_away = retired::find(&gateway, &epic).await?.ok_or_else(|| not_found(&epic))?;
            put_away.task(&task).ok_or_else(|| task_not_found(&epic, &task))?
        }
    };
    let number = |given: Option<u64>, last: u32| given.map_or(last, |given| u32::try_from(given).unwrap_or(u32::MAX));
    let (run, attempt) = (number(run, view.run), number(attempt, view.attempt));
    let chunks = gateway.output.read_output(&epic, &task, run, attempt).await.map_err(|error| {
        tracing::warn!(%error, "task output cannot be read");
        ApiError::new(ErrorCode::ClusterUnreachable, "the output cannot be read now").hint("try again")
    })?;
    let mut page: Vec<Value> = Vec::new();
    let (mut bytes, mut next) = (0, None);
    for (number, chunk) in (1u64..).zip(&chunks).filter(|(number, _)| *number > after) {
        if bytes > LOG_PAGE_BYTES {
            next = Some(number - 1);
            break;
        }
        bytes += chunk.bytes.len();
        let source = match chunk.source {
            OutputSource::Out => "out",
            OutputSource::Err => "err",
        };
        page.push(json!({ "source": source, "text": String::from_utf8_lossy(&chunk.bytes) }));
    }
    let truncated = chunks.iter().any(|chunk| chunk.bytes.ends_with(CUT_MARK.as_bytes()));
    Ok(json!({ "epic": epic, "task": task, "run": run, "attempt": attempt, "chunks": page, "truncated": truncated, "next": next }))
}

async fn named(gateway: &Gateway, request: &Request) -> Result<(EpicId, String, Vec<u32>), ApiError> {
    let fields = request.fields()?;
    let (epic, task) = (fields.epic()?, fields.task()?.to_owned());
    let instances = instances(gateway, &epic, &task).await?;
    Ok((epic, task, instances))
}

/// The instances that users mean by `t` or `t[i]`; an epic that was put away has none that could be changed.
pub async fn instances(gateway: &Gateway, epic: &EpicId, task: &str) -> Result<Vec<u32>, ApiError> {
    let (id, key) = (epic.clone(), task.to_owned());
    let (known, retired, instances) = gateway
        .manager
        .read(move |at| {
            let retired = at.state.history().retired.contains_key(&id);
            (at.state.epic(&id).is_some(), retired, at.state.instances(&id, &key))
        })
        .await?;
    match (known, instances.is_empty()) {
        (false, _) if retired => Err(put_away(epic)),
        (false, _) => Err(not_found(epic)),
        (true, true) => Err(task_not_found(epic, task)),
        (true, false) => Ok(instances),
    }
}

fn task_not_found(epic: &EpicId, task: &str) -> ApiError {
    ApiError::new(ErrorCode::TaskNotFound, format!("epic {epic} has no task {task:?}"))
        .hint("`amphi task ls EPIC` lists them; an instance of a matrix is t[i]")
}
