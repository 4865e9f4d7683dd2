//! Locks of owners outside of all epics: granted alone and in turn like a task's (S7, S11), under tokens that grow (S8), kept until they
//! are released under their token or their time is over, and then free with that commit (S7, S10).

use std::collections::BTreeMap;

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{OwnerName, Timestamp, Token};
use amphi_protocol::journal::{AskEnd, Input, LockName, OutsideLock};

use crate::checker::Checker;
use crate::locks::Party;
use crate::spec::LockKey;
use crate::verdict::Law;

/// What owners outside hold and wait for.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    asks: BTreeMap<(LockKey, OwnerName), Ask>,
    /// Numbers given so far.
    given: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    party: Party,
    mode: LockMode,
    /// Since which record it is asked for.
    since: u64,
    /// Until when it is held, or waits.
    until: Timestamp,
    ttl_ms: u64,
    token: Option<Token>,
}

impl Checker {
    /// Somebody asks for a lock, or keeps the place in its queue.
    pub(crate) fn ask(&mut self, input: &Input, lock: &OutsideLock, ttl_ms: u64, until: Timestamp) {
        let asked = matches!(input, Input::AcquireLock { lock: wanted, .. } if wanted == lock);
        self.findings.check(Law::S13, &[], asked);
        let (entry, at) = (entry(lock), self.findings.at.0);
        match self.outside.asks.get_mut(&entry) {
            Some(known) => {
                let same = known.token.is_none() && known.mode == lock.mode;
                (known.ttl_ms, known.until) = (ttl_ms, until);
                self.findings.check(Law::S13, &[], same);
            }
            None => {
                self.outside.given += 1;
                let party = Party::Outside(self.outside.given);
                self.locks.join(party, at, &[(entry.0.clone(), lock.mode)]);
                self.outside.asks.insert(entry, Ask { party, mode: lock.mode, since: at, until, ttl_ms, token: None });
            }
        }
    }

    /// Given back on the word of who holds it, under its token.
    pub(crate) fn release_outside(&mut self, input: &Input, lock: &OutsideLock, token: Token) {
        let named = matches!(input, Input::ReleaseLock { name, token: said, owner, .. }
            if names(lock, name, owner.as_ref()) && said.is_none_or(|said| said == token));
        self.findings.check(Law::S8, &[], named);
        self.give_back_outside(lock, token);
    }

    /// Taken back: before its time somebody else would have it while its holder may rely on it.
    pub(crate) fn expire_outside(&mut self, lock: &OutsideLock, token: Token) {
        let over = self.outside.asks.get(&entry(lock)).is_none_or(|ask| ask.until <= self.now);
        self.findings.check(Law::S7, &[], over);
        self.give_back_outside(lock, token);
    }

    /// An owner has a lock: alone, in turn, under a new token, for the time that it asked for.
    pub(crate) fn grant_outside(&mut self, lock: &OutsideLock, token: Token, until: Timestamp) {
        let grows = self.last_token.is_none_or(|last| token > last);
        self.findings.check(Law::S8, &[], grows);
        self.last_token = self.last_token.max(Some(token));
        let entry = entry(lock);
        let waits = self.outside.asks.get(&entry).copied().filter(|ask| ask.token.is_none() && ask.mode == lock.mode);
        // Nobody has it who did not ask, and nobody twice.
        if !self.findings.check(Law::S13, &[], waits.is_some()) {
            return;
        }
        let Some(ask) = waits else { return };
        let set = [(entry.0.clone(), ask.mode)];
        let holder = self.locks.excluded_by(ask.party, &set);
        self.check_between(Law::S7, holder, holder.is_none());
        let overtaken = self.locks.earlier_rivals(ask.party, ask.since, &set).find(|rival| self.could_have_been_served(*rival));
        match overtaken {
            Some(rival) => self.check_between(Law::S11, Some(rival), false),
            None if self.locks.has_rival(ask.party, &set) => self.check_between(Law::S11, None, true),
            None => {}
        }
        // It has it for the time that it asked for, counted from this commit.
        self.findings.check(Law::S7, &[], until == self.now.after_ms(ask.ttl_ms));
        self.locks.leave(ask.party, ask.since, &set);
        self.locks.hold(ask.party, &set);
        self.outside.asks.insert(entry, Ask { token: Some(token), until, ..ask });
    }

    /// Only who holds it renews it, under its token and before its time is over.
    pub(crate) fn renew(&mut self, input: &Input, lock: &OutsideLock, token: Token, (ttl_ms, until): (u64, Timestamp)) {
        let renews = matches!(input, Input::RenewLock { name, token: said, owner, .. }
            if names(lock, name, owner.as_ref()) && said.is_none_or(|said| said == token));
        let by_right = renews || matches!(input, Input::AcquireLock { lock: wanted, .. } if wanted == lock);
        let now = self.now;
        let Some(known) = self.outside.asks.get_mut(&entry(lock)).filter(|ask| ask.token.is_some()) else {
            self.findings.check(Law::S8, &[], false);
            return;
        };
        let held = known.token == Some(token) && known.until > now;
        (known.ttl_ms, known.until) = (ttl_ms, until);
        self.findings.check(Law::S8, &[], held && by_right);
        self.findings.check(Law::S7, &[], until == now.after_ms(ttl_ms));
    }

    fn give_back_outside(&mut self, lock: &OutsideLock, token: Token) {
        let entry = entry(lock);
        let Some(ask) = self.outside.asks.get(&entry).copied().filter(|ask| ask.token.is_some()) else {
            // Nobody held it: a word counted under a token that was over.
            self.findings.check(Law::S8, &[], false);
            return;
        };
        self.findings.check(Law::S8, &[], ask.token == Some(token));
        self.findings.check(Law::S10, &[], true);
        self.locks.release(ask.party, &[(entry.0.clone(), ask.mode)]);
        self.outside.asks.remove(&entry);
    }

    /// A request leaves its queue: its time is over, or its owner says so.
    pub(crate) fn end_ask(&mut self, input: &Input, lock: &OutsideLock, cause: AskEnd) {
        let entry = entry(lock);
        let waits = self.outside.asks.get(&entry).copied().filter(|ask| ask.token.is_none());
        let right = waits.is_some_and(|ask| match cause {
            AskEnd::WaitOver => ask.until <= self.now,
            AskEnd::Withdrawn => {
                matches!(input, Input::ReleaseLock { name, owner, .. } if names(lock, name, owner.as_ref()))
            }
        });
        self.findings.check(Law::S13, &[], right);
        if let Some(ask) = waits {
            self.locks.leave(ask.party, ask.since, &[(entry.0.clone(), ask.mode)]);
            self.outside.asks.remove(&entry);
        }
    }

    /// A law between a party and somebody outside.
    fn check_between(&mut self, law: Law, other: Option<Party>, holds: bool) {
        let epic = other.and_then(Party::task).map(|(position, _)| self.epics[position].id.clone());
        self.findings.check(law, &epic.iter().collect::<Vec<_>>(), holds);
    }
}

fn entry(lock: &OutsideLock) -> (LockKey, OwnerName) {
    (LockKey::named(&lock.name), lock.owner.clone())
}

fn names(lock: &OutsideLock, name: &LockName, owner: Option<&OwnerName>) -> bool {
    lock.name == *name && owner.is_none_or(|owner| *owner == lock.owner)
}
