//! Pause: nothing new of an epic starts, and its requests hold nobody up. They keep their order, so a resumed epic stands again where
//! it stood.

use amphi_protocol::event::EventType;
use amphi_protocol::ids::EpicId;

use crate::sink::{EventSink, data};
use crate::state::State;

impl State {
    pub(crate) fn epic_paused(&mut self, id: &EpicId, by: &str, sink: &mut EventSink) {
        self.epic_mut(id).paused = true;
        self.epic_event(sink, EventType::EpicPaused, id, data! { "by": by });
        self.queue_anew(id);
    }

    pub(crate) fn epic_resumed(&mut self, id: &EpicId, by: &str, sink: &mut EventSink) {
        self.epic_mut(id).paused = false;
        self.epic_event(sink, EventType::EpicResumed, id, data! { "by": by });
        self.queue_anew(id);
    }

    /// Its ready instances stand in the queues as they now may, and say what they wait for. Rare, so it may cost the size of the epic.
    fn queue_anew(&mut self, id: &EpicId) {
        let instances = (0u32..).zip(&self.epics[id].instances);
        let ready: Vec<(u32, u64)> = instances.filter_map(|(i, instance)| Some((i, instance.state.order()?))).collect();
        for (i, order) in ready {
            let locks = self.leave_class(id, i, order);
            self.join_class(id, i, order, locks);
        }
    }
}
