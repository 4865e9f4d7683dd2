//! What the desk remembers of attempts that are over: enough to recognise a command that comes again, and bounded.

use std::collections::{HashMap, VecDeque};

use amphi_protocol::ids::AttemptRef;

/// Attempts remembered. A command older than so many attempts of one node is also older than its leader's patience.
const ATTEMPTS_MAX: usize = 8192;

/// The latest attempts that ended here, or must never begin.
#[derive(Debug, Default)]
pub(super) struct Recent {
    order: VecDeque<AttemptRef>,
    known: HashMap<AttemptRef, Reported>,
}

/// Whether the end of an attempt was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    Yes,
    /// Its cancel came before its assignment, and with it its token.
    NotYet,
}

impl Recent {
    /// The end was reported.
    pub(super) fn insert(&mut self, attempt: AttemptRef) {
        self.put(attempt, Reported::Yes);
    }

    /// The attempt was cancelled before it came.
    pub(super) fn insert_ahead(&mut self, attempt: AttemptRef) {
        self.put(attempt, Reported::NotYet);
    }

    pub(super) fn contains(&self, attempt: &AttemptRef) -> bool {
        self.known.contains_key(attempt)
    }

    /// True if the attempt was cancelled before it came.
    pub(super) fn is_ahead(&self, attempt: &AttemptRef) -> bool {
        self.known.get(attempt) == Some(&Reported::NotYet)
    }

    fn put(&mut self, attempt: AttemptRef, reported: Reported) {
        if self.known.insert(attempt.clone(), reported).is_some() {
            return;
        }
        self.order.push_back(attempt);
        if self.order.len() > ATTEMPTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphi_protocol::ids::EpicId;

    #[test]
    fn the_memory_of_ended_attempts_is_bounded_and_forgets_the_oldest_first() {
        let attempt = |i: u32| AttemptRef { epic: EpicId::parse("e").unwrap(), i, run: 1, attempt: 1 };
        let mut recent = Recent::default();
        let count = ATTEMPTS_MAX as u32 + 1;
        (0..count).for_each(|i| recent.insert(attempt(i)));
        assert!(!recent.contains(&attempt(0)));
        assert!(recent.contains(&attempt(1)) && recent.contains(&attempt(count - 1)));
        assert_eq!((recent.order.len(), recent.known.len()), (ATTEMPTS_MAX, ATTEMPTS_MAX));
    }
}
