//! Agents and nodes that are held: pause, resume, drain. The Manager decides; this says what its word means for whoever asked.

use std::sync::Arc;

use amphi_protocol::api::ApiError;
use amphi_protocol::ids::{AgentId, NodeId};
use amphi_protocol::journal::{Hold, Input, Post};
use serde_json::{Value, json};

use super::epics::take;
use super::request::{Fields, Request, bad_id, invalid};
use super::{Answer, Gateway, shape};

/// What running attempts get unless `timeout_ms` says otherwise.
const GRACE_MS: u64 = 30_000;
/// A day.
const GRACE_MS_MAX: u64 = 86_400_000;

/// `agent.pause`: nothing new for it; what it runs goes on.
pub async fn pause_agent(gateway: Arc<Gateway>, request: Request) -> Answer {
    hold_agent(&gateway, &request, Hold::Pause).await
}

/// `agent.resume`.
pub async fn resume_agent(gateway: Arc<Gateway>, request: Request) -> Answer {
    hold_agent(&gateway, &request, Hold::Resume).await
}

/// `agent.drain`: nothing new for it, and what it still runs after `timeout_ms` is handed over.
pub async fn drain_agent(gateway: Arc<Gateway>, request: Request) -> Answer {
    let hold = Hold::Drain { grace_ms: grace(&request.fields()?)? };
    hold_agent(&gateway, &request, hold).await
}

async fn hold_agent(gateway: &Gateway, request: &Request, hold: Hold) -> Answer {
    let agent = AgentId::parse(request.fields()?.text("agent")?).map_err(bad_id)?;
    let input = Input::Hold { post: Post::Agent(agent.clone()), hold, by: request.by.clone() };
    let committed = take(gateway, input, json!({})).await?;
    let list = gateway.manager.read(|at| at.state.agent_list()).await?;
    let view = list.agents.into_iter().find(|view| view.agent == agent.as_str());
    Ok(merged(view.map_or_else(|| json!({ "agent": agent }), |view| shape(&view)), &committed))
}

/// `node.drain`: nothing new for its agents, and what they still run after `timeout_ms` is handed over; with `off` it takes work again.
pub async fn drain_node(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let node = NodeId::parse(fields.text("node")?).map_err(bad_id)?;
    let hold = if fields.flag("off")? { Hold::Resume } else { Hold::Drain { grace_ms: grace(&fields)? } };
    let input = Input::Hold { post: Post::Node(node.clone()), hold, by: request.by.clone() };
    let committed = take(&gateway, input, json!({})).await?;
    let list = gateway.manager.read(|at| at.state.node_list()).await?;
    let view = list.nodes.into_iter().find(|view| view.id == node.as_str());
    let leads = view.as_ref().is_some_and(|view| !view.leads.is_empty());
    let mut reply = merged(view.map_or_else(|| json!({ "id": node }), |view| shape(&view)), &committed);
    if leads && hold != Hold::Resume {
        reply["note"] = json!("its agents are drained; it still leads, and another node takes over when it is stopped");
    }
    Ok(reply)
}

fn grace(fields: &Fields) -> Result<u64, ApiError> {
    match fields.number_if_any("timeout_ms")? {
        Some(ms) if ms > GRACE_MS_MAX => Err(invalid(format!("`timeout_ms` is {ms}, at most {GRACE_MS_MAX} (a day) is waited for"))),
        ms => Ok(ms.unwrap_or(GRACE_MS)),
    }
}

/// The view with the commit's epoch and index.
fn merged(mut view: Value, committed: &Value) -> Value {
    for key in ["epoch", "index"] {
        view[key] = committed[key].clone();
    }
    view
}
