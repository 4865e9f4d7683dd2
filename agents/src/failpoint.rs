//! Places at which a process of a fault run ends itself, as if killed at the worst moment: only where `AMPHI_FAULTS=1` arms it.
//!
//! Does nothing, and costs one load, in every other process. Never used to change what happens, only to end it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A place in the Manager's work, named in `AMPHI_KILL_AT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `before_commit`: inputs are decided, nothing is published.
    BeforeCommit,
    /// `after_commit`: the journal has it, no effect and no answer has left.
    AfterCommit,
    /// `half_effects`: the first effect or answer of a commit has left, the others have not.
    HalfEffects,
    /// `snapshot_stored`: a snapshot is in the object store, the journal does not say so yet.
    SnapshotStored,
    /// `archived`: a segment is in the object store, the journal does not say so yet.
    Archived,
    /// `trimmed`: records are trimmed, nothing else was done since.
    Trimmed,
}

impl Place {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "before_commit" => Self::BeforeCommit,
            "after_commit" => Self::AfterCommit,
            "half_effects" => Self::HalfEffects,
            "snapshot_stored" => Self::SnapshotStored,
            "archived" => Self::Archived,
            "trimmed" => Self::Trimmed,
            _ => return None,
        })
    }
}

struct Armed {
    place: Place,
    /// The process ends when the place is passed for the `nth` time.
    nth: u64,
    /// Only while this file is there, so that a fault run can come to an end.
    while_there: PathBuf,
    passed: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// Arms one place of this process: `PLACE:N:FILE`. It ends at the N-th passing of the place, if the file is there then.
///
/// # Errors
/// What is wrong with the text.
pub fn arm(text: &str) -> Result<(), String> {
    let malformed = || format!("AMPHI_KILL_AT: `{text}` is not PLACE:N:FILE");
    let mut parts = text.splitn(3, ':');
    let (Some(name), Some(nth), Some(file)) = (parts.next(), parts.next(), parts.next()) else { return Err(malformed()) };
    let place = Place::parse(name).ok_or_else(|| format!("AMPHI_KILL_AT: there is no place `{name}`"))?;
    let nth = nth.parse().map_err(|_| malformed())?;
    let armed = Armed { place, nth, while_there: file.into(), passed: AtomicU64::new(0) };
    ARMED.set(armed).map_err(|_| "AMPHI_KILL_AT: a place is armed already".to_owned())
}

/// Ends the process, if this is the place and the time.
pub(crate) fn pass(place: Place) {
    let Some(armed) = ARMED.get().filter(|armed| armed.place == place) else { return };
    let passed = armed.passed.fetch_add(1, Ordering::Relaxed) + 1;
    if passed >= armed.nth && armed.while_there.exists() {
        tracing::error!(?place, passed, "a fault run ends this process here");
        std::process::abort();
    }
}
