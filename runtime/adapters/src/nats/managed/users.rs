//! Who may log in to the running server: nodes are let in and shut out while it runs, by a new configuration and a reload.
//!
//! A user that is gone from the configuration is disconnected by the server at once. Never hands out a user that exists already: what
//! a node logs in with is known to the node alone, and to this data folder.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphi_protocol::ids::NodeId;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::accounts::edge_user;
use super::files::{Folder, Identity, KnownNode};
use super::keeper::Handle;
use super::{Durability, ManagedError, file_error};

/// How long the server may take until a new user can log in.
const RELOAD_WITHIN: Duration = Duration::from_secs(5);
const RELOAD_POLL: Duration = Duration::from_millis(50);

/// Shortest password that a node may bring.
const PASSWORD_BYTES_MIN: usize = 32;

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Another machine has that id.
    #[error("there is a node {node} already, which logs in otherwise")]
    Taken {
        /// The id.
        node: NodeId,
    },
    /// It was let in once, and shut out since.
    #[error("the node {node} was shut out")]
    Revoked {
        /// The id.
        node: NodeId,
    },
    /// The server has no new configuration.
    #[error(transparent)]
    Failed(#[from] ManagedError),
}

/// What a node logs in with. Secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeUrls {
    /// The node.
    pub node: NodeId,
    /// User and password among the nodes.
    pub core: (String, String),
    /// User and password on the clients' side.
    pub edge: (String, String),
}

impl std::fmt::Debug for NodeUrls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeUrls").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The users of a managed server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Users {
    pub(super) folder: Arc<Folder>,
    pub(super) identity: Arc<Mutex<Identity>>,
    pub(super) handle: Handle,
    pub(super) durability: Durability,
}

impl Users {
    pub(super) fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a known node logs in with.
    pub fn of(&self, node: &NodeId) -> Option<NodeUrls> {
        let identity = self.identity();
        let known = identity.nodes.get(node.as_str())?;
        let core = (node.to_string(), known.password.clone());
        Some(NodeUrls { node: node.clone(), core, edge: (edge_user(node), known.password.clone()) })
    }

    /// Makes a user for each of these nodes, with the password that it brings, and returns when they can log in. Nodes without a `seat`
    /// may neither write journals nor command others. A node that is known is let in again with the same password only.
    ///
    /// # Errors
    /// An id is somebody else's, or was shut out; nobody is let in then. Or the server does not take the new configuration.
    pub async fn admit(&self, nodes: &[(NodeId, String)], seat: bool) -> Result<(), AdmitError> {
        let changed = {
            let mut identity = self.identity();
            let mut next = identity.clone();
            for (node, password) in nodes {
                if next.revoked.contains(node.as_str()) {
                    return Err(AdmitError::Revoked { node: node.clone() });
                }
                let usable = password.len() >= PASSWORD_BYTES_MIN && password.bytes().all(|byte| byte.is_ascii_alphanumeric());
                let known = next.nodes.get(node.as_str()).is_none_or(|known| known.password == *password);
                if !usable || !known {
                    return Err(AdmitError::Taken { node: node.clone() });
                }
                next.nodes.insert(node.to_string(), KnownNode { password: password.clone(), seat });
            }
            let changed = next != *identity;
            if changed {
                self.put_in_effect(&next)?;
                *identity = next;
            }
            changed
        };
        if let Some((node, password)) = nodes.last().filter(|_| changed) {
            self.wait_for_login(node.as_str(), password).await?;
        }
        Ok(())
    }

    /// Takes these nodes' users away; the server ends their connections. True if there were any.
    ///
    /// # Errors
    /// The configuration could not be written.
    pub fn revoke(&self, nodes: &[NodeId]) -> Result<bool, ManagedError> {
        let mut identity = self.identity();
        let mut next = identity.clone();
        for node in nodes {
            if next.nodes.remove(node.as_str()).is_some() {
                next.revoked.insert(node.to_string());
            }
        }
        if next == *identity {
            return Ok(false);
        }
        self.put_in_effect(&next)?;
        *identity = next;
        Ok(true)
    }

    fn put_in_effect(&self, identity: &Identity) -> Result<(), ManagedError> {
        self.folder.keep(identity)?;
        self.folder.write_config(identity, self.durability)?;
        self.handle.signal(Signal::SIGHUP);
        Ok(())
    }

    async fn wait_for_login(&self, user: &str, password: &str) -> Result<(), ManagedError> {
        let url = self.identity().url_of(user, password);
        let began = Instant::now();
        loop {
            match super::super::connect(&url, "amphi-up").await {
                Ok(_connected) => return Ok(()),
                Err(error) if began.elapsed() > RELOAD_WITHIN => {
                    return Err(file_error("letting a node in at the NATS server", std::io::Error::other(error)));
                }
                Err(_) => tokio::time::sleep(RELOAD_POLL).await,
            }
        }
    }
}
