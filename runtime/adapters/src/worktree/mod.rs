//! Workspaces of kind `git`: a worktree per run, made before its first attempt on a node and removed once it holds nothing of its own.
//!
//! The promise: a worktree with work that is nowhere else (files that are not committed, commits that the origin does not have) is
//! never removed by anybody but a person. When in doubt it stays, and its path stands in the task's output.
//! All runs of an epic begin at the same commit, on all nodes: who resolves the epic's `ref` first, decides. Attempts of a run share
//! the worktree where they run on the same node, one after the other; on another node the run begins again at that commit.
//!
//! Start at [`GitWorkspaces`]; `store` knows the places, `mirror` the repositories, `look` judges what may go.

mod about;
mod engine;
mod look;
mod mirror;
mod places;
mod store;

pub use engine::GitWorkspaces;
pub use store::{WORKTREES_MAX, WorktreeConfig};

/// What an engine says that is given a `git` workspace: only [`GitWorkspaces`] makes worktrees.
pub(crate) const WITHOUT_WORKTREE: &str = "(a git repository that nobody made a worktree of)";
