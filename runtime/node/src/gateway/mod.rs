//! The public door on NATS: the micro service `amphi` with one endpoint per verb (`interface.md` section 4).
//!
//! It parses, asks the Manager of the shard and renders; it decides nothing and holds no state. [`front`] is the door and finds the shard,
//! `route` finds its leader. Whatever comes in gets an answer: a result, or an
//! error with code, hint and, for documents, every problem with its place. Adding a verb is one function and one line in [`ENDPOINTS`].

mod epics;
mod fleet;
mod front;
mod history;
mod hold;
mod locks;
mod page;
mod request;
mod retired;
mod route;
mod submit;
mod tasks;
mod who;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphi_adapters::nats::NatsOutputLog;
use amphi_agents::ManagerHandle;
use amphi_ports::{Journal, MessageBus, ObjectStore};
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::document::{Catalog, Limits};
use amphi_protocol::ids::ShardId;
use amphi_protocol::journal::Admission;
use amphi_protocol::subjects;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::node::staff::LiveRoles;
pub use front::Front;
use history::History;
use request::Request;

/// Requests that are worked on at once; the rest waits in the subscriptions.
const REQUESTS_AT_ONCE: usize = 256;
/// Replies are kept below the server's payload limit.
const REPLY_BYTES_MAX: usize = 7 * 1024 * 1024;

/// What the verbs need, of one shard.
pub struct Gateway {
    /// The Manager of this node.
    pub manager: ManagerHandle,
    /// For questions to other nodes.
    pub bus: Arc<dyn MessageBus>,
    /// For large specifications.
    pub objects: Arc<dyn ObjectStore>,
    /// For history.
    pub journal: Arc<dyn Journal>,
    /// For task output.
    pub output: Arc<NatsOutputLog>,
    /// Names of all tools.
    pub tools: BTreeSet<String>,
    /// Those that harm an agent on purpose; they are for all roles.
    pub fault_tools: BTreeSet<String>,
    /// The roles in effect.
    pub roles: Arc<LiveRoles>,
    /// What is turned away at this door.
    pub limits: GatewayLimits,
    /// Whether clients have an account of their own, so that the server says who asks.
    pub accounts: bool,
    /// The shard.
    pub shard: ShardId,
    pub(crate) history: History,
}

/// What is turned away.
#[derive(Debug, Clone)]
pub struct GatewayLimits {
    /// Larger documents.
    pub documents: Limits,
    /// Submissions, while more is open.
    pub admission: Admission,
}

type Answer = Result<Value, ApiError>;
type Verb = fn(Arc<Gateway>, Request) -> BoxFuture<'static, Answer>;
/// A verb with its name, such as `epic.get`.
type Named = (&'static str, Verb);

macro_rules! endpoints {
    ($($name:literal => $verb:path,)*) => {
        /// Every verb of the interface that this release serves.
        const ENDPOINTS: &[Named] = &[$(($name, |gateway, request| Box::pin($verb(gateway, request))),)*];
    };
}

endpoints! {
    "epic.submit" => submit::submit,
    "epic.validate" => submit::validate,
    "epic.plan" => submit::plan,
    "epic.get" => epics::get,
    "epic.list" => epics::list,
    "epic.cancel" => epics::cancel,
    "epic.pause" => epics::pause,
    "epic.resume" => epics::resume,
    "epic.retry" => epics::retry,
    "epic.events" => history::events,
    "epic.export" => history::export,
    "epic.verify" => history::verify,
    "epic.report" => history::report,
    "task.get" => tasks::get,
    "task.list" => tasks::list,
    "task.cancel" => tasks::cancel,
    "task.retry" => tasks::retry,
    "task.skip" => tasks::skip,
    "task.assign" => tasks::assign,
    "task.why" => tasks::why,
    "task.logs" => tasks::logs,
    "queue.list" => tasks::queue,
    "lock.list" => locks::list,
    "lock.acquire" => locks::acquire,
    "lock.renew" => locks::renew,
    "lock.release" => locks::release,
    "agent.list" => fleet::agents,
    "agent.get" => fleet::agent,
    "agent.restart" => fleet::restart_agent,
    "agent.pause" => hold::pause_agent,
    "agent.resume" => hold::resume_agent,
    "agent.drain" => hold::drain_agent,
    "node.list" => fleet::nodes,
    "node.get" => fleet::node,
    "node.join" => fleet::join,
    "node.revoke" => fleet::revoke,
    "node.drain" => hold::drain_node,
    "role.list" => fleet::roles,
    "tree.get" => fleet::tree,
    "incident.list" => fleet::incidents,
    "incident.get" => fleet::incident,
    "incident.ack" => fleet::ack,
    "incident.resolve" => fleet::resolve,
}

impl Gateway {
    /// Roles and tools as they are now.
    pub(crate) fn catalog(&self) -> Catalog {
        let table = self.roles.get();
        let role_tools = table.roles.tools_by_role(&self.fault_tools);
        Catalog { roles: table.roles.skills_by_role(), tools: self.tools.clone(), role_tools }
    }
}

fn header_map(headers: &BTreeMap<String, String>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let value = value.parse::<HeaderValue>().unwrap_or_else(|_| HeaderValue::from("?"));
        map.insert(name.as_str(), value);
    }
    map
}

/// A reply: its headers and its body.
type Reply = (BTreeMap<String, String>, Bytes);

fn render(answer: Answer) -> Reply {
    let body = answer.map(|value| page::fit(value, REPLY_BYTES_MAX)).and_then(|text| {
        if text.len() <= REPLY_BYTES_MAX {
            return Ok(text);
        }
        let message = format!("the answer has {} bytes, more than a message may have", text.len());
        Err(ApiError::new(ErrorCode::RequestTooLarge, message).hint("ask for a smaller page with `limit`"))
    });
    match body {
        Ok(text) => (BTreeMap::new(), text.into()),
        Err(error) => {
            let words: String = error.message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
            let words = if words.parse::<HeaderValue>().is_ok() { words } else { error.code.as_str().to_owned() };
            let status = error.code.status().to_string();
            let headers = [(subjects::ERROR_HEADER, words), (subjects::ERROR_CODE_HEADER, status)];
            let headers = headers.map(|(name, value)| (name.to_owned(), value)).into();
            let body = serde_json::to_vec(&ErrorBody { error }).expect("an error has only string keys");
            (headers, body.into())
        }
    }
}

/// A reply value from a shape.
pub(crate) fn shape<T: serde::Serialize>(shape: &T) -> Value {
    serde_json::to_value(shape).expect("shapes have only string keys and finite numbers")
}
