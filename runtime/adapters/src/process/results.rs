//! What a task leaves: its outputs file and its artifacts. Read only when the tree is dead, so nothing changes underneath.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amphi_ports::ObjectStore;
use amphi_protocol::journal::Artifact;
use bytes::Bytes;
use nix::libc;
use sha2::{Digest, Sha256};

/// Most bytes of an outputs file.
pub const OUTPUTS_BYTES_MAX: u64 = 1024 * 1024;
/// Most files that an attempt may leave.
pub const ARTIFACTS_MAX: usize = 1000;
/// Most bytes that an attempt may leave.
pub const ARTIFACT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Pause before what could not be stored is stored again.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How long one try may take.
const STORE_TIME_MAX: Duration = Duration::from_secs(30);

/// Why results were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The task left something that no task may leave; the text is for people.
    #[error("{0}")]
    Refused(String),
    /// The node could not read or store it.
    #[error("{what}")]
    Node {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn refused<T>(text: impl Into<String>) -> Result<T, ResultError> {
    Err(ResultError::Refused(text.into()))
}

/// Reads `key=value` lines; of a key that comes twice the last counts. Blocks.
pub fn read_outputs(path: &Path, longest: usize) -> Result<BTreeMap<String, String>, ResultError> {
    let file = match open_regular(path) {
        Ok(Some(file)) => file,
        Ok(None) => return refused("$AMPHI_OUTPUT is no longer a regular file"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(ResultError::Node { what: "$AMPHI_OUTPUT cannot be read".to_owned(), source: error.into() }),
    };
    let mut bytes = Vec::new();
    file.take(OUTPUTS_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ResultError::Node { what: "$AMPHI_OUTPUT cannot be read".to_owned(), source: error.into() })?;
    if bytes.len() as u64 > OUTPUTS_BYTES_MAX {
        return refused("$AMPHI_OUTPUT is larger than 1 MiB");
    }
    let Ok(text) = String::from_utf8(bytes) else { return refused("$AMPHI_OUTPUT is not UTF-8 text") };
    let mut outputs = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let Some((key, value)) = line.split_once('=').filter(|(key, _)| is_key(key)) else {
            return refused(format!("line {number} of $AMPHI_OUTPUT is no `key=value` with a key of letters, digits and `_`"));
        };
        if value.len() > longest {
            return refused(format!("the output `{key}` has {} bytes; `limits.output_value` allows {longest}", value.len()));
        }
        outputs.insert(key.to_owned(), value.to_owned());
    }
    Ok(outputs)
}

fn is_key(key: &str) -> bool {
    let head = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    head && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Opens what a task wrote without following links and without waiting for the other end of a pipe. `None`: not a regular file.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) || error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stores all regular files under `folder`; links and everything else are passed over. While the store is away it tries again: what was
/// done is not lost for an outage. The caller bounds the time.
pub async fn keep_artifacts(folder: PathBuf, objects: &dyn ObjectStore) -> Result<Vec<Artifact>, ResultError> {
    let root = folder.clone();
    let files = blocking("the artifacts cannot be listed", move || list_files(&root)).await??;
    let mut artifacts = Vec::with_capacity(files.len());
    for path in files {
        let full = folder.join(&path);
        let Some(bytes) = blocking("an artifact cannot be read", move || read_artifact(&full)).await?? else { continue };
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let size = bytes.len() as u64;
        store(objects, &sha256, bytes).await?;
        artifacts.push(Artifact { path, size, sha256 });
    }
    Ok(artifacts)
}

async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ResultError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ResultError::Node { what: what.to_owned(), source: error.into() })
}

async fn store(objects: &dyn ObjectStore, name: &str, bytes: Bytes) -> Result<(), ResultError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| ResultError::Node { what: "an artifact cannot be stored".to_owned(), source };
    loop {
        match tokio::time::timeout(STORE_TIME_MAX, objects.put(name, bytes.clone())).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.damaged => return Err(failed(error.into())),
            Ok(Err(error)) => tracing::debug!(%error, "an artifact is stored later"),
            Err(_) => tracing::debug!("an artifact is stored later: no answer"),
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}

fn read_artifact(path: &Path) -> Result<Option<Bytes>, ResultError> {
    let failed =
        |error: io::Error| ResultError::Node { what: format!("the artifact {} cannot be read", path.display()), source: error.into() };
    let Some(file) = open_regular(path).map_err(failed)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(ARTIFACT_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes.into()))
}

/// Relative paths of all regular files, sorted; refused beyond the limits.
fn list_files(root: &Path) -> Result<Vec<String>, ResultError> {
    let failed = |error: io::Error| ResultError::Node { what: "the artifacts cannot be listed".to_owned(), source: error.into() };
    let mut open = vec![root.to_owned()];
    let (mut files, mut bytes, mut entries) = (Vec::new(), 0u64, 0usize);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            entries += 1;
            if entries > 10 * ARTIFACTS_MAX {
                return refused(format!("$AMPHI_ARTIFACTS holds more than {} entries", 10 * ARTIFACTS_MAX));
            }
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                bytes += entry.metadata().map_err(failed)?.len();
                let path = entry.path();
                let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else {
                    return refused("the name of an artifact is not UTF-8");
                };
                files.push(name.to_owned());
            }
            if files.len() > ARTIFACTS_MAX {
                return refused(format!("$AMPHI_ARTIFACTS holds more than {ARTIFACTS_MAX} files"));
            }
            if bytes > ARTIFACT_BYTES_MAX {
                return refused("$AMPHI_ARTIFACTS holds more than 256 MiB");
            }
        }
    }
    files.sort();
    Ok(files)
}
