//! A workspace for tools, and an engine whose programs run under the test node's guard.

use std::collections::BTreeMap;
use std::path::PathBuf;

use amphi_adapters::process::{GuardCommand, ProcessConfig};
use amphi_adapters::tools::ToolEngine;
use amphi_ports::Engine;
use amphi_protocol::document::{Work, Workspace};
use amphi_protocol::journal::AttemptEnd;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Running, job, order};

pub struct ToolBench {
    folder: tempfile::TempDir,
}

impl ToolBench {
    pub fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(bench.workspace()).unwrap();
        bench
    }

    pub fn workspace(&self) -> PathBuf {
        self.folder.path().join("above/workspace")
    }

    /// A folder outside of the workspace, made if it is not there.
    pub fn outside(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join("outside").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Writes a file in the workspace.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.workspace().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.workspace().join(path)).unwrap()
    }

    /// Names in a folder of the workspace, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.workspace().join(path)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub async fn run(&self, tool: &str, with: Value) -> AttemptEnd {
        self.start(tool, with).end().await
    }

    pub fn start(&self, tool: &str, with: Value) -> Running {
        self.start_with_path(tool, with, "/usr/local/bin:/usr/bin:/bin")
    }

    /// Runs it with this `PATH`.
    pub fn start_with_path(&self, tool: &str, with: Value, path: &str) -> Running {
        let data = self.folder.path().join("data");
        let mut basics = ProcessConfig::new(data.clone(), self.outside("home").display().to_string()).basics;
        path.clone_into(&mut basics.path);
        let guard = GuardCommand { program: env!("CARGO_BIN_EXE_amphi-test-node").into(), arguments: vec!["guard".into()] };
        let engine = ToolEngine::new(data, &BTreeMap::new()).with_programs(basics, guard);
        let mut task = job(Work::Tool { tool: tool.to_owned(), with });
        task.workspace = Workspace::Path(self.workspace().to_str().unwrap().to_owned());
        let (news, heard) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let end = tokio::spawn(engine.run(order(0, task), news, cancel.clone()));
        Running { end, heard, cancel }
    }
}
