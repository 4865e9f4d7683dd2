//! The output of an attempt on its way from two pipes to the log: masked, capped, in chunks.
//!
//! A task is never slowed down by the log: pipes are always read, and what waits for the log is bounded by the cap.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amphi_ports::{OutputChunk, OutputLog, OutputSource};
use amphi_protocol::ids::AttemptRef;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::mask::{Masker, Secrets};

/// Most output bytes of one attempt that are kept.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// What stands at the end of a cut output.
pub const CUT_MARK: &str = "\n[amphi: output cut here, 1 MiB is kept]\n";
const CHUNK_BYTES_MAX: usize = 32 * 1024;
const CHUNK_EVERY: Duration = Duration::from_millis(200);
const TAIL_BYTES_MAX: usize = 2 * 1024;
const LOG_RETRY_FIRST: Duration = Duration::from_millis(100);
const LOG_RETRY_MAX: Duration = Duration::from_secs(2);

/// What both readers of an attempt share.
#[derive(Debug)]
pub struct Collector<'s> {
    secrets: &'s Secrets,
    state: Mutex<Collected>,
    active: AtomicBool,
}

#[derive(Debug)]
struct Collected {
    left: usize,
    is_cut: bool,
    chunks: Option<mpsc::UnboundedSender<OutputChunk>>,
    error_tail: Vec<u8>,
}

impl<'s> Collector<'s> {
    /// A collector that sends chunks to `chunks`; at most [`OUTPUT_BYTES_MAX`] bytes, which bounds the channel.
    pub fn new(secrets: &'s Secrets, chunks: mpsc::UnboundedSender<OutputChunk>) -> Self {
        let state = Collected { left: OUTPUT_BYTES_MAX, is_cut: false, chunks: Some(chunks), error_tail: Vec::new() };
        Self { secrets, state: Mutex::new(state), active: AtomicBool::new(false) }
    }

    /// Reads `pipe` to its end.
    pub async fn read(&self, source: OutputSource, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut masker = Masker::new(self.secrets);
        let mut buffer = vec![0u8; 16 * 1024];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    self.active.store(true, Ordering::Relaxed);
                    let shown = masker.push(&buffer[..count]);
                    self.lock().take(source, &shown);
                }
            }
        }
        let rest = masker.finish();
        self.lock().take(source, &rest);
    }

    /// True if there was output since the last call.
    pub fn was_active(&self) -> bool {
        self.active.swap(false, Ordering::Relaxed)
    }

    /// No more output is taken; the log can end.
    pub fn close(&self) {
        self.lock().chunks = None;
    }

    /// The last of standard error, as text.
    pub fn error_tail(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.lock().error_tail).into_owned();
        text.retain(|c| c == '\n' || c == '\t' || !c.is_control());
        text.trim().to_owned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Collected> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collected {
    fn take(&mut self, source: OutputSource, shown: &[u8]) {
        if source == OutputSource::Err {
            self.error_tail.extend_from_slice(shown);
            let excess = self.error_tail.len().saturating_sub(TAIL_BYTES_MAX);
            self.error_tail.drain(..excess);
        }
        let kept = &shown[..shown.len().min(self.left)];
        self.left -= kept.len();
        if !kept.is_empty() {
            self.send(source, Bytes::copy_from_slice(kept));
        }
        if kept.len() < shown.len() && !self.is_cut {
            self.is_cut = true;
            self.send(source, Bytes::from_static(CUT_MARK.as_bytes()));
        }
    }

    fn send(&self, source: OutputSource, bytes: Bytes) {
        if let Some(chunks) = &self.chunks {
            // Closed only when the job is being dropped.
            let _ = chunks.send(OutputChunk { source, bytes });
        }
    }
}

/// Stores chunks until the channel ends: at most every 200 ms, at most 32 KiB at once, each again until it is stored.
pub async fn write_log(log: Arc<dyn OutputLog>, attempt: AttemptRef, task: String, mut chunks: mpsc::UnboundedReceiver<OutputChunk>) {
    let mut next: Option<OutputChunk> = None;
    let mut not_before = Instant::now();
    loop {
        let Some(first) = (match next.take() {
            Some(chunk) => Some(chunk),
            None => chunks.recv().await,
        }) else {
            return;
        };
        let source = first.source;
        let mut bytes = BytesMut::from(&first.bytes[..]);
        while bytes.len() < CHUNK_BYTES_MAX && next.is_none() {
            tokio::select! {
                biased;
                more = chunks.recv() => match more {
                    Some(chunk) if chunk.source == source && bytes.len() + chunk.bytes.len() <= CHUNK_BYTES_MAX => bytes.extend_from_slice(&chunk.bytes),
                    Some(chunk) => next = Some(chunk),
                    None => break,
                },
                () = sleep_until(not_before) => break,
            }
        }
        store(&*log, &attempt, &task, OutputChunk { source, bytes: bytes.freeze() }).await;
        not_before = Instant::now() + CHUNK_EVERY;
    }
}

async fn store(log: &dyn OutputLog, attempt: &AttemptRef, task: &str, chunk: OutputChunk) {
    let mut pause = LOG_RETRY_FIRST;
    loop {
        match log.append(attempt, task, chunk.clone()).await {
            Ok(()) => return,
            Err(error) if error.damaged => {
                tracing::warn!(%attempt, task, error = %error, "output is lost");
                return;
            }
            Err(error) => {
                tracing::debug!(%attempt, task, error = %error, "output is stored later");
                sleep(pause).await;
                pause = (pause * 2).min(LOG_RETRY_MAX);
            }
        }
    }
}
