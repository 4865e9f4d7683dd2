//! The environment of a `run`: clean, declared, and the same on every machine.

use std::collections::BTreeMap;
use std::path::Path;

use amphi_ports::JobOrder;
use amphi_protocol::document::{Reference, Script};

use super::folders::Folders;
use super::values::{fill_text, no_value};

/// Why an environment cannot be made; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// A reference has no value on this node.
    #[error("{}", no_value(.0))]
    NoValue(Reference),
    /// No process could have this variable.
    #[error("the variable `{0}` cannot be set: a name is letters, digits and `_`, and a value holds no NUL byte")]
    Variable(String),
}

/// What a node gives to all its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basics {
    /// `PATH`.
    pub path: String,
    /// `HOME`.
    pub home: String,
    /// `LANG`.
    pub lang: String,
}

/// All variables of an attempt. `values` holds the job's values and the secrets, by reference text.
///
/// The later wins where names collide: basics, declared, variables of the script, `AMPHI_*`.
pub fn environment(
    basics: &Basics,
    order: &JobOrder,
    script: &Script,
    folders: &Folders,
    values: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), basics.path.clone()),
        ("HOME".to_owned(), basics.home.clone()),
        ("LANG".to_owned(), basics.lang.clone()),
        ("TMPDIR".to_owned(), path(&folders.temporary())),
    ]);
    for (name, text) in &order.job.env {
        variables.insert(name.clone(), fill_text(text, values).map_err(EnvironmentError::NoValue)?);
    }
    for (name, reference) in &script.variables {
        let value = values.get(&reference.to_string()).ok_or_else(|| EnvironmentError::NoValue(reference.clone()))?;
        variables.insert(name.clone(), value.clone());
    }
    let attempt = &order.attempt;
    for (name, value) in [
        ("AMPHI_EPIC", attempt.epic.to_string()),
        ("AMPHI_TASK", order.task.clone()),
        ("AMPHI_RUN", attempt.run.to_string()),
        ("AMPHI_ATTEMPT", attempt.attempt.to_string()),
        ("AMPHI_IDEMPOTENCY_KEY", order.job.idempotency_key.clone()),
        ("AMPHI_FENCING_TOKEN", order.token.to_string()),
        ("AMPHI_OUTPUT", path(&folders.output())),
        ("AMPHI_ARTIFACTS", path(&folders.artifacts())),
        ("AMPHI_INPUTS", path(&folders.inputs())),
        ("AMPHI_PROGRESS", path(&folders.progress())),
    ] {
        variables.insert(name.to_owned(), value);
    }
    match variables.iter().find(|(name, value)| !is_name(name) || value.contains('\0')) {
        Some((name, _)) => Err(EnvironmentError::Variable(name.chars().take(64).collect())),
        None => Ok(variables.into_iter().collect()),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
