//! Nodes, agents, incidents, supervision trees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_config::{Replicas, RoleConfig, RoleStrategy};
use amphi_ports::BusError;
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::ids::{AgentId, IncidentId, NodeId, RoleName};
use amphi_protocol::journal::{Input, Resolution};
use amphi_protocol::node::{NodeAnswer, NodeCommand, Order};
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use serde_json::{Value, json};

use super::epics::{stamped, take};
use super::request::{Request, bad_id, invalid};
use super::{Answer, Gateway, shape};

/// Longest note of who looks after an incident.
const NOTE_MAX: usize = 500;
const NODE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// The server may take a moment to know a new user.
const USERS_WITHIN: Duration = Duration::from_secs(8);

/// `agent.list`.
pub async fn agents(gateway: Arc<Gateway>, request: Request) -> Answer {
    let _none = request.fields()?;
    gateway.manager.read(|at| stamped(shape(&at.state.agent_list()), at.state)).await
}

/// `agent.get`.
pub async fn agent(gateway: Arc<Gateway>, request: Request) -> Answer {
    let agent = AgentId::parse(request.fields()?.text("agent")?).map_err(bad_id)?;
    let list = gateway.manager.read(|at| at.state.agent_list()).await?;
    let found = list.agents.into_iter().find(|view| view.agent == agent.as_str()).ok_or_else(|| agent_not_found(&agent))?;
    let mut view = shape(&found);
    view["messages"] = last_messages(&gateway, &found.node, &agent).await;
    Ok(view)
}

/// What the agent was told last, as its node has it; null if the node does not answer.
async fn last_messages(gateway: &Gateway, node: &str, agent: &AgentId) -> Value {
    let Ok(node) = NodeId::parse(node) else { return Value::Null };
    let body = Bytes::from(agent.to_string());
    match gateway.bus.request(subjects::node_inbox(&node), BTreeMap::new(), body, NODE_ANSWERS_WITHIN).await {
        Ok(answer) => serde_json::from_slice::<Value>(&answer.body).map_or(Value::Null, |mut answer| answer["messages"].take()),
        Err(_) => Value::Null,
    }
}

/// `agent.restart`: replaces an agent, also out of quarantine.
pub async fn restart_agent(gateway: Arc<Gateway>, request: Request) -> Answer {
    let agent = AgentId::parse(request.fields()?.text("agent")?).map_err(bad_id)?;
    let wanted = agent.clone();
    let found = gateway
        .manager
        .read(move |at| {
            let node = at.state.agents().find(|(id, _)| **id == wanted).map(|(_, agent)| agent.node.clone())?;
            let (_, life) = at.state.nodes().find(|(id, _)| **id == node)?;
            Some((at.state.epoch, node, life.incarnation))
        })
        .await?;
    let (epoch, node, incarnation) = found.ok_or_else(|| agent_not_found(&agent))?;
    let command = NodeCommand { epoch, node: node.clone(), incarnation, orders: vec![Order::RestartAgent { agent: agent.clone() }] };
    let headers: BTreeMap<String, String> = [(subjects::CODEC_HEADER.to_owned(), codec::BINCODE.to_owned())].into();
    let answer = gateway
        .bus
        .request(subjects::node_commands(&node, gateway.shard), headers, Bytes::from(codec::encode(&command)), NODE_ANSWERS_WITHIN)
        .await;
    match answer.map(|answer| codec::decode::<NodeAnswer>(&answer.body)) {
        Ok(Ok(NodeAnswer::Confirmed)) => Ok(json!({ "agent": agent, "node": node })),
        Ok(Ok(NodeAnswer::OtherIncarnation { .. } | NodeAnswer::OldEpoch { .. }) | Err(_)) | Err(_) => {
            Err(ApiError::new(ErrorCode::ClusterUnreachable, format!("{node} did not take the order")).hint("try again"))
        }
    }
}

/// `node.list`.
pub async fn nodes(gateway: Arc<Gateway>, request: Request) -> Answer {
    let _none = request.fields()?;
    gateway.manager.read(|at| stamped(shape(&at.state.node_list()), at.state)).await
}

/// `node.get`.
pub async fn node(gateway: Arc<Gateway>, request: Request) -> Answer {
    let node = NodeId::parse(request.fields()?.text("node")?).map_err(bad_id)?;
    let list = gateway.manager.read(|at| at.state.node_list()).await?;
    let found = list.nodes.into_iter().find(|view| view.id == node.as_str());
    found
        .map(|view| shape(&view))
        .ok_or_else(|| ApiError::new(ErrorCode::NodeNotFound, format!("there is no node {node}")).hint("`amphi node ls` lists them"))
}

/// `node.join`: lets nodes of another machine in, with a user of their own each. `{"nodes":[{"node","password"}]}` → `{"accounts",
/// "users"}`: whether clients have an account of their own, and whether these nodes now have users; without, they log in as their `up`
/// does.
pub async fn join(gateway: Arc<Gateway>, request: Request) -> Answer {
    let mut asked: Value = serde_json::from_slice(&request.body).map_err(|error| invalid(format!("the body is no JSON: {error}")))?;
    // Who asks is a client: its nodes work, and no Manager runs there.
    let body = json!({ "nodes": asked["nodes"].take(), "seat": false }).to_string().into();
    let users = change_users(&gateway, "admit", &body).await?;
    Ok(json!({ "accounts": gateway.accounts, "users": users.is_some() }))
}

/// `node.revoke`: ends the node's connections and takes its user away, for good.
pub async fn revoke(gateway: Arc<Gateway>, request: Request) -> Answer {
    let node = NodeId::parse(request.fields()?.text("node")?).map_err(bad_id)?;
    let body = json!({ "node": node }).to_string().into();
    match change_users(&gateway, "revoke", &body).await? {
        Some(answer) if answer["revoked"] == true => Ok(json!({ "node": node })),
        Some(_) => {
            Err(ApiError::new(ErrorCode::NodeNotFound, format!("there is no user of a node {node}")).hint("`amphi node ls` lists them"))
        }
        None => Err(ApiError::new(ErrorCode::StateConflict, "no `amphi up` of this cluster runs the NATS server")
            .hint("take the user out of the server's own configuration, and reload it")),
    }
}

/// Asks the `up` that runs the server; none if no `up` does.
async fn change_users(gateway: &Gateway, what: &str, body: &Bytes) -> Result<Option<Value>, ApiError> {
    let failed =
        || ApiError::new(ErrorCode::ClusterUnreachable, "the `amphi up` that runs the NATS server does not answer").hint("try again");
    let subject = format!("{}.{what}", subjects::NODE_USERS);
    match gateway.bus.request(subject, BTreeMap::new(), body.clone(), USERS_WITHIN).await {
        Ok(answer) => {
            let answer: Value = serde_json::from_slice(&answer.body).map_err(|_| failed())?;
            match serde_json::from_value::<ErrorBody>(answer.clone()) {
                Ok(refused) => Err(refused.error),
                Err(_) => Ok(Some(answer)),
            }
        }
        Err(BusError::NoResponders { .. }) => Ok(None),
        Err(BusError::Timeout { .. } | BusError::Failed { .. }) => Err(failed()),
    }
}

/// `role.list`.
pub async fn roles(gateway: Arc<Gateway>, request: Request) -> Answer {
    let _none = request.fields()?;
    let table = gateway.roles.get();
    let roles: Vec<Value> = table.roles.by_name.iter().map(|(name, role)| role_view(name, role, table.sources.get(name))).collect();
    let rejected = table.rejected.iter().map(|rejected| {
        json!({ "role": rejected.role, "file": rejected.file, "problems": rejected.problems, "former_in_effect": rejected.former })
    });
    Ok(json!({ "roles": roles, "rejected": rejected.collect::<Vec<_>>() }))
}

fn role_view(name: &RoleName, role: &RoleConfig, sources: Option<&Vec<String>>) -> Value {
    let replicas = match role.replicas {
        Replicas::Capacity => "capacity".to_owned(),
        Replicas::Range { min, max } if min == max => min.to_string(),
        Replicas::Range { min, max } => format!("{min}..{max}"),
    };
    let strategy = match role.restart.strategy {
        RoleStrategy::OneForOne => "one_for_one",
        RoleStrategy::OneForAll => "one_for_all",
        RoleStrategy::RestForOne => "rest_for_one",
    };
    json!({
        "role": name,
        "skills": role.skills,
        "responsibilities": role.responsibilities,
        "tools": role.tools,
        "replicas": replicas,
        "restart": { "strategy": strategy, "max": role.restart.max, "within_ms": u64::try_from(role.restart.within.as_millis()).unwrap_or(u64::MAX) },
        "source": sources.and_then(|sources| sources.last()),
        "sources": sources,
    })
}

/// `tree.get`: every node's own published tree; a node that does not answer is listed without one.
pub async fn tree(gateway: Arc<Gateway>, request: Request) -> Answer {
    let _none = request.fields()?;
    let nodes = gateway.manager.read(|at| at.state.node_list().nodes).await?;
    let asked = nodes.into_iter().map(|node| {
        let gateway = gateway.clone();
        async move {
            let subject = NodeId::parse(&node.id).map(|id| subjects::node_tree(&id)).unwrap_or_default();
            let lives = node.state != "lost";
            let answer =
                if lives { gateway.bus.request(subject, BTreeMap::new(), Bytes::new(), NODE_ANSWERS_WITHIN).await.ok() } else { None };
            let root = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok()).unwrap_or(Value::Null);
            let state = if lives && root.is_null() { "silent".to_owned() } else { node.state };
            json!({ "node": node.id, "pid": node.pid, "incarnation": node.incarnation, "state": state, "restarts": node.restarts, "last_exit": node.last_exit,
                "root": root })
        }
    });
    Ok(json!({ "nodes": futures::future::join_all(asked).await }))
}

/// `incident.list`.
pub async fn incidents(gateway: Arc<Gateway>, request: Request) -> Answer {
    let _none = request.fields()?;
    gateway.manager.read(|at| stamped(shape(&at.state.incident_list()), at.state)).await
}

/// `incident.get`.
pub async fn incident(gateway: Arc<Gateway>, request: Request) -> Answer {
    let incident = IncidentId::parse(request.fields()?.text("incident")?).map_err(bad_id)?;
    let list = gateway.manager.read(|at| at.state.incident_list()).await?;
    let found = list.incidents.into_iter().find(|view| view.incident == incident.as_str());
    found.map(|view| shape(&view)).ok_or_else(|| {
        ApiError::new(ErrorCode::IncidentNotFound, format!("there is no incident {incident}")).hint("`amphi incident ls` lists them")
    })
}

/// `incident.ack`: who asks looks after it.
pub async fn ack(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let incident = IncidentId::parse(fields.text("incident")?).map_err(bad_id)?;
    let note = fields.text_if_any("note")?.unwrap_or_default().to_owned();
    if note.chars().count() > NOTE_MAX {
        return Err(invalid(format!("`note` is longer than {NOTE_MAX} characters")));
    }
    let by = request.by;
    let reply = json!({ "incident": incident, "acked_by": by });
    take(&gateway, Input::AckIncident { incident, note, by }, reply).await
}

/// `incident.resolve`.
pub async fn resolve(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let incident = IncidentId::parse(fields.text("incident")?).map_err(bad_id)?;
    let resolution = match fields.text("as")? {
        "succeeded" => Resolution::Succeeded,
        "failed" => Resolution::Failed,
        "not_started" => Resolution::NotStarted,
        other => return Err(invalid(format!("`as` is {other:?}: expected succeeded, failed or not_started"))),
    };
    let input = Input::ResolveIncident { incident: incident.clone(), resolution, by: request.by };
    take(&gateway, input, json!({ "incident": incident, "as": resolution })).await
}

fn agent_not_found(agent: &AgentId) -> ApiError {
    ApiError::new(ErrorCode::AgentNotFound, format!("there is no agent {agent}")).hint("`amphi agent ls` lists them")
}
