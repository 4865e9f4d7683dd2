//! The public door on NATS: the micro service `amphi` with one endpoint per verb (`interface.md` section 4).
//!
//! It parses, asks the Manager and renders; it decides nothing and holds no state. Whatever comes in gets an answer: a result, or an
//! error with code, hint and, for documents, every problem with its place. Adding a verb is one function and one line in [`ENDPOINTS`].

mod epics;
mod fleet;
mod history;
mod hold;
mod locks;
mod page;
mod request;
mod retired;
mod route;
mod submit;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amphi_adapters::nats::NatsOutputLog;
use amphi_agents::ManagerHandle;
use amphi_ports::{Journal, MessageBus, ObjectStore};
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::document::{Catalog, Limits};
use amphi_protocol::ids::ShardId;
use amphi_protocol::journal::Admission;
use amphi_protocol::subjects;
use async_nats::service::{self, ServiceExt as _};
use async_nats::{Client, HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::node::staff::LiveRoles;
use history::History;
use request::Request;

/// Requests that are worked on at once; the rest waits in the subscriptions.
const REQUESTS_AT_ONCE: usize = 256;
/// Replies are kept below the server's payload limit.
const REPLY_BYTES_MAX: usize = 7 * 1024 * 1024;

/// What the verbs need.
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
    /// Credentials for nodes of other machines; none: they need no others.
    pub join: Option<(String, String)>,
    /// What is turned away at this door.
    pub limits: GatewayLimits,
    /// The shard.
    pub shard: ShardId,
    /// True once every verb has been served.
    pub serving: Arc<AtomicBool>,
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
    "node.drain" => hold::drain_node,
    "role.list" => fleet::roles,
    "tree.get" => fleet::tree,
    "incident.list" => fleet::incidents,
    "incident.get" => fleet::incident,
    "incident.resolve" => fleet::resolve,
}

impl Gateway {
    /// Roles and tools as they are now.
    pub(crate) fn catalog(&self) -> Catalog {
        let table = self.roles.get();
        let role_tools = table.roles.tools_by_role(&self.fault_tools);
        Catalog { roles: table.roles.skills_by_role(), tools: self.tools.clone(), role_tools }
    }

    /// Serves on `client` until the future is dropped. `$SRV.*` is answered by the service's own task, which never waits for a verb.
    /// The connection must serve nothing else: a message with a malformed header, which any client can send, makes the library give
    /// the whole connection up. Then this ends.
    ///
    /// # Errors
    /// The service could not be registered.
    pub async fn serve(self: Arc<Self>, client: Client) -> Result<(), async_nats::Error> {
        let builder = client.service_builder().description("Amphitheatre: epics, tasks, agents, locks");
        let service = builder.start(subjects::SERVICE_NAME, env!("CARGO_PKG_VERSION")).await?;
        let group = service.group(subjects::API_GROUP);
        let at_once = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        let mut endpoints = JoinSet::new();
        for (subject, verb) in ENDPOINTS {
            let mut endpoint = group.endpoint_builder().name(subject.replace('.', "-")).add(*subject).await?;
            let (gateway, at_once) = (self.clone(), at_once.clone());
            endpoints.spawn(async move {
                while let Some(request) = endpoint.next().await {
                    let Ok(permit) = at_once.clone().acquire_owned().await else { return };
                    let gateway = gateway.clone();
                    tokio::spawn(async move {
                        gateway.answer((*subject, *verb), request).await;
                        drop(permit);
                    });
                }
            });
        }
        client.flush().await?;
        self.serving.store(true, Ordering::Relaxed);
        // All end together, with the connection.
        endpoints.join_next().await;
        Ok(())
    }

    async fn answer(self: Arc<Self>, verb: Named, asked: service::Request) {
        if asked.message.reply.is_none() {
            return;
        }
        let (headers, body) = self.route(verb, Request::new(&asked.message)).await;
        // The library counts what it sends itself; an error of its own would have no body, so errors go the same way.
        if let Err(error) = asked.respond_with_headers(Ok(body), header_map(&headers)).await {
            tracing::debug!(%error, "a reply could not be sent");
        }
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
