//! Commands as process trees: the guard on which each tree hangs, and the engine that runs `run` tasks.
//!
//! The promise: no process of an attempt lives longer than the attempt, whatever happens to the task, the guard or the node. What is
//! needed for it stands in `guard` (kills), `keeper` (renews), `record` and `leftovers` (proof over the lives of a node).
//! Start reading at [`ProcessEngine`]; a node calls [`become_subreaper`], then [`confirm_dead`], then [`ProcessEngine::open`].

mod activity;
mod cgroup;
mod engine;
mod environment;
mod folders;
mod guard;
mod inputs;
mod keeper;
mod launch;
mod leftovers;
mod mask;
mod output;
mod procfs;
mod record;
mod results;
#[cfg(test)]
mod tests;
mod tree;
mod values;

pub use engine::{ProcessConfig, ProcessEngine};
pub use environment::Basics;
pub use guard::{guard_main, now as uptime};
pub use leftovers::{Leftover, become_subreaper, confirm_dead};
pub use output::{CUT_MARK, OUTPUT_BYTES_MAX};
pub use procfs::MARKER_VARIABLE;
pub use results::{ARTIFACT_BYTES_MAX, ARTIFACTS_MAX};
pub use tree::GuardCommand;

pub(crate) use engine::failed;
pub(crate) use folders::{attempt_name, work_folder};
pub(crate) use mask::Secrets;
pub(crate) use record::is_guarded;
pub(crate) use tree::{Tree, TreeOrder, Trees, Verdict, is_shortage};
pub(crate) use values::{fill, fill_text, no_value};
