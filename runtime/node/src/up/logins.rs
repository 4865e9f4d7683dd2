//! With what the nodes of this `up` log in: on a server that an `amphi up` runs each has a user of its own, whose password its data
//! folder keeps and nobody else has.
//!
//! Also the other end: an `up` that runs the server lets nodes in and shuts them out, when a gateway or another `up` asks it to. Only
//! nodes may ask; which people may is the gateway's to say.

use std::io;
use std::path::Path;

use amphi_adapters::nats::managed::{AdmitError, Users};
use amphi_adapters::nats::with_credentials;
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::ids::NodeId;
use amphi_protocol::subjects;
use async_nats::{Client, Message};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::names::kept;

/// The file in a node's data folder with its password.
const LOGIN_FILE: &str = "login";
/// Nodes that are let in at once at most; more than an `up` may have.
const NODES_MAX: usize = 64;

/// Where a node logs in.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// Among the nodes.
    pub(super) core: String,
    /// On the clients' side, where that is another account.
    pub(super) edge: Option<String>,
}

/// A node that wants in.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Applicant {
    pub(super) node: NodeId,
    /// A secret.
    pub(super) password: String,
}

/// What is asked of the `up` that runs the server.
#[derive(Serialize, Deserialize)]
pub(super) struct Admit {
    pub(super) nodes: Vec<Applicant>,
    /// Whether a Manager may run there; believed of nodes only.
    #[serde(default)]
    pub(super) seat: bool,
}

#[derive(Deserialize)]
struct Revoke {
    node: NodeId,
}

impl Applicant {
    /// The node with its password, which is made at the first time.
    pub(super) fn new(node: &NodeId, folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let random = || format!("{}{}", Uuid::now_v7().simple(), Uuid::now_v7().simple());
        Ok(Self { node: node.clone(), password: kept(&folder.join(LOGIN_FILE), random)? })
    }

    /// Where it logs in once it was let in; `url` is where its `up` is.
    pub(super) fn login(&self, url: &str) -> Login {
        let edge = amphi_adapters::nats::managed::accounts::edge_user(&self.node);
        Login { core: with_credentials(url, self.node.as_str(), &self.password), edge: Some(with_credentials(url, &edge, &self.password)) }
    }
}

/// Lets nodes in and shuts them out until the connection ends.
pub(super) async fn serve(client: Client, users: Users) {
    let mut asked = match client.subscribe(format!("{}.*", subjects::NODE_USERS)).await {
        Ok(asked) => asked,
        Err(error) => return tracing::error!(%error, "nodes of other machines cannot join"),
    };
    while let Some(message) = asked.next().await {
        let Some(reply) = message.reply.clone() else { continue };
        let answer = answer(&users, &message).await.unwrap_or_else(|error| json!(ErrorBody { error }));
        if let Err(error) = client.publish(reply, answer.to_string().into()).await {
            tracing::debug!(%error, "an answer about a node's user is lost; it is asked again");
        }
    }
}

async fn answer(users: &Users, message: &Message) -> Result<Value, ApiError> {
    let invalid = |error: serde_json::Error| ApiError::new(ErrorCode::RequestInvalid, error.to_string());
    match message.subject.rsplit('.').next() {
        Some("admit") => {
            let Admit { nodes, seat } = serde_json::from_slice(&message.payload).map_err(invalid)?;
            if nodes.len() > NODES_MAX {
                return Err(ApiError::new(ErrorCode::RequestInvalid, format!("at most {NODES_MAX} nodes at once")));
            }
            // Who asks through a gateway is a client, and its nodes get no seat.
            let nodes: Vec<(NodeId, String)> = nodes.into_iter().map(|Applicant { node, password }| (node, password)).collect();
            users.admit(&nodes, seat).await.map_err(refused)?;
            Ok(json!({ "admitted": nodes.len() }))
        }
        Some("revoke") => {
            let Revoke { node } = serde_json::from_slice(&message.payload).map_err(invalid)?;
            let revoked = users.revoke(std::slice::from_ref(&node)).map_err(|error| refused(AdmitError::Failed(error)))?;
            tracing::warn!(%node, revoked, "a node is shut out");
            Ok(json!({ "revoked": revoked }))
        }
        Some(_) | None => Err(ApiError::new(ErrorCode::RequestInvalid, "expected admit or revoke")),
    }
}

fn refused(error: AdmitError) -> ApiError {
    match error {
        AdmitError::Taken { .. } => {
            ApiError::new(ErrorCode::StateConflict, error.to_string()).hint("give this one an id of its own: --node-prefix P")
        }
        AdmitError::Revoked { .. } => {
            ApiError::new(ErrorCode::PolicyDenied, error.to_string()).hint("join with another id: --node-prefix P")
        }
        AdmitError::Failed(source) => {
            tracing::error!(error = %source, "a node's user could not be changed");
            ApiError::new(ErrorCode::ClusterUnreachable, "the NATS server does not take the new users").hint("try again")
        }
    }
}
