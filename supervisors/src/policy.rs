//! The decisions of a supervisor as plain functions: restart or not, when, and when to stop trying.
//!
//! No actor, no clock, no logging here. Moments are arguments: [`Duration`]s since any fixed origin that does not go back. OTP's
//! words keep OTP's meaning. Start at [`judge`].

use std::collections::VecDeque;
use std::time::Duration;

/// How many restarts are allowed within a period; one more and the supervisor stops trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts; 0 means that the first failure is already too much.
    pub max: u32,
    /// The period.
    pub within: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { max: 3, within: Duration::from_secs(60) }
    }
}

/// Which ends of a child are followed by a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// All.
    Permanent,
    /// Failures and kills.
    Transient,
    /// None.
    Temporary,
}

impl Restart {
    /// `permanent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Temporary => "temporary",
        }
    }

    /// Whether a child of this type is started again after such an end, intensity aside.
    pub fn follows(self, exit: ExitKind) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => exit.is_abnormal(),
            Self::Temporary => false,
        }
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// It stopped by its own will.
    Normal,
    /// An error, a panic, or a start that failed.
    Failed,
    /// It was killed, as stuck actors are.
    Killed,
    /// It was told to stop, in an orderly way.
    Shutdown,
}

impl ExitKind {
    /// A failure or a kill.
    pub fn is_abnormal(self) -> bool {
        match self {
            Self::Failed | Self::Killed => true,
            Self::Normal | Self::Shutdown => false,
        }
    }
}

/// Who is restarted together with a child that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Nobody else.
    #[default]
    OneForOne,
    /// All siblings.
    OneForAll,
    /// The siblings that were started after it.
    RestForOne,
}

impl Strategy {
    /// `one_for_one`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneForOne => "one_for_one",
            Self::OneForAll => "one_for_all",
            Self::RestForOne => "rest_for_one",
        }
    }

    /// The positions (in start order, out of `count`) that are restarted when the child at `failed` is.
    pub fn group(self, failed: usize, count: usize) -> std::ops::Range<usize> {
        match self {
            Self::OneForOne => failed..failed + 1,
            Self::OneForAll => 0..count,
            Self::RestForOne => failed..count,
        }
    }
}

/// What happens when the intensity is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// The supervisor ends with all its children, so that its own supervisor sees it.
    Escalate,
    /// The child stays down until somebody restarts it; its siblings do not notice.
    Quarantine,
}

/// Waiting time before a restart: doubles with every restart, up to a cap, and begins anew after a quiet period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first restart; zero is allowed and stays zero.
    pub first: Duration,
    /// Never more than this.
    pub cap: Duration,
    /// A child that ran this long since its last restart begins anew.
    pub quiet: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(10), quiet: Duration::from_secs(60) }
    }
}

/// The restarts of the last period; never holds more than `max` moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    moments: VecDeque<Duration>,
}

impl Window {
    /// Counts a restart at `now`, or says that it would be one too many.
    pub fn admit(&mut self, intensity: Intensity, now: Duration) -> bool {
        while self.moments.front().is_some_and(|&moment| now.saturating_sub(moment) >= intensity.within) {
            self.moments.pop_front();
        }
        if self.moments.len() >= intensity.max as usize {
            return false;
        }
        self.moments.push_back(now);
        true
    }

    /// Forgets all restarts.
    pub fn reset(&mut self) {
        self.moments.clear();
    }

    /// Restarts that are remembered.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// No restart is remembered.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }
}

/// How far the backoff of one child has grown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    step: u32,
    resumed_at: Option<Duration>,
}

impl Pace {
    /// The wait before a restart that is decided at `now`.
    pub fn next(&mut self, backoff: &Backoff, now: Duration) -> Duration {
        if self.resumed_at.is_some_and(|resumed| now.saturating_sub(resumed) >= backoff.quiet) {
            self.step = 0;
        }
        let factor = 1u32.checked_shl(self.step).unwrap_or(u32::MAX);
        let delay = backoff.first.saturating_mul(factor).min(backoff.cap);
        self.step = self.step.saturating_add(1);
        self.resumed_at = Some(now.saturating_add(delay));
        delay
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What the supervisor does about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Starts the child (and its group) again after a wait.
    Restart {
        /// The wait.
        after: Duration,
    },
    /// Ends itself with all children.
    GiveUp,
    /// Leaves the child down until somebody restarts it.
    Quarantine,
    /// Leaves the child down; that is how it should end.
    Forget,
}

/// The rules under which one child lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Which ends are followed by a restart.
    pub restart: Restart,
    /// How often.
    pub intensity: Intensity,
    /// How fast.
    pub backoff: Backoff,
    /// What then.
    pub on_exhausted: OnExhausted,
}

/// Decides what follows an end at `now`. `window` counts the restarts that share the intensity, `pace` is the child's own.
pub fn judge(rules: &Rules, exit: ExitKind, window: &mut Window, pace: &mut Pace, now: Duration) -> Verdict {
    if !rules.restart.follows(exit) {
        return Verdict::Forget;
    }
    if !window.admit(rules.intensity, now) {
        return match rules.on_exhausted {
            OnExhausted::Escalate => Verdict::GiveUp,
            OnExhausted::Quarantine => Verdict::Quarantine,
        };
    }
    Verdict::Restart { after: pace.next(&rules.backoff, now) }
}
