//! What a task gets from those that it needs: their artifacts, each under `$AMPHI_INPUTS/<instance>/`, before anything of it runs.
//!
//! Paths come from other nodes, so none is followed out of the folder.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use amphi_ports::{ObjectStore, StoreError};
use amphi_protocol::journal::Artifact;
use amphi_protocol::node::INPUTS_MAX;

/// Why a task did not get its inputs.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It never can; the text is for people.
    #[error("{0}")]
    Refused(String),
    /// The store did not give them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They could not be written.
    #[error("the artifacts of what it needs cannot be written")]
    Io(#[from] io::Error),
}

/// Writes all `inputs` below `folder`.
pub async fn bring_inputs(inputs: &BTreeMap<String, Vec<Artifact>>, folder: &Path, objects: &dyn ObjectStore) -> Result<(), InputError> {
    if inputs.values().map(Vec::len).sum::<usize>() > INPUTS_MAX {
        return Err(InputError::Refused(format!("what it needs left more than {INPUTS_MAX} artifacts")));
    }
    for (instance, artifacts) in inputs {
        for artifact in artifacts {
            let refused = |reason: &str| InputError::Refused(format!("the artifact `{}` of {instance} {reason}", artifact.path));
            let path = Path::new(instance).join(&artifact.path);
            if !path.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(refused("has no path that can be used"));
            }
            let bytes = objects.get(&artifact.sha256).await?.ok_or_else(|| refused("is no longer kept"))?;
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
            std::fs::write(path, bytes)?;
        }
    }
    Ok(())
}
