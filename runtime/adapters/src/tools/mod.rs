//! Built-in tools: small, deterministic work. The few that need a program run it under a guard, see [`child`].
//!
//! A tool is one file that implements [`Tool`] and one line in [`REGISTRY`]. The fault tools `panic` and `hang` are run by the agent
//! actor, because breaking it is what they are for; here only their names are known.

mod arguments;
mod backup;
mod backup_restore;
mod backup_snapshot;
mod backup_verify;
mod child;
mod copy;
mod engine;
mod fail;
mod file_write;
mod git;
mod git_clone;
mod git_commit;
mod git_tag;
mod http;
mod http_check;
mod http_post;
mod http_wait;
mod inside;
mod ledger;
mod message_send;
mod noop;
mod prom_assert;
mod sleep;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use amphi_ports::JobNews;
use amphi_protocol::journal::Outcome;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use engine::{Engines, ToolEngine};

use arguments::{Arguments, Parameter};

pub(crate) use child::Launcher;
pub(crate) use git::Git;

/// All tools.
const REGISTRY: &[&dyn Tool] = &[
    &backup_restore::BackupRestore,
    &backup_snapshot::BackupSnapshot,
    &backup_verify::BackupVerify,
    &fail::Fail,
    &file_write::FileWrite,
    &git_clone::GitClone,
    &git_commit::GitCommit,
    &git_tag::GitTag,
    &http_check::HttpCheck,
    &http_post::HttpPost,
    &http_wait::HttpWait,
    &message_send::MessageSend,
    &noop::Noop,
    &prom_assert::PromAssert,
    &sleep::Sleep,
];

/// Tools that exist only with `AMPHI_FAULTS=1`; they take no arguments.
const FAULT_TOOLS: [&str; 2] = ["hang", "panic"];

/// One tool.
trait Tool: Send + Sync {
    /// The name that users write.
    fn name(&self) -> &'static str;

    /// What it takes.
    fn parameters(&self) -> &'static [Parameter];

    /// Checks what types alone do not say, of the arguments that are there: at submission some may still be open. The error is for
    /// people.
    fn check(&self, _: &Arguments) -> Result<(), String> {
        Ok(())
    }

    /// A cancel waits for it: it changes something and would otherwise go on after its end was told.
    fn must_finish(&self) -> bool {
        false
    }

    /// Does it. The arguments are checked. A cancel drops the future, unless it [`Tool::must_finish`].
    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>>;
}

/// What a running tool has.
pub(crate) struct Context {
    /// The folder that it may write to.
    pub(crate) workspace: PathBuf,
    /// A file name for the attempt, unique in its node.
    pub(crate) attempt: String,
    /// What a tool that must finish looks at, to finish early.
    pub(crate) cancel: CancellationToken,
    /// Ends the patience with its programs.
    pub(crate) hurry: CancellationToken,
    pub(crate) launcher: Arc<child::Launcher>,
    /// In whose name it speaks, and how; without it no message can be sent.
    voice: Option<message_send::Voice>,
    /// Where effects outside are written down; a program of the node itself brings none about.
    ledger: Option<ledger::Ledger>,
    pub(crate) news: mpsc::UnboundedSender<JobNews>,
}

impl Context {
    /// For programs that the node runs beside a task: they say nothing in anybody's name.
    pub(crate) fn of_node(
        workspace: PathBuf,
        attempt: String,
        launcher: Arc<child::Launcher>,
        news: mpsc::UnboundedSender<JobNews>,
    ) -> Self {
        Self {
            workspace,
            attempt,
            cancel: CancellationToken::new(),
            hurry: CancellationToken::new(),
            launcher,
            voice: None,
            ledger: None,
            news,
        }
    }

    /// Tells that the tool is not stuck.
    pub(crate) fn is_active(&self) {
        let _ = self.news.send(JobNews::Active);
    }
}

/// Why a tool failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolError {
    pub(crate) outcome: Outcome,
    pub(crate) text: String,
}

impl ToolError {
    /// It did not work out.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::Exit, text: text.into() }
    }

    /// It was asked to end.
    pub(crate) fn cancelled() -> Self {
        Self { outcome: Outcome::Cancelled, text: "ended on request".to_owned() }
    }
}

impl From<std::io::Error> for ToolError {
    fn from(error: std::io::Error) -> Self {
        let is_shortage = error.raw_os_error().is_some_and(crate::process::is_shortage);
        let outcome = if is_shortage { Outcome::Resource } else { Outcome::Exit };
        Self { outcome, text: error.to_string() }
    }
}

/// The names of all tools, with those that break things where `faults` is set.
pub fn tool_names(faults: bool) -> BTreeSet<String> {
    let fault_tools = FAULT_TOOLS.iter().filter(|_| faults);
    REGISTRY.iter().map(|tool| tool.name()).chain(fault_tools.copied()).map(str::to_owned).collect()
}

/// Checks the arguments of a tool as users write them: names, and types of what is no reference. The error is for people.
pub fn check_arguments(tool: &str, with: &Value) -> Result<(), String> {
    if FAULT_TOOLS.contains(&tool) {
        return Ok(());
    }
    let Some(tool) = find(tool) else { return Err(format!("there is no tool `{tool}`")) };
    let checked = Arguments::check(tool.parameters(), with, true).and_then(|arguments| tool.check(&arguments));
    checked.map_err(|error| format!("{}: {error}", tool.name()))
}

fn find(name: &str) -> Option<&'static dyn Tool> {
    REGISTRY.iter().copied().find(|tool| tool.name() == name)
}

#[cfg(test)]
mod tests {
    use amphi_protocol::journal::effect::LEDGER_TOOLS;

    #[test]
    fn every_tool_that_the_ledger_knows_exists() {
        assert!(LEDGER_TOOLS.iter().all(|name| super::find(name).is_some()));
    }
}
