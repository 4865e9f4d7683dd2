//! Secrets: named in the team file, read on the node, never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::layers::Environment;
use crate::team::TeamConfig;

/// Largest secret, in bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Where a node finds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable of the node.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A file on the node; one line break at its end is not part of the secret.
    File {
        /// Its path; a relative one starts at the folder of the team file.
        path: PathBuf,
    },
}

/// A text that shows as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the process that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The secrets of a node, by the names that epics use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// One secret.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    /// All as plain texts, for an engine that puts them into an environment.
    pub fn expose_all(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, secret)| (name.clone(), secret.0.clone())).collect()
    }
}

/// Why a secret is not there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or empty.
    #[error("secret `{name}`: environment variable {variable} is not set")]
    NotSet {
        /// The secret.
        name: String,
        /// The variable.
        variable: String,
    },
    /// The file cannot be read.
    #[error("secret `{name}`: cannot read {path}")]
    Unreadable {
        /// The secret.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no text of a permitted size.
    #[error("secret `{name}`: {path} is empty, no UTF-8, or larger than 64 KiB")]
    NotText {
        /// The secret.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

/// Reads all secrets of the team file; all failures at once.
pub fn resolve_secrets(team: &TeamConfig, environment: &Environment) -> Result<Secrets, Vec<SecretError>> {
    let mut secrets = BTreeMap::new();
    let mut errors = Vec::new();
    for (name, source) in &team.secrets {
        match resolve(name, source, environment) {
            Ok(secret) => {
                secrets.insert(name.clone(), secret);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(Secrets(secrets)) } else { Err(errors) }
}

fn resolve(name: &str, source: &SecretSource, environment: &Environment) -> Result<Secret, SecretError> {
    match source {
        SecretSource::Environment { variable } => match environment.get(variable) {
            Some(value) => Ok(Secret::new(value)),
            None => Err(SecretError::NotSet { name: name.to_owned(), variable: variable.clone() }),
        },
        SecretSource::File { path } => {
            let bytes =
                read_bounded(path).map_err(|source| SecretError::Unreadable { name: name.to_owned(), path: path.clone(), source })?;
            let not_text = || SecretError::NotText { name: name.to_owned(), path: path.clone() };
            if bytes.len() > SECRET_BYTES_MAX {
                return Err(not_text());
            }
            let text = String::from_utf8(bytes).map_err(|_| not_text())?;
            let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
            if text.is_empty() { Err(not_text()) } else { Ok(Secret::new(text)) }
        }
    }
}

fn read_bounded(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
