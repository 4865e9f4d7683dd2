//! Copies of whole streams as files, byte by byte as the server keeps them: with sequences, times, headers and consumers. The server's own
//! snapshot and restore requests, which the client library does not have. Whoever calls says which streams belong together.

use std::io;
use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Bytes of a piece.
const PIECE_BYTES: usize = 128 * 1024;
/// How long the server may be silent between two pieces.
const SILENCE: Duration = Duration::from_secs(30);

/// A copy of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamCopy {
    /// The stream.
    pub stream: String,
    /// Its file, beside the others.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Of the file, in hex.
    pub sha256: String,
    /// The stream's configuration, as the server gave it.
    pub config: Value,
    /// What the server says it holds.
    pub state: Value,
}

/// Why a stream was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file could not be written or read.
    #[error("the copy {file} of a stream cannot be written or read")]
    File {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file.
        file: String,
        /// How that shows.
        what: String,
    },
    /// The server does not do it.
    #[error("the NATS server does not copy the stream {stream}: {why}")]
    Refused {
        /// The stream.
        stream: String,
        /// What it says.
        why: String,
    },
}

impl StreamCopy {
    /// Copies a stream as it is now into `folder`; the file is synced.
    ///
    /// # Errors
    /// The server refuses or falls silent, or the file cannot be written.
    pub async fn take(client: &Client, stream: &str, folder: &Path, with_consumers: bool) -> Result<Self, CopyError> {
        let refused = |why: String| CopyError::Refused { stream: stream.to_owned(), why };
        let file = format!("{stream}.copy");
        let failed = |source| CopyError::File { file: file.clone(), source };
        let inbox = client.new_inbox();
        let mut pieces = client.subscribe(inbox.clone()).await.map_err(|e| refused(e.to_string()))?;
        let body = json!({ "deliver_subject": inbox, "no_consumers": !with_consumers, "chunk_size": PIECE_BYTES });
        let answer = ask(client, format!("$JS.API.STREAM.SNAPSHOT.{stream}"), body.to_string().into()).await.map_err(&refused)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| refused(e.to_string()))?;
        if let Some(why) = answer["error"]["description"].as_str() {
            return Err(refused(why.to_owned()));
        }
        let mut out = File::create(folder.join(&file)).await.map_err(failed)?;
        let (mut bytes, mut hasher) = (0u64, Sha256::new());
        loop {
            let piece = timeout(SILENCE, pieces.next()).await.map_err(|_| refused("it fell silent".to_owned()))?;
            let piece = piece.ok_or_else(|| refused("the connection was lost".to_owned()))?;
            if piece.payload.is_empty() {
                match piece.status.map(|status| status.as_u16()) {
                    None | Some(200..=299) => break,
                    Some(code) => return Err(refused(format!("it broke off ({code})"))),
                }
            }
            hasher.update(&piece.payload);
            bytes += piece.payload.len() as u64;
            out.write_all(&piece.payload).await.map_err(failed)?;
            if let Some(reply) = piece.reply {
                // Without it no more pieces come.
                client.publish(reply, Bytes::new()).await.map_err(|e| refused(e.to_string()))?;
            }
        }
        out.sync_all().await.map_err(failed)?;
        let sha256 = hex::encode(hasher.finalize());
        Ok(Self { stream: stream.to_owned(), file, bytes, sha256, config: answer["config"].clone(), state: answer["state"].clone() })
    }

    /// Compares the file in `folder` with what was written.
    ///
    /// # Errors
    /// It is missing, shorter, longer, or has other bytes.
    pub async fn check(&self, folder: &Path) -> Result<(), CopyError> {
        let mut file = File::open(folder.join(&self.file)).await.map_err(|source| CopyError::File { file: self.file.clone(), source })?;
        let (mut bytes, mut hasher, mut buffer) = (0u64, Sha256::new(), vec![0; PIECE_BYTES]);
        loop {
            let count = file.read(&mut buffer).await.map_err(|source| CopyError::File { file: self.file.clone(), source })?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            hasher.update(&buffer[..count]);
        }
        let damaged = |what: String| CopyError::Damaged { file: self.file.clone(), what };
        if bytes != self.bytes {
            return Err(damaged(format!("it has {bytes} bytes, and {} were written", self.bytes)));
        }
        let found = hex::encode(hasher.finalize());
        if found == self.sha256 { Ok(()) } else { Err(damaged(format!("its SHA-256 is {found}, and was {}", self.sha256))) }
    }

    /// Makes the stream anew from its file in `folder`; there must be none of that name.
    ///
    /// # Errors
    /// The server refuses what is in the file, or has such a stream.
    pub async fn put_back(&self, client: &Client, folder: &Path) -> Result<(), CopyError> {
        let refused = |why: String| CopyError::Refused { stream: self.stream.clone(), why };
        let body = json!({ "config": self.config, "state": self.state }).to_string();
        let answer = ask(client, format!("$JS.API.STREAM.RESTORE.{}", self.stream), body.into()).await.map_err(&refused)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| refused(e.to_string()))?;
        let subject = match (answer["deliver_subject"].as_str(), answer["error"]["description"].as_str()) {
            (Some(subject), None) => subject.to_owned(),
            (_, why) => return Err(refused(why.unwrap_or("it says nothing").to_owned())),
        };
        let failed = |source| CopyError::File { file: self.file.clone(), source };
        let mut file = File::open(folder.join(&self.file)).await.map_err(failed)?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let count = file.read(&mut buffer).await.map_err(failed)?;
            let answer = ask(client, subject.clone(), Bytes::copy_from_slice(&buffer[..count])).await.map_err(&refused)?;
            let answer: Value = if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer).unwrap_or_default() };
            if let Some(why) = answer["error"]["description"].as_str() {
                return Err(refused(why.to_owned()));
            }
            // The empty piece is the last; its answer says that the stream is there.
            if count == 0 {
                return Ok(());
            }
        }
    }
}

/// The names of all streams of an account.
///
/// # Errors
/// The server does not answer, in words.
pub async fn stream_names(client: &Client) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    loop {
        let answer = ask(client, "$JS.API.STREAM.NAMES".to_owned(), json!({ "offset": names.len() }).to_string().into()).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        if let Some(why) = answer["error"]["description"].as_str() {
            return Err(why.to_owned());
        }
        let page: Vec<String> =
            answer["streams"].as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        let total = answer["total"].as_u64().unwrap_or_default();
        let is_last = page.is_empty();
        names.extend(page);
        if is_last || names.len() as u64 >= total {
            return Ok(names);
        }
    }
}

async fn ask(client: &Client, subject: String, body: Bytes) -> Result<Bytes, String> {
    let request = async_nats::Request::new().payload(body).timeout(Some(SILENCE));
    client.send_request(subject, request).await.map(|answer| answer.payload).map_err(|error| error.to_string())
}
