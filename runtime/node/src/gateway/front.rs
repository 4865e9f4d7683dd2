//! The door: the micro service with its endpoints, and to which shard a request goes.
//!
//! A document belongs to the shard of its project. An epic's shard is not in its id, so it is looked for once and remembered; agents and
//! incidents are looked for in each. Lists are put together from all shards, in the order of their keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::ids::{ProjectId, ShardId};
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::service::{self, ServiceExt as _};
use dashmap::DashMap;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::request::Request;
use super::route::is_no_leader;
use super::submit::project;
use super::who::{may, who};
use super::{ENDPOINTS, Gateway, Named, REQUESTS_AT_ONCE, Reply, header_map, render};

/// Epics whose shard is remembered; then it is looked for again.
const HOMES_MAX: usize = 100_000;

/// The gateways of a node, one for each shard.
pub struct Front {
    shards: Vec<Arc<Gateway>>,
    /// Where epics are, by their ids.
    homes: DashMap<String, usize>,
    /// True once every verb has been served.
    serving: Arc<AtomicBool>,
}

/// To which shards a verb goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// That of the project in the document.
    Document,
    /// That of the `project` in the body.
    Project,
    /// That which knows the epic.
    Epic,
    /// The first that knows what is asked about.
    Found,
    /// All of them, and what they say is one list of this name, ordered by this key.
    List(&'static str, &'static str),
    /// All of them, each of which knows every node; their answers are one, or a refusal.
    Node,
    /// Any.
    Any,
}

fn scope(verb: &str) -> Scope {
    match verb {
        "epic.submit" => Scope::Document,
        "epic.list" => Scope::List("epics", "epic"),
        "queue.list" => Scope::List("tasks", ""),
        "lock.list" => Scope::List("locks", "resource"),
        "agent.list" => Scope::List("agents", "agent"),
        "node.list" => Scope::List("nodes", "id"),
        "incident.list" => Scope::List("incidents", "incident"),
        "node.get" | "node.drain" => Scope::Node,
        "epic.validate" | "epic.plan" | "node.join" | "node.revoke" | "role.list" | "tree.get" => Scope::Any,
        verb if verb.starts_with("lock.") => Scope::Project,
        verb if verb.starts_with("agent.") || verb.starts_with("incident.") => Scope::Found,
        _ => Scope::Epic,
    }
}

impl Front {
    /// The door to these shards, in their order.
    pub fn new(shards: Vec<Gateway>, serving: Arc<AtomicBool>) -> Self {
        Self { shards: shards.into_iter().map(Arc::new).collect(), homes: DashMap::new(), serving }
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
        for named in ENDPOINTS {
            let subject = named.0;
            let mut endpoint = group.endpoint_builder().name(subject.replace('.', "-")).add(subject).await?;
            let (front, at_once) = (self.clone(), at_once.clone());
            endpoints.spawn(async move {
                while let Some(request) = endpoint.next().await {
                    let Ok(permit) = at_once.clone().acquire_owned().await else { return };
                    let front = front.clone();
                    tokio::spawn(async move {
                        front.answer(*named, request).await;
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

    /// Answers what other gateways pass on, for each shard while this node leads it.
    pub async fn serve_passed_on(&self) {
        futures::future::join_all(self.shards.iter().map(|gateway| gateway.clone().serve_passed_on())).await;
    }

    async fn answer(&self, named: Named, asked: service::Request) {
        if asked.message.reply.is_none() {
            return;
        }
        let accounts = self.shards.first().is_some_and(|gateway| gateway.accounts);
        let request = who(&asked.message, accounts).and_then(|by| {
            may(&by, named.0)?;
            Ok(Request::new(&asked.message, by))
        });
        let (headers, body) = match request {
            Ok(request) => self.find(named, request).await,
            Err(error) => render(Err(error)),
        };
        // The library counts what it sends itself; an error of its own would have no body, so errors go the same way.
        if let Err(error) = asked.respond_with_headers(Ok(body), header_map(&headers)).await {
            tracing::debug!(%error, "a reply could not be sent");
        }
    }

    async fn find(&self, named: Named, request: Request) -> Reply {
        if let [only] = self.shards.as_slice() {
            return only.route(named, request).await;
        }
        match scope(named.0) {
            Scope::Epic if named.0 == "epic.verify" && field(&request, "epic").is_none() => self.all_verdicts(named, &request).await,
            Scope::Any => self.in_shard(0, named, request).await,
            // What is no document is refused by any.
            Scope::Document => self.in_shard(self.of_project(project(&self.shards[0], &request).await), named, request).await,
            Scope::Project => {
                let project = field(&request, "project").and_then(|project| ProjectId::parse(&project).ok());
                self.in_shard(self.of_project(project), named, request).await
            }
            Scope::Epic => self.where_epic_is(named, request).await,
            Scope::Found => self.first_that_knows(named, request, None).await.1,
            Scope::List(list, key) => self.put_together(named, request, (list, key)).await,
            Scope::Node => self.one_node(named, &request).await,
        }
    }

    async fn in_shard(&self, shard: usize, named: Named, request: Request) -> Reply {
        self.shards[shard].route(named, request).await
    }

    async fn in_all(&self, named: Named, request: &Request) -> Vec<Reply> {
        futures::future::join_all(self.shards.iter().map(|gateway| gateway.route(named, request.clone()))).await
    }

    /// Without a project it is the default one's.
    fn of_project(&self, project: Option<ProjectId>) -> usize {
        let count = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        let project = project.unwrap_or_else(|| ProjectId::parse("default").expect("`default` is a project"));
        ShardId::of(&project, count).0 as usize
    }

    async fn where_epic_is(&self, named: Named, request: Request) -> Reply {
        let epic = field(&request, "epic").unwrap_or_default();
        let known = self.homes.get(&epic).map(|home| *home);
        let (home, reply) = self.first_that_knows(named, request, known).await;
        if let Some(home) = home.filter(|home| known != Some(*home)) {
            if self.homes.len() >= HOMES_MAX {
                self.homes.clear();
            }
            self.homes.insert(epic, home);
        }
        reply
    }

    /// The verdict on each shard; all hold only if each does.
    async fn all_verdicts(&self, named: Named, request: &Request) -> Reply {
        let replies = self.in_all(named, request).await;
        if let Some(refused) = replies.iter().find(|(headers, _)| !headers.is_empty()) {
            return refused.clone();
        }
        let verdicts: Vec<Value> = replies.iter().filter_map(|(_, body)| serde_json::from_slice(body).ok()).collect();
        let holds = verdicts.len() == replies.len() && verdicts.iter().all(|verdict| verdict["ok"] == true);
        render(Ok(json!({ "ok": holds, "shards": verdicts })))
    }

    /// Asks one shard after the other, `first` before the others, until one answers that knows it. A shard without a leader is passed over:
    /// the others may know it, and only if none does it may have been there.
    async fn first_that_knows(&self, named: Named, request: Request, first: Option<usize>) -> (Option<usize>, Reply) {
        let others = (0..self.shards.len()).filter(|shard| Some(*shard) != first);
        let (mut unsure, mut unknown) = (None, None);
        for shard in first.into_iter().chain(others) {
            let reply = self.in_shard(shard, named, request.clone()).await;
            if is_unknown(&reply) {
                unknown = Some(reply);
            } else if is_no_leader(&reply) {
                unsure = Some(reply);
            } else {
                return (Some(shard), reply);
            }
        }
        let nobody = || render(Err(ApiError::new(ErrorCode::Internal, "there is no shard")));
        (None, unsure.or(unknown).unwrap_or_else(nobody))
    }

    /// A node as all shards that know it see it; a refusal of one is that of all.
    async fn one_node(&self, named: Named, request: &Request) -> Reply {
        let mut replies = self.in_all(named, request).await;
        let refused = replies.iter().position(|reply| !reply.0.is_empty() && !is_unknown(reply));
        let known = replies.iter().filter(|(headers, _)| headers.is_empty()).filter_map(|(_, body)| serde_json::from_slice(body).ok());
        match (refused, nodes(known.collect()).into_iter().next()) {
            (None, Some(node)) => render(Ok(node)),
            (refused, _) => replies.swap_remove(refused.unwrap_or(0)),
        }
    }

    /// One page out of the pages of all shards. One that goes on is cut where the first of them does: nothing is left out.
    async fn put_together(&self, named: Named, request: Request, (list, key): (&str, &str)) -> Reply {
        let limit = serde_json::from_slice::<Value>(&request.body).ok().and_then(|body| body["limit"].as_u64());
        let mut entries: Vec<Value> = Vec::new();
        let (mut stamps, mut end): (Vec<Value>, Option<String>) = (Vec::new(), None);
        let text = |entry: &Value| entry[key].as_str().unwrap_or_default().to_owned();
        for (gateway, reply) in self.shards.iter().zip(self.in_all(named, &request).await) {
            let Ok(mut page) = serde_json::from_slice::<Value>(&reply.1) else { return reply };
            if !reply.0.is_empty() {
                return reply;
            }
            if let Some(next) = page["next"].as_str() {
                end = Some(end.map_or_else(|| next.to_owned(), |end| end.min(next.to_owned())));
            }
            stamps.push(json!({ "shard": gateway.shard, "epoch": page["epoch"], "index": page["index"] }));
            if let Value::Array(found) = page[list].take() {
                entries.extend(found);
            }
        }
        if list == "nodes" {
            entries = nodes(entries);
        }
        if !key.is_empty() {
            entries.sort_by_key(text);
        }
        if let Some(end) = &end {
            entries.retain(|entry| text(entry) <= *end);
        }
        if let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit < entries.len()) {
            entries.truncate(limit);
            end = entries.last().map(text);
        }
        render(Ok(json!({ list: entries, "next": end, "shards": stamps })))
    }
}

/// A node is known to every shard: it leads what it leads anywhere, and runs what it runs for all.
fn nodes(entries: Vec<Value>) -> Vec<Value> {
    let mut nodes: Vec<Value> = Vec::new();
    for entry in entries {
        match nodes.iter_mut().find(|known| known["id"] == entry["id"]) {
            Some(known) => {
                let leads = [&known["leads"], &entry["leads"]].into_iter().filter_map(Value::as_array).flatten().cloned().collect();
                known["leads"] = Value::Array(leads);
                known["running"] = json!(known["running"].as_u64().unwrap_or(0) + entry["running"].as_u64().unwrap_or(0));
                // Alive for one is alive.
                if entry["state"] == "alive" {
                    known["state"] = entry["state"].clone();
                }
            }
            None => nodes.push(entry),
        }
    }
    nodes
}

fn field(request: &Request, name: &str) -> Option<String> {
    serde_json::from_slice::<Value>(&request.body).ok()?[name].as_str().map(str::to_owned)
}

fn is_unknown((headers, body): &Reply) -> bool {
    headers.get(subjects::ERROR_CODE_HEADER).is_some_and(|status| status == "404")
        && serde_json::from_slice::<ErrorBody>(body).is_ok_and(|body| body.error.code != ErrorCode::TaskNotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_scope_and_lists_are_lists() {
        for (verb, _) in ENDPOINTS {
            let is_list = matches!(scope(verb), Scope::List(..));
            let lists_all = verb.ends_with(".list") && !matches!(*verb, "task.list" | "role.list");
            assert_eq!(is_list, lists_all, "{verb}");
        }
    }

    #[test]
    fn a_node_that_leads_two_shards_is_one_node() {
        let of = |leads: &[u32], running: u32| json!({ "id": "node-1", "leads": leads, "running": running, "state": "alive" });
        assert_eq!(nodes(vec![of(&[0], 2), of(&[1], 1), of(&[], 0)]), [of(&[0, 1], 3)]);
    }
}
