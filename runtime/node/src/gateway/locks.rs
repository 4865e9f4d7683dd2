//! Locks: what is held, and owners outside of all epics that take, renew and give back. The Manager decides; this waits with whoever waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use amphi_coordination::OutsideStanding;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{OwnerName, ProjectId, Resource, Token};
use amphi_protocol::journal::outside::WAIT_MS_MAX;
use amphi_protocol::journal::{Input, LockName, OutsideLock};
use amphi_protocol::overlap;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::epics::{stamped, take};
use super::request::{Fields, Request, bad_id, invalid};
use super::{Answer, Gateway, shape};

/// Requests that wait for a lock at once, through this door; the rest of its places is for everybody else.
static WAITING: Semaphore = Semaphore::const_new(128);
/// How often it is looked whether a lock was granted. Looking costs the leader a map lookup, and works whoever leads meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// What a wait may take beyond its time, before the Manager has taken the request out of the queue.
const GRACE: Duration = Duration::from_secs(5);
const TTL_MS: u64 = 30_000;
const PROJECT: &str = "default";

/// `lock.list`.
pub async fn list(gateway: Arc<Gateway>, request: Request) -> Answer {
    let _none = request.fields()?;
    gateway.manager.read(|at| stamped(shape(&at.state.lock_list((at.now, at.lease_left))), at.state)).await
}

/// `lock.acquire`: `{"resource","mode","owner","ttl_ms"}`, with `wait_ms` waits so long, and answers when it is granted or the wait is over.
pub async fn acquire(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let name = name(&fields)?;
    let mode = match fields.text_if_any("mode")?.unwrap_or("write") {
        "read" => LockMode::Read,
        "write" => LockMode::Write,
        other => return Err(invalid(format!("`mode` is {other:?}: expected read or write"))),
    };
    let owner = OwnerName::parse(fields.text("owner")?).map_err(bad_id)?;
    let ttl_ms = fields.number_if_any("ttl_ms")?.unwrap_or(TTL_MS);
    let wait_ms = fields.number_if_any("wait_ms")?.unwrap_or(0);
    let _place = match wait_ms {
        0 => None,
        _ => Some(WAITING.try_acquire().map_err(|_| {
            ApiError::new(ErrorCode::ClusterBusy, "too many requests wait for locks here").hint("ask again later, or without `wait_ms`")
        })?),
    };
    let lock = OutsideLock { name: name.clone(), mode, owner: owner.clone() };
    let committed = take(&gateway, Input::AcquireLock { lock, ttl_ms, wait_ms, by: request.by }, json!({})).await?;
    let over = Instant::now() + Duration::from_millis(wait_ms) + GRACE;
    loop {
        let (of, whose) = (name.clone(), owner.clone());
        match gateway.manager.read(move |at| at.state.outside_standing(&of, &whose, at.now)).await? {
            OutsideStanding::Held { token, left_ms, .. } => return Ok(held((&name, &owner), mode, (token, left_ms), &committed)),
            OutsideStanding::Waiting { .. } if Instant::now() < over => tokio::time::sleep(LOOK_EVERY).await,
            OutsideStanding::Waiting { .. } | OutsideStanding::Gone => {
                let message = format!("{} was not free for {owner} within {wait_ms} ms", name.resource);
                let error = ApiError::new(ErrorCode::StateConflict, message).hint("`amphi lock show` says who has it; try again later");
                return Err(ApiError { retryable: true, ..error });
            }
        }
    }
}

/// `lock.renew`: for `ttl_ms` from now on, or as long as the last time; `token` or `owner` says whose.
pub async fn renew(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let (name, token, owner) = (name(&fields)?, token(&fields)?, owner(&fields)?);
    let ttl_ms = fields.number_if_any("ttl_ms")?;
    let by = request.by;
    let input = Input::RenewLock { name: name.clone(), token, owner: owner.clone(), ttl_ms, by };
    let committed = take(&gateway, input, json!({})).await?;
    let of = name.clone();
    let look = move |at: &amphi_agents::manager::Snapshot<'_>| {
        let owner = owner.or_else(|| at.state.outside_holder(&of, token?).cloned())?;
        Some((at.state.outside_standing(&of, &owner, at.now), owner))
    };
    match gateway.manager.read(look).await? {
        Some((OutsideStanding::Held { token, left_ms, mode }, owner)) => Ok(held((&name, &owner), mode, (token, left_ms), &committed)),
        Some(_) | None => Err(ApiError::new(ErrorCode::StateConflict, format!("{} was lost right after", name.resource))),
    }
}

/// `lock.release`: `token` or `owner` says whose; a request that still waits is taken back.
pub async fn release(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let (name, token, owner) = (name(&fields)?, token(&fields)?, owner(&fields)?);
    let reply = json!({ "resource": name.resource, "released": true });
    take(&gateway, Input::ReleaseLock { name, token, owner, by: request.by }, reply).await
}

/// How long a request may wait before it is answered.
pub fn wait(verb: &str, request: &Request) -> Duration {
    let asked = (verb == "lock.acquire").then(|| request.fields().and_then(|fields| fields.number_if_any("wait_ms")));
    let ms = asked.and_then(Result::ok).flatten().unwrap_or(0);
    Duration::from_millis(ms.min(WAIT_MS_MAX))
}

fn held((name, owner): (&LockName, &OwnerName), mode: LockMode, (token, left_ms): (Token, u64), committed: &Value) -> Value {
    json!({
        "resource": name.resource, "project": name.project, "mode": mode, "owner": owner, "token": token, "lease_left_ms": left_ms,
        "epoch": committed["epoch"], "index": committed["index"],
    })
}

fn name(fields: &Fields) -> Result<LockName, ApiError> {
    let text = fields.text("resource")?;
    let resource = Resource::parse(text).map_err(bad_id)?;
    if let Some(problem) = overlap::name_problem(text) {
        return Err(invalid(format!("`resource` is no resource: {problem}")).hint("for instance env/production or file/src/*.rs"));
    }
    let project = ProjectId::parse(fields.text_if_any("project")?.unwrap_or(PROJECT)).map_err(bad_id)?;
    let folder = fields.text_if_any("folder")?.map(str::to_owned);
    if folder.as_ref().is_some_and(|folder| folder.len() > 4096 || folder.chars().any(char::is_control)) {
        return Err(invalid("`folder` is no folder").hint("a workspace as `lock.list` shows it"));
    }
    if folder.is_some() && !text.starts_with("file/") {
        return Err(invalid("only `file/…` belongs to a folder"));
    }
    Ok(LockName { project, folder, resource })
}

fn token(fields: &Fields) -> Result<Option<Token>, ApiError> {
    // Fencing tokens are decimal texts in an environment, and numbers in JSON: both are understood.
    if let Ok(Some(text)) = fields.text_if_any("token") {
        return text.parse().map(|token| Some(Token(token))).map_err(|_| invalid("`token` is no whole number"));
    }
    Ok(fields.number_if_any("token")?.map(Token))
}

fn owner(fields: &Fields) -> Result<Option<OwnerName>, ApiError> {
    fields.text_if_any("owner")?.map(OwnerName::parse).transpose().map_err(bad_id)
}
