//! Pause: nothing new of an epic starts, and its requests hold nobody up. They keep their order, so a resumed epic stands again where
//! it stood.

use amphi_protocol::event::EventType;
use amphi_protocol::ids::EpicId;

use crate::epic::InstanceState;
use crate::sink::{EventSink, data};
use crate::state::State;

impl State {
    pub(crate) fn epic_paused(&mut self, id: &EpicId, by: &str, sink: &mut EventSink) {
        self.epic_mut(id).paused = true;
        self.epic_event(sink, EventType::EpicPaused, id, data! { "by": by });
        for (i, order) in self.ready_of(id) {
            let epic = &self.epics[id];
            let (rank, turn) = (epic.rank(i, order), epic.turn);
            let class = self.queue.find(&epic.demand(i)).expect("a ready instance has a class");
            self.queue.classes[class].runnable.remove(rank, turn, id);
            if self.queue.classes[class].locking.contains(&order) {
                let changes = self.locks.park(order);
                self.follow(changes);
            }
            // It says what it waits for now.
            self.due.fresh.push((id.clone(), i));
        }
    }

    pub(crate) fn epic_resumed(&mut self, id: &EpicId, by: &str, sink: &mut EventSink) {
        self.epic_mut(id).paused = false;
        self.epic_event(sink, EventType::EpicResumed, id, data! { "by": by });
        for (i, order) in self.ready_of(id) {
            let epic = &self.epics[id];
            let (rank, turn) = (epic.rank(i, order), epic.turn);
            let class = self.queue.find(&epic.demand(i)).expect("a ready instance has a class");
            if !self.queue.classes[class].locking.contains(&order) {
                self.queue.classes[class].runnable.insert(rank, turn, id, i);
            } else if self.queue.classes[class].servable {
                let changes = self.locks.unpark(order);
                self.follow(changes);
            }
            self.due.fresh.push((id.clone(), i));
        }
    }

    /// Its ready instances with their order. Rare, so it may cost the size of the epic.
    fn ready_of(&self, id: &EpicId) -> Vec<(u32, u64)> {
        let ready = (0u32..).zip(&self.epics[id].instances).filter_map(|(i, instance)| match instance.state {
            InstanceState::Ready { order, .. } => Some((i, order)),
            InstanceState::Blocked
            | InstanceState::Open(_)
            | InstanceState::Backoff { .. }
            | InstanceState::Waiting { .. }
            | InstanceState::Nested(_)
            | InstanceState::Unknown { .. }
            | InstanceState::Ended(_) => None,
        });
        ready.collect()
    }
}
