//! The ready object: what a client needs to reach the cluster, on standard output, in `--ready-file` and in `<data>/ready.json`.
//!
//! It holds credentials: files are private, and go from one full content to the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use amphi_adapters::nats::remembered::write_durably;
use amphi_protocol::ids::NodeId;
use serde_json::json;

/// Name of the file in the data folder.
const FILE: &str = "ready.json";

/// What is known of the cluster.
#[derive(Debug)]
pub(super) struct Ready {
    managed: bool,
    url: String,
    pub(super) nats_pid: Option<u32>,
    http: Option<String>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    pid: Option<u32>,
    was_ready: bool,
}

impl Ready {
    pub(super) fn new(managed: bool, url: String, nodes: impl Iterator<Item = NodeId>) -> Self {
        let nodes = nodes.map(|id| Node { id, pid: None, was_ready: false }).collect();
        Self { managed, url, nats_pid: None, http: None, nodes }
    }

    pub(super) fn set_pid(&mut self, node: &NodeId, pid: u32) {
        if let Some(node) = self.nodes.iter_mut().find(|n| n.id == *node) {
            node.pid = Some(pid);
        }
    }

    pub(super) fn set_ready(&mut self, node: &NodeId, http: Option<String>) {
        self.http = http.or(self.http.take());
        if let Some(node) = self.nodes.iter_mut().find(|n| n.id == *node) {
            node.was_ready = true;
        }
    }

    /// True if every node has said that it is ready.
    pub(super) fn is_complete(&self) -> bool {
        let server = !self.managed || self.nats_pid.is_some();
        server && self.nodes.iter().all(|node| node.was_ready && node.pid.is_some())
    }

    /// The object of `interface.md` section 3, in one line.
    pub(super) fn to_json(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| json!({ "id": node.id, "pid": node.pid })).collect();
        // Members in the order of the document, for those who read it with their eyes.
        let (nats, http, nats_pid) = (json!(self.url), json!(self.http), json!(self.nats_pid));
        format!(r#"{{"nats":{nats},"http":{http},"nats_pid":{nats_pid},"nodes":{}}}"#, json!(nodes))
    }
}

/// Where the ready object is kept.
#[derive(Debug)]
pub(super) struct ReadyFiles {
    in_data: PathBuf,
    asked_for: Option<PathBuf>,
}

impl ReadyFiles {
    pub(super) fn new(data: &Path, asked_for: Option<PathBuf>) -> Self {
        Self { in_data: data.join(FILE), asked_for }
    }

    /// Before the start, so that nobody takes an old file for the new cluster.
    pub(super) fn remove_stale(&self) {
        self.remove();
        if let Some(path) = &self.asked_for {
            remove(path);
        }
    }

    /// After the end. The file that was asked for stays, for whoever asked.
    pub(super) fn remove(&self) {
        remove(&self.in_data);
    }

    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        write_durably(&self.in_data, text.as_bytes())?;
        self.asked_for.as_ref().map_or(Ok(()), |path| write_durably(path, text.as_bytes()))
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => super::say(&format!("could not remove {}: {error}", path.display())),
        _ => {}
    }
}
