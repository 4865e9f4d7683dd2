//! Tells whether the server is ready and stays healthy.
//!
//! A server that does not answer for half a minute is killed, and so started again: after a full disk its streams stay frozen until
//! a restart, and a stopped process would hold everything up for ever. Never kills on a single bad answer.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::files::{Folder, Identity};
use super::keeper::Handle;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two probes of a running server.
const INTERVAL: Duration = Duration::from_secs(2);
/// Failed probes in a row after which it is killed.
const FAILURES_MAX: u32 = 15;
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// What the server logs when its disk is full (in lower case).
const DISK_FULL: &str = "no space left on device";
/// Free space from which a restart after a full disk makes sense.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// The part of the server's greeting that matters.
#[derive(Deserialize)]
struct Greeting {
    server_name: String,
    #[serde(default)]
    jetstream: bool,
}

/// `Ok` if our server takes connections, has JetStream on and calls itself healthy; otherwise what was seen.
pub(super) async fn probe(identity: &Identity) -> Result<(), String> {
    let probed = tokio::time::timeout(PROBE_TIMEOUT, async {
        let greeting = greeting(identity.port).await?;
        if greeting.server_name != identity.server_name {
            return Err("another server answers on its port".to_owned());
        }
        if !greeting.jetstream {
            return Err("JetStream is not enabled".to_owned());
        }
        healthz(identity.monitor_port).await
    })
    .await;
    probed.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn greeting(port: u16) -> Result<Greeting, String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line).await.map_err(|e| e.to_string())?;
    let body = line.strip_prefix("INFO ").ok_or("no NATS server answers on its port")?;
    serde_json::from_str(body).map_err(|e| e.to_string())
}

async fn healthz(port: u16) -> Result<(), String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
    let request = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or("nothing");
    if status == "200" { Ok(()) } else { Err(format!("its health check answers {status}")) }
}

/// Watches a running server until the task is aborted.
pub(super) async fn watch(handle: Handle, identity: Identity, folder: Arc<Folder>) {
    let mut failures = 0;
    let mut log = LogWatch::default();
    log.skip_to_end(&folder.log());
    loop {
        tokio::time::sleep(INTERVAL).await;
        failures = match probe(&identity).await {
            Ok(()) => 0,
            Err(why) => {
                tracing::debug!(why, failures, "nats-server is not healthy");
                failures + 1
            }
        };
        if log.disk_was_full(&folder.log()) {
            // Killing it now would only make it fail to start.
            failures = 0;
            if free_bytes(&folder.log()) >= FREE_BYTES_MIN {
                tracing::warn!("the disk of nats-server was full and has space again; restarting it, because its streams stay frozen");
                log.disk_full = false;
                handle.signal(Signal::SIGTERM);
            }
        }
        if failures >= FAILURES_MAX {
            tracing::error!("nats-server has not answered for long; killing it, so that it starts again");
            handle.signal(Signal::SIGKILL);
            failures = 0;
        }
    }
}

/// Reads what is added to the log.
#[derive(Default)]
struct LogWatch {
    position: u64,
    disk_full: bool,
}

impl LogWatch {
    fn skip_to_end(&mut self, log: &Path) {
        self.position = std::fs::metadata(log).map_or(0, |m| m.len());
    }

    /// True from the first mention of a full disk until the flag is taken back.
    fn disk_was_full(&mut self, log: &Path) -> bool {
        let mut added = Vec::new();
        let read = std::fs::File::open(log).and_then(|mut file| {
            // A turned-over log begins anew.
            if file.metadata()?.len() < self.position {
                self.position = 0;
            }
            file.seek(SeekFrom::Start(self.position))?;
            file.take(ANSWER_BYTES_MAX).read_to_end(&mut added)
        });
        self.position += read.unwrap_or(0) as u64;
        if !self.disk_full && String::from_utf8_lossy(&added).to_lowercase().contains(DISK_FULL) {
            tracing::error!("the disk of nats-server is full: nothing new is accepted until there is space");
            self.disk_full = true;
        }
        self.disk_full
    }
}

fn free_bytes(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |s| s.blocks_available().saturating_mul(s.fragment_size()))
}
