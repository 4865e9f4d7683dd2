//! The bounds that a submission is held against. Never decides about them.

use serde::{Deserialize, Serialize};

/// How much may be open before a submission is turned away: configuration, on record with each submission that it was held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Epics of one project that have not ended.
    pub open_epics: u64,
    /// Runs of all epics that have not ended and are with nobody.
    pub waiting_runs: u64,
}
