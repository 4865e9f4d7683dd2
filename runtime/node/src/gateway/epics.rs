//! Epics: read and cancelled.

use std::sync::Arc;

use amphi_agents::manager::Snapshot;
use amphi_agents::manager::handle::no_leader;
use amphi_coordination::Refusal;
use amphi_coordination::seat::Answer as Committed;
use amphi_coordination::views::ListedEpic;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::Input;
use serde_json::{Value, json};

use super::request::{PAGE_MAX, Request};
use super::tasks::instances;
use super::{Answer, Gateway, retired, shape};

/// `epic.get`.
pub async fn get(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let after = fields.text_if_any("after")?.map(str::to_owned);
    let limit = if fields.number_if_any("limit")?.is_some() { fields.limit()? } else { PAGE_MAX };
    let unknown = not_found(&epic);
    let (id, from) = (epic.clone(), after.clone());
    let view =
        gateway.manager.read(move |at| at.state.epic_view(&id, from.as_deref(), limit).map(|view| stamped(shape(&view), at.state))).await?;
    match view {
        Some(view) => Ok(view),
        None => {
            let put_away = retired::find(&gateway, &epic).await?.ok_or(unknown)?;
            stamp(&gateway, shape(&put_away.page(after.as_deref(), limit))).await
        }
    }
}

/// `epic.list`.
pub async fn list(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let after = fields.text_if_any("after")?.map(str::to_owned);
    let state = fields.text_if_any("state")?.map(str::to_owned);
    let limit = fields.limit()?;
    let read = move |at: &Snapshot<'_>| {
        let page = at.state.epic_page(after.as_deref(), limit, state.as_deref());
        (page, stamped(json!({}), at.state))
    };
    let ((listed, next), mut reply) = gateway.manager.read(read).await?;
    let names = listed.iter().filter_map(|listed| match listed {
        ListedEpic::PutAway(name) => Some(name.clone()),
        ListedEpic::Known(_) => None,
    });
    let mut put_away = retired::heads(&gateway, names.collect()).await?.into_iter();
    let epics = listed.into_iter().filter_map(|listed| match listed {
        ListedEpic::Known(view) => Some(*view),
        ListedEpic::PutAway(_) => put_away.next(),
    });
    reply["epics"] = epics.map(|view| shape(&view)).collect();
    reply["next"] = shape(&next);
    Ok(reply)
}

/// `epic.cancel`.
pub async fn cancel(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let undo = fields.flag("undo")?;
    take(&gateway, Input::CancelEpic { epic: epic.clone(), by: request.by, undo }, json!({ "epic": epic })).await
}

/// `epic.pause`.
pub async fn pause(gateway: Arc<Gateway>, request: Request) -> Answer {
    let epic = request.fields()?.epic()?;
    take(&gateway, Input::PauseEpic { epic: epic.clone(), by: request.by }, json!({ "epic": epic })).await
}

/// `epic.resume`.
pub async fn resume(gateway: Arc<Gateway>, request: Request) -> Answer {
    let epic = request.fields()?.epic()?;
    take(&gateway, Input::ResumeEpic { epic: epic.clone(), by: request.by }, json!({ "epic": epic })).await
}

/// `epic.retry`: of what did not end well, or of the task `from` and all that comes after it.
pub async fn retry(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let from = match fields.text_if_any("from")? {
        Some(task) => instances(&gateway, &epic, task).await?,
        None => Vec::new(),
    };
    take(&gateway, Input::RetryEpic { epic: epic.clone(), from, by: request.by }, json!({ "epic": epic })).await
}

/// Hands an input over; on success answers `reply` with the commit's epoch and index.
pub async fn take(gateway: &Gateway, input: Input, mut reply: Value) -> Answer {
    match gateway.manager.take(input).await? {
        Committed::Committed { index, epoch, .. } => {
            reply["epoch"] = shape(&epoch);
            reply["index"] = shape(&index);
            Ok(reply)
        }
        Committed::Refused(Refusal::Error(error)) => Err(error),
        Committed::Refused(Refusal::Stale(why)) => Err(ApiError::new(ErrorCode::StateConflict, why)),
        Committed::Refused(Refusal::Duplicate(_)) | Committed::NotLeading | Committed::Busy => Err(no_leader()),
    }
}

/// Replies of a Manager carry its epoch and index.
pub fn stamped(mut reply: Value, state: &amphi_coordination::State) -> Value {
    reply["epoch"] = shape(&state.epoch);
    reply["index"] = shape(&state.index);
    reply
}

/// The same for what is not in the Manager's state.
pub async fn stamp(gateway: &Gateway, reply: Value) -> Answer {
    gateway.manager.read(move |at| stamped(reply, at.state)).await
}

/// `epic.not_found`.
pub fn not_found(epic: &EpicId) -> ApiError {
    ApiError::new(ErrorCode::EpicNotFound, format!("there is no epic {epic}")).hint("`amphi epic ls` lists them")
}
