//! Laws of the NATS adapters, each tried on a real nats-server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::managed::{DataLock, Durability, ManagedOptions, ManagedServer, ServerState};

mod journal;
mod managed;
mod remembered;
mod streams;

/// Generous: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server of its own for a test, gone with it.
struct Fixture {
    server: ManagedServer,
    lock: DataLock,
    folder: TempDir,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with(Durability::Process).await
    }

    async fn start_with(durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lock = DataLock::acquire(folder.path()).unwrap();
        let options = ManagedOptions { durability, ..options(folder.path()) };
        let server = ManagedServer::start(options, &lock).await.unwrap();
        Self { server, lock, folder }
    }

    async fn client(&self) -> Client {
        super::connect(&self.server.core_url(), "test").await.unwrap()
    }

    /// kill -9, and wait until another process runs.
    async fn kill_server(&self) {
        let before = self.server.pid();
        if let Some(pid) = before {
            kill_9(pid);
        }
        let mut states = self.server.states();
        let again = states.wait_for(|s| matches!(s, ServerState::Running { pid } if Some(*pid) != before));
        tokio::time::timeout(DEADLINE, again).await.expect("the server starts again in time").expect("it is watched");
    }
}

fn options(data: &Path) -> ManagedOptions {
    ManagedOptions { data: data.to_owned(), tools: Some(tools()), durability: Durability::Process, nodes: Vec::new() }
}

/// The tool folder of this repository.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")
}

fn kill_9(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// Tries again until it works, within the deadline.
async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "still failing at the deadline: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
