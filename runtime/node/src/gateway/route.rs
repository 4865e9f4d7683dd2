//! Where a request is answered: by the Manager of this node if it leads, otherwise by the leader's node, to which it is passed on as it
//! came, with the name of who asked. Any node's gateway is therefore as good as another.
//!
//! While nobody leads a request waits a little. It is never given twice to anybody who may have taken it, unless it only reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_agents::manager::handle::no_leader;
use amphi_agents::manager::wiring::while_leading;
use amphi_ports::{BusError, BusMessage};
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::subjects;
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::request::Request;
use super::{ENDPOINTS, Gateway, Named, REQUESTS_AT_ONCE, Reply, render};

/// How long a request waits for somebody who leads: a killed leader is replaced in less.
const LEADER_WITHIN: Duration = Duration::from_secs(4);
/// Pause before it is looked again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the leader's node may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to read a history, which may be long.
const HISTORY_WITHIN: Duration = Duration::from_secs(600);
/// Verbs that read history.
const HISTORY: [&str; 4] = ["epic.events", "epic.export", "epic.report", "epic.verify"];
/// Verbs that any node answers by itself.
const ANYWHERE: [&str; 4] = ["epic.validate", "epic.plan", "node.join", "node.revoke"];
/// What verbs that change nothing are called, after the dot.
const READING: [&str; 9] = ["get", "list", "why", "logs", "events", "export", "verify", "report", "tree"];

impl Gateway {
    /// Answers, here or where the leader is.
    pub(super) async fn route(self: &Arc<Self>, named: Named, request: Request) -> Reply {
        let name = named.0;
        if ANYWHERE.contains(&name) {
            return self.run(named, request).await;
        }
        let reads = name.rsplit('.').next().is_some_and(|verb| READING.contains(&verb));
        let began = Instant::now();
        loop {
            let reply = if self.manager.leads() {
                Some(self.run(named, request.clone()).await)
            } else {
                match self.pass_on(name, &request).await {
                    Ok(answer) => Some((answer.headers, answer.body)),
                    Err(BusError::NoResponders { .. }) => None,
                    Err(BusError::Timeout { .. } | BusError::Failed { .. }) => return render(Err(unknown())),
                }
            };
            let in_time = began.elapsed() < LEADER_WITHIN;
            match reply {
                Some(reply) if !(reads && in_time && is_no_leader(&reply)) => return reply,
                None if !in_time => return render(Err(no_leader())),
                Some(_) | None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// A verb that panics must not leave its asker waiting, nor take the gateway with it.
    async fn run(self: &Arc<Self>, (_, verb): Named, request: Request) -> Reply {
        let answer = tokio::spawn(verb(self.clone(), request)).await;
        let failed = || Err(ApiError::new(ErrorCode::Internal, "the request made the gateway fail; the log says why"));
        render(answer.unwrap_or_else(|_| failed()))
    }

    async fn pass_on(&self, name: &str, request: &Request) -> Result<BusMessage, BusError> {
        let mut headers =
            BTreeMap::from([(subjects::VERB_HEADER.to_owned(), name.to_owned()), (subjects::BY_HEADER.to_owned(), request.by.clone())]);
        headers.extend(request.message_id.iter().map(|id| (subjects::MESSAGE_ID_HEADER.to_owned(), id.clone())));
        let within = if HISTORY.contains(&name) { HISTORY_WITHIN } else { ANSWER_WITHIN + super::locks::wait(name, request) };
        self.bus.request(subjects::passed_on(self.shard), headers, request.body.clone(), within).await
    }

    /// Answers what other gateways pass on, while this node leads.
    pub async fn serve_passed_on(self: Arc<Self>) {
        let at_once = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        let manager = self.manager.clone();
        while_leading(&manager, || {
            let (gateway, at_once) = (self.clone(), at_once.clone());
            async move {
                let mut requests = match gateway.bus.subscribe(subjects::passed_on(gateway.shard)).await {
                    Ok(requests) => requests,
                    Err(error) => return tracing::debug!(%error, "requests of other gateways are subscribed later"),
                };
                while let Some(message) = requests.next().await {
                    let Ok(permit) = at_once.clone().acquire_owned().await else { return };
                    let gateway = gateway.clone();
                    tokio::spawn(async move {
                        gateway.answer_passed_on(&message).await;
                        drop(permit);
                    });
                }
            }
        })
        .await;
    }

    async fn answer_passed_on(self: &Arc<Self>, message: &BusMessage) {
        let Some(reply_to) = message.reply.clone() else { return };
        let name = message.headers.get(subjects::VERB_HEADER).map_or("", String::as_str);
        let (headers, body) = match ENDPOINTS.iter().find(|(known, _)| *known == name) {
            Some(named) => self.run(*named, Request::passed_on(message)).await,
            // A newer build may have verbs that this one does not.
            None => render(Err(ApiError::new(ErrorCode::RequestInvalid, format!("the leader's build has no verb `{name}`")))),
        };
        // Whoever gets no answer asks again.
        let _unanswered = self.bus.publish(reply_to, headers, body).await;
    }
}

fn unknown() -> ApiError {
    ApiError::new(ErrorCode::ClusterNoLeader, "the leader did not answer; whether it took the request is not known")
        .hint("look, and send it again; a second submission with the same id is the same epic")
}

/// True if nobody led where it was asked; whether it was taken may be unknown.
pub(super) fn is_no_leader((headers, body): &Reply) -> bool {
    let status = headers.get(subjects::ERROR_CODE_HEADER).map(String::as_str);
    let of_no_leader = ErrorCode::ClusterNoLeader.status().to_string();
    status == Some(of_no_leader.as_str())
        && serde_json::from_slice::<amphi_protocol::api::ErrorBody>(body).is_ok_and(|body| body.error.code == ErrorCode::ClusterNoLeader)
}
