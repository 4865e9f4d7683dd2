//! Locks of owners outside of all epics against the lock table and their deadlines. S8, L5. Who excludes whom is judged with the queues.

use std::collections::BTreeSet;

use amphi_protocol::ids::Token;

use super::{Violation, hold};
use crate::locks::Party;
use crate::state::State;

pub(super) fn check(state: &State) -> Result<(), Violation> {
    let (mut count, mut tokens, mut deadlines) = (0, BTreeSet::<Token>::new(), BTreeSet::new());
    for (key, owner, ask) in state.outside.iter() {
        count += 1;
        deadlines.insert((ask.until, key.clone(), owner.clone()));
        let who = Party::Outside { owner: owner.clone() };
        let lock = state.locks.get(key);
        let held = lock.is_some_and(|lock| lock.holders.iter().any(|holder| holder.who == who && Some(holder.token) == ask.token));
        let awaited = lock.and_then(|lock| lock.waiting.get(&ask.order)).is_some_and(|waiter| waiter.who == who);
        hold("kept", held == ask.token.is_some() && awaited == ask.token.is_none(), || {
            format!("{owner} is kept as {ask:?} on {}, and the table has held: {held}, awaited: {awaited}", key.resource)
        })?;
        if let Some(token) = ask.token {
            hold("S8", token <= state.token && tokens.insert(token), || format!("{owner} holds {} under {token}", key.resource))?;
        } else {
            let mut visited = 0;
            hold("L5", !state.locks.is_grantable(ask.order, &mut visited), || {
                format!("{owner} waits for {}, which is free for it", key.resource)
            })?;
        }
    }
    hold("kept", count == state.outside.count(), || format!("{count} locks of owners outside are counted as {}", state.outside.count()))?;
    hold("kept", deadlines == *state.outside.deadlines(), || {
        format!("the deadlines of owners outside are {deadlines:?}, and kept as {:?}", state.outside.deadlines())
    })
}
