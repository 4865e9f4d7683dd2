//! How runs end that no agent has: the Manager itself holds them while time passes, a message is awaited, or an epic runs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::RetryCause;

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitEnd {
    /// Its time is over.
    Elapsed,
    /// The message came.
    Signalled {
        /// The subject of the message.
        subject: String,
        /// Its body.
        data: Value,
    },
    /// The message did not come within `timeout`.
    TimedOut,
}

/// How the run of a task ends whose epic has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildEnd {
    /// Its epic succeeded; or, if the run undoes the task, everything was taken back.
    Succeeded,
    /// Its epic failed or took too long; or something could not be taken back.
    Failed {
        /// Why.
        cause: RetryCause,
        /// For people: what failed in it.
        error: String,
    },
    /// Its epic was cancelled, by itself or because the task was.
    Cancelled,
}
