//! What is written down about a worktree, so that a later life of the node, and a person, knows what it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use amphi_ports::JobOrder;
use serde::{Deserialize, Serialize};

use crate::nats::remembered::write_durably;

/// Whose worktree it is, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The epic.
    pub epic: String,
    /// `t` or `t[i]`.
    pub task: String,
    /// The run.
    pub run: u32,
    /// Where the repository is.
    pub url: String,
    /// Its repository on this node.
    pub repository: PathBuf,
    /// The branch that was made for the run.
    pub branch: String,
    /// Where the branch began.
    pub commit: String,
}

impl About {
    /// Writes it, all or nothing.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_durably(path, &serde_json::to_vec_pretty(self).expect("it holds texts and a path that was made from one"))
    }

    /// Reads it; `None` if there is none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(Into::into),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The name of a run in folders and branches: letters, digits, `_` and `-`. A run of a matrix ends with its number in the epic, because
/// two of them may look alike without their brackets.
pub(super) fn run_name(order: &JobOrder) -> String {
    let plain = |text: &str| text.chars().take(64).map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect::<String>();
    match order.task.strip_suffix(']').and_then(|task| task.split_once('[')) {
        Some((task, values)) => format!("{}-{}-{}", plain(task), plain(values), order.attempt.i),
        None => plain(&order.task),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphi_protocol::document::{Work, Workspace};
    use amphi_protocol::ids::{AttemptRef, EpicId, RoleName, Token};
    use amphi_protocol::node::Job;
    use std::sync::Arc;

    #[test]
    fn a_run_has_a_name_that_git_takes_and_no_other_run_has() {
        let job = Arc::new(Job {
            effects: std::collections::BTreeMap::new(),
            work: Work::Tool { tool: "noop".to_owned(), with: serde_json::Value::Null },
            workspace: Workspace::None,
            workdir: None,
            env: Default::default(),
            values: Default::default(),
            outputs: Default::default(),
            idempotency_key: String::new(),
            inputs: Default::default(),
            reference: None,
        });
        let name = |task: &str, i: u32| {
            let attempt = AttemptRef { epic: EpicId::parse("e-1").unwrap(), i, run: 1, attempt: 1 };
            run_name(&JobOrder {
                attempt,
                task: task.to_owned(),
                token: Token(1),
                job: job.clone(),
                hurry: Default::default(),
                role: RoleName::parse("BuildMaster").unwrap(),
            })
        };
        assert_eq!(name("build_all", 0), "build_all");
        assert_eq!(name("t[a:b,..c]", 4), "t-a-b---c-4");
        assert_ne!(name("t[a,b-c]", 4), name("t[a-b,c]", 5));
    }
}
