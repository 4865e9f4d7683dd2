//! Names that a data folder keeps: the cluster's id, and the prefix of node ids on a foreign NATS server.
//!
//! Made once and kept, so that a node that comes back is the same node and remembers the same cluster.

use std::fs;
use std::io;
use std::path::Path;

use amphi_adapters::nats::remembered::write_durably;
use amphi_protocol::ids::{InvalidId, NodeId};
use uuid::Uuid;

/// The id of the cluster: of the managed server by its data folder, of a foreign one by its address.
pub(super) fn cluster_id(data: &Path, foreign: Option<&str>) -> io::Result<String> {
    match foreign {
        Some(url) => {
            let address = |part: &str| part.rsplit('@').next().unwrap_or(part).trim_start_matches("nats://").to_owned();
            Ok(format!("nats:{}", url.split(',').map(address).collect::<Vec<_>>().join(",")))
        }
        None => kept(&data.join("cluster-id"), || Uuid::now_v7().simple().to_string()),
    }
}

/// What goes before `node-1`: what was asked for; on a foreign server something random, else nothing.
pub(super) fn node_prefix(data: &Path, asked_for: Option<&str>, foreign: bool) -> io::Result<String> {
    match asked_for {
        Some(prefix) => Ok(prefix.to_owned()),
        None if foreign => {
            let random = || Uuid::now_v7().simple().to_string()[24..].to_owned();
            kept(&data.join("node-prefix"), random)
        }
        None => Ok(String::new()),
    }
}

/// `node-1`, or `<prefix>-node-1`.
pub(super) fn node_id(prefix: &str, number: u32) -> Result<NodeId, InvalidId> {
    match prefix.trim_end_matches('-') {
        "" => NodeId::parse(&format!("node-{number}")),
        prefix => NodeId::parse(&format!("{prefix}-node-{number}")),
    }
}

/// The content of a file; made and written if it is not there.
pub fn kept(path: &Path, make: impl FnOnce() -> String) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is empty", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make();
            write_durably(path, text.as_bytes())?;
            Ok(text)
        }
        Err(error) => Err(error),
    }
}
