//! What follows an ended attempt: the retry policy, as one pure function.

use amphi_protocol::document::{RetryCause, RetryPolicy};
use amphi_protocol::ids::Timestamp;
use amphi_protocol::journal::{CancelCause, Next, Outcome};

use crate::epic::AttemptPhase;

/// Tries that never began before the run counts as failed: something is wrong that another try does not mend.
pub(crate) const UNSTARTED_MAX: u32 = 10;
/// Pause after the first try that never began; doubles from there.
const UNSTARTED_BACKOFF_MS: u64 = 50;

/// What is known of the attempt that ended.
pub(crate) struct Ended<'a> {
    pub policy: &'a RetryPolicy,
    pub outcome: Outcome,
    pub phase: AttemptPhase,
    pub cancelling: Option<CancelCause>,
    /// The epic starts nothing any more.
    pub stopping: bool,
    /// Tries of this run that count, this one included if it does.
    pub begun: u32,
    /// Tries of this run that do not count, this one included if it does not.
    pub unstarted: u32,
    pub now: Timestamp,
    /// Spreads retries; derived from the attempt, so that it is the same in every replay.
    pub seed: u64,
}

/// True if the try does not count: it certainly never began, and no process can have run.
///
/// A `retry: 0` attempt that was lost before its claim is such a try; any other lost attempt may have begun unseen.
pub(crate) fn is_uncounted(outcome: Outcome, phase: AttemptPhase, policy: &RetryPolicy) -> bool {
    outcome == Outcome::NotStarted || (policy.is_once() && outcome == Outcome::AgentLost && phase == AttemptPhase::Assigned)
}

/// True if the attempt was taken from its agent to be given to another: no failure, and no try. What ended by itself did so.
pub(crate) fn is_handed_over(outcome: Outcome, cancelling: Option<CancelCause>) -> bool {
    cancelling == Some(CancelCause::Drain) && matches!(outcome, Outcome::Cancelled | Outcome::NotStarted | Outcome::AgentLost)
}

/// The policy.
pub(crate) fn next(ended: &Ended<'_>) -> Next {
    if ended.outcome == Outcome::Succeeded {
        return Next::Succeeded;
    }
    if matches!(ended.cancelling, Some(CancelCause::Request | CancelCause::FailFast)) {
        return Next::Cancelled;
    }
    if is_handed_over(ended.outcome, ended.cancelling) {
        return if ended.stopping { Next::Cancelled } else { Next::Retry { at: ended.now } };
    }
    if is_uncounted(ended.outcome, ended.phase, ended.policy) {
        return match ended.stopping {
            true => Next::Cancelled,
            // Whatever kept it from beginning may need a moment, also where the policy knows no pause.
            false if ended.unstarted < UNSTARTED_MAX => retry(ended, ended.unstarted, ended.policy.backoff_ms.max(UNSTARTED_BACKOFF_MS)),
            false => Next::Failed,
        };
    }
    if ended.policy.is_once() && ended.outcome == Outcome::AgentLost {
        return Next::Unknown;
    }
    let wanted = ended.policy.on.contains(&cause(ended.outcome, ended.cancelling));
    if ended.stopping || ended.begun >= ended.policy.attempts || !wanted {
        return Next::Failed;
    }
    retry(ended, ended.begun, ended.policy.backoff_ms)
}

/// Why the attempt ended, in the words of `retry.on`.
pub(crate) fn cause(outcome: Outcome, cancelling: Option<CancelCause>) -> RetryCause {
    match outcome {
        Outcome::Succeeded | Outcome::Exit => RetryCause::Exit,
        Outcome::Output => RetryCause::Output,
        Outcome::Resource => RetryCause::Resource,
        Outcome::AgentLost | Outcome::NotStarted => RetryCause::AgentLost,
        Outcome::Cancelled => match cancelling {
            Some(CancelCause::Timeout) => RetryCause::Timeout,
            Some(CancelCause::Stuck | CancelCause::Lease) => RetryCause::Stuck,
            Some(CancelCause::Request | CancelCause::FailFast | CancelCause::Drain) | None => RetryCause::AgentLost,
        },
    }
}

/// Exponential backoff with up to a quarter of jitter.
fn retry(ended: &Ended<'_>, tries: u32, backoff_ms: u64) -> Next {
    let policy = ended.policy;
    let doubled = backoff_ms.saturating_mul(1u64 << tries.saturating_sub(1).min(32));
    let pause = doubled.min(policy.max_ms);
    // splitmix64's finaliser: spreads neighbouring seeds.
    let mut z = ended.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let jitter = if pause == 0 { 0 } else { (z ^ (z >> 31)) % (pause / 4 + 1) };
    Next::Retry { at: ended.now.after_ms(pause + jitter) }
}
