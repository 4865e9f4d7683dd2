//! Owners outside of all epics ask for locks, renew them and give them back; what they do not renew in time is taken from them.
//!
//! What is refused at once: a lock that is taken, unless the owner waits; and a wait that would close a ring, because an owner may hold
//! one lock while it waits for another, which tasks never do.

use std::collections::BTreeSet;

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{OwnerName, Token};
use amphi_protocol::journal::outside::{OUTSIDE_MAX, TTL_MS_MAX, TTL_MS_MIN, WAIT_MS_MAX};
use amphi_protocol::journal::{AskEnd, Decision, LockName, OutsideLock};

use crate::decide::inputs::conflict;
use crate::decide::{Deciding, Refusal};
use crate::locks::{Party, ResourceKey};
use crate::mutants::{Mutant, planted};
use crate::outside::{Ask, named};
use crate::state::State;

/// How a request names a lock that is held: on what, and under which token or for whom.
type Named<'a> = (&'a LockName, Option<Token>, Option<&'a OwnerName>);

impl Deciding<'_> {
    pub(super) fn acquire_lock(&mut self, lock: &OutsideLock, ttl_ms: u64, wait_ms: u64, by: &str) -> Result<(), Refusal> {
        check_ttl(ttl_ms)?;
        if wait_ms > WAIT_MS_MAX {
            return Err(invalid(format!("a request waits at most {WAIT_MS_MAX} ms"), "ask again meanwhile; the place in the queue stays"));
        }
        let state = &*self.state;
        let (key, resource) = (ResourceKey::from(&lock.name), &lock.name.resource);
        let (until, held_until) = (state.now.after_ms(wait_ms), state.now.after_ms(ttl_ms));
        let asked = |until| Decision::LockAsked { lock: lock.clone(), ttl_ms, until, by: by.to_owned() };
        match state.outside.get(&key, &lock.owner) {
            Some(known) if known.mode != lock.mode => {
                let word = if known.token.is_some() { "holds" } else { "waits for" };
                let message = format!("{} {word} {resource} in another mode", lock.owner);
                return Err(Refusal::error(ErrorCode::StateConflict, message, "release that first, or ask under another owner"));
            }
            Some(known) if known.token.is_some() && known.until <= state.now => {
                return Err(lost(format!("{}'s time with {resource} is over", lock.owner), "ask again in a moment"));
            }
            Some(Ask { token: Some(token), .. }) => {
                self.put(Decision::LockRenewed { lock: lock.clone(), token: *token, ttl_ms, until: held_until });
                return Ok(());
            }
            Some(_) if wait_ms > 0 => {
                self.put(asked(until));
                return Ok(());
            }
            Some(Ask { order, .. }) => return Err(self.taken(lock, &key, *order)),
            None => {}
        }
        if state.outside.count() >= OUTSIDE_MAX {
            let message = format!("owners outside hold or await {OUTSIDE_MAX} locks, which is the limit");
            return Err(Refusal::error(ErrorCode::ClusterBusy, message, "ask again when some have been released (`amphi lock ls`)"));
        }
        let mut visited = 0;
        let is_free = state.locks.would_grant(&key, lock.mode, &mut visited);
        if !is_free {
            if let Some(ring) = state.ring(lock, &key) {
                let hint = "release one of them, or ask for both in the same order everywhere";
                return Err(Refusal::error(ErrorCode::StateConflict, format!("the wait would never end: {ring}"), hint));
            }
            if wait_ms == 0 {
                return Err(self.taken(lock, &key, u64::MAX));
            }
        }
        self.put(asked(until));
        Ok(())
    }

    /// `state.conflict`, to be tried again; says who is in the way.
    fn taken(&self, lock: &OutsideLock, key: &ResourceKey, order: u64) -> Refusal {
        let state = &*self.state;
        let ahead = state.locks.in_the_way(key, lock.mode, order);
        let who = ahead.first().map_or_else(
            || "somebody".to_owned(),
            |(name, party, token, _)| {
                let name =
                    if *name == key { String::new() } else { format!(", which {} is a part of or shares paths with", lock.name.resource) };
                let party = state.party_text(party);
                match token {
                    Some(token) => format!("{party} under token {token}{name}"),
                    None => format!("{party}, who asked before{name}"),
                }
            },
        );
        let more = if ahead.len() > 1 { format!(" and {} more", ahead.len() - 1) } else { String::new() };
        let hint = "try again later, or wait for it: --wait 30s (`wait_ms`)";
        lost(format!("{} is taken by {who}{more}", lock.name.resource), hint)
    }

    pub(super) fn renew_lock(&mut self, named: Named<'_>, ttl_ms: Option<u64>) -> Result<(), Refusal> {
        ttl_ms.map_or(Ok(()), check_ttl)?;
        let (lock, ask) = self.find(named)?;
        let Some(token) = ask.token else {
            return Err(conflict(format!("{} waits for {} and does not hold it yet", lock.owner, lock.name.resource)));
        };
        if ask.until <= self.state.now {
            let message = format!("{}'s time with {} is over", lock.owner, lock.name.resource);
            return Err(Refusal::error(ErrorCode::StateConflict, message, "stop writing under its token; then acquire it anew"));
        }
        let ttl_ms = ttl_ms.unwrap_or(ask.ttl_ms);
        self.put(Decision::LockRenewed { lock, token, ttl_ms, until: self.state.now.after_ms(ttl_ms) });
        Ok(())
    }

    pub(super) fn release_lock(&mut self, named: Named<'_>, by: &str) -> Result<(), Refusal> {
        let (lock, ask) = self.find(named)?;
        self.put(match ask.token {
            Some(token) => Decision::LockReleased { lock, token, by: by.to_owned() },
            None => Decision::LockAskEnded { lock, cause: AskEnd::Withdrawn },
        });
        Ok(())
    }

    /// What a request names; both token and owner have to fit if both are given.
    fn find(&self, (name, token, owner): Named<'_>) -> Result<(OutsideLock, Ask), Refusal> {
        let (key, outside) = (ResourceKey::from(name), &self.state.outside);
        let holder = match (owner, token) {
            (Some(owner), _) => Some(owner),
            (None, Some(token)) => outside.holder(&key, token),
            (None, None) => return Err(invalid("neither `token` nor `owner` says whose lock is meant".to_owned(), "give the token")),
        };
        let found = holder.and_then(|owner| Some((owner, outside.get(&key, owner)?)));
        let fits = |ask: &Ask| token.is_none() || ask.token == token || planted(Mutant::OutsideToken);
        match found.filter(|(_, ask)| fits(ask)) {
            Some((owner, ask)) => Ok((named(&key, owner, ask.mode), ask.clone())),
            None => {
                let whose = match (token, owner) {
                    (Some(token), _) => format!("token {token} does not hold {}", name.resource),
                    (None, Some(owner)) => format!("{owner} neither holds {} nor waits for it", name.resource),
                    (None, None) => format!("nobody is named who holds {}", name.resource),
                };
                let hint = "its time is over, or it was released; `amphi lock show` says who has it now";
                Err(Refusal::error(ErrorCode::StateConflict, whose, hint))
            }
        }
    }

    /// A request that was in front of its queues a moment ago.
    pub(super) fn grant_outside(&mut self, order: u64) {
        let mut visited = 0;
        let state = &*self.state;
        // What came between in the same input may have gone in front again, or taken the request away.
        if !state.locks.is_grantable(order, &mut visited) {
            return;
        }
        let (Some(Party::Outside { owner }), Some(set)) = (state.locks.owner(order), state.locks.set(order)) else { return };
        let (key, mode) = set.first().expect("a request from outside is for one lock");
        let ask = state.outside.get(key, owner).expect("a request from outside in the lock table has its entry");
        let (lock, until) = (named(key, owner, *mode), state.now.after_ms(ask.ttl_ms));
        self.put(Decision::LockGranted { lock, token: Token(state.token.0 + 1), until });
    }

    /// Takes back what was not renewed, and lets go whoever waits no longer.
    pub(super) fn outside_is_due(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let due = self.state.outside.deadlines().first().filter(|(at, ..)| *at <= self.state.now);
            let Some((_, key, owner)) = due.cloned() else { return };
            let ask = self.state.outside.get(&key, &owner).expect("a deadline belongs to an entry");
            let lock = named(&key, &owner, ask.mode);
            self.put(match ask.token {
                Some(token) => Decision::LockExpired { lock, token },
                None => Decision::LockAskEnded { lock, cause: AskEnd::WaitOver },
            });
        }
    }
}

impl State {
    /// If the owner waited for this lock, it would wait for itself: says how. A ring that arises later, because a request that was
    /// parked comes back to its old place, ends when somebody's wait or time does.
    fn ring(&self, lock: &OutsideLock, key: &ResourceKey) -> Option<String> {
        let (mut seen, mut left) = (BTreeSet::new(), Vec::new());
        let first = format!("{} waits for {}", lock.owner, lock.name.resource);
        left.push((vec![(key.clone(), lock.mode)], u64::MAX, first));
        while let Some((set, order, path)) = left.pop() {
            for (key, mode) in &set {
                for (_, party, token, waits) in self.locks.in_the_way(key, *mode, order) {
                    let word = if token.is_some() { "held" } else { "awaited before" };
                    let path = format!("{path}, {word} by {}", self.party_text(party));
                    let mut on = |order: u64| {
                        if let Some(set) = self.locks.set(order).filter(|_| seen.insert(order)) {
                            let names: Vec<&str> = set.iter().map(|(key, _)| key.resource.as_str()).collect();
                            left.push((set.to_vec(), order, format!("{path}, who waits for {}", names.join(", "))));
                        }
                    };
                    match party {
                        Party::Outside { owner } if *owner == lock.owner => return Some(path),
                        Party::Outside { owner } => {
                            let others = self.outside.iter().filter(|(_, other, ask)| *other == owner && ask.token.is_none());
                            others.for_each(|(_, _, ask)| on(ask.order));
                        }
                        Party::Task { .. } => waits.into_iter().for_each(on),
                    }
                }
            }
        }
        None
    }

    /// A holder or waiter, for people.
    fn party_text(&self, party: &Party) -> String {
        match party {
            Party::Task { epic, i } => format!("{epic}/{}", self.epics[epic].key(*i)),
            Party::Outside { owner } => owner.to_string(),
        }
    }
}

fn check_ttl(ttl_ms: u64) -> Result<(), Refusal> {
    if (TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
        return Ok(());
    }
    Err(invalid(format!("`ttl_ms` is {ttl_ms}: expected {TTL_MS_MIN} (a second) to {TTL_MS_MAX} (a day)"), "renew it for longer"))
}

fn invalid(message: String, hint: &str) -> Refusal {
    Refusal::error(ErrorCode::RequestInvalid, message, hint)
}

/// `state.conflict` that may be over soon.
fn lost(message: String, hint: &str) -> Refusal {
    let error = ApiError::new(ErrorCode::StateConflict, message).hint(hint);
    Refusal::Error(ApiError { retryable: true, ..error })
}
