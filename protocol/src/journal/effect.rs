//! The effect ledger: what tools bring about outside, on record before and after. Never decides whether an effect may be brought about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Tools whose effect outside is written down first, so that it happens once per idempotency key.
pub const LEDGER_TOOLS: [&str; 2] = ["git.tag", "http.post"];

/// Longest name of an effect, and of a tool that brings it about.
pub const EFFECT_NAME_MAX: usize = 64;
/// Effects of one run.
pub const EFFECTS_MAX: usize = 16;
/// Bytes of what is remembered of an effect.
pub const EFFECT_BYTES_MAX: usize = 32 * 1024;

/// True if the tool's effects stand in the ledger.
pub fn is_ledger_tool(tool: &str) -> bool {
    LEDGER_TOOLS.contains(&tool)
}

/// An effect that a tool is about to bring about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectIntent {
    /// Its name within the run; with the run's idempotency key it names the effect for ever.
    pub effect: String,
    /// The tool.
    pub tool: String,
    /// Whoever is concerned can be asked by the key whether it happened.
    pub askable: bool,
    /// What it is, for people: `POST https://…`.
    pub about: String,
}

/// What became of an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectEnd {
    /// It happened.
    Done {
        /// What the tool gave: an attempt that comes later gives the same.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: BTreeMap<String, String>,
    },
    /// It certainly did not happen.
    NotDone {
        /// Why, for people.
        why: String,
    },
    /// Nobody knows.
    Unknown {
        /// Why, for people.
        why: String,
    },
}

/// What the ledger says of an effect when an attempt begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownEffect {
    /// An earlier attempt brought it about.
    Done {
        /// What the tool gave.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: BTreeMap<String, String>,
    },
    /// An earlier attempt was about to, and what became of it is not known.
    Unknown,
}
