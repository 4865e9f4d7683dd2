//! What the agents of this node were told last. Written by the agents themselves, read by whoever shows them; nothing is decided from it.
//!
//! Bounded for each agent in number and bytes, the oldest go first. An agent that is started again still has what it had.

use std::collections::VecDeque;
use std::sync::Arc;

use amphi_protocol::ids::AgentId;
use amphi_protocol::message::ReceivedMessage;
use dashmap::DashMap;

/// Messages kept for each agent.
pub const MESSAGES_MAX: usize = 20;
/// Bytes kept for each agent; one message may be larger and is then alone.
const BYTES_MAX: usize = 1024 * 1024;
/// Ids by which an agent recognises what it has had.
const IDS_MAX: usize = 256;

/// A message with its size; many agents share it.
#[derive(Debug, Clone)]
pub struct KeptMessage {
    /// The message.
    pub received: Arc<ReceivedMessage>,
    /// Its size when it came.
    pub bytes: usize,
}

/// All inboxes of a node. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Inboxes(Arc<DashMap<AgentId, Inbox>>);

#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<KeptMessage>,
    ids: VecDeque<String>,
}

impl Inboxes {
    /// The agent has the message, once.
    pub fn put(&self, agent: &AgentId, letter: KeptMessage) {
        let mut inbox = self.0.entry(agent.clone()).or_default();
        if inbox.ids.contains(&letter.received.id) {
            return;
        }
        inbox.ids.push_back(letter.received.id.clone());
        inbox.messages.push_back(letter);
        if inbox.ids.len() > IDS_MAX {
            inbox.ids.pop_front();
        }
        while inbox.messages.len() > MESSAGES_MAX
            || inbox.messages.len() > 1 && inbox.messages.iter().map(|kept| kept.bytes).sum::<usize>() > BYTES_MAX
        {
            inbox.messages.pop_front();
        }
    }

    /// What an agent was told, the latest last.
    pub fn of(&self, agent: &AgentId) -> Vec<Arc<ReceivedMessage>> {
        self.0.get(agent).map(|inbox| inbox.messages.iter().map(|kept| kept.received.clone()).collect()).unwrap_or_default()
    }

    /// The agent has left for good.
    pub fn remove(&self, agent: &AgentId) {
        self.0.remove(agent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphi_protocol::message::AgentMessage;

    fn letter(id: usize, bytes: usize) -> KeptMessage {
        let message = AgentMessage::from_json(br#"{"from":"A","to":"B","type":"error","payload":null}"#).unwrap();
        let received = ReceivedMessage { id: id.to_string(), at: String::new(), live: false, message, about: None };
        KeptMessage { received: Arc::new(received), bytes }
    }

    fn ids(inboxes: &Inboxes) -> Vec<String> {
        inboxes.of(&AgentId::parse("a").unwrap()).iter().map(|received| received.id.clone()).collect()
    }

    #[test]
    fn an_inbox_is_bounded_in_number_and_in_bytes_and_keeps_the_latest() {
        let (inboxes, agent) = (Inboxes::default(), AgentId::parse("a").unwrap());
        (0..MESSAGES_MAX + 5).for_each(|id| inboxes.put(&agent, letter(id, 10)));
        assert_eq!((ids(&inboxes).len(), ids(&inboxes).first().map(String::as_str)), (MESSAGES_MAX, Some("5")));
        inboxes.put(&agent, letter(100, BYTES_MAX));
        inboxes.put(&agent, letter(101, BYTES_MAX));
        assert_eq!(ids(&inboxes), ["101"]);
    }

    #[test]
    fn what_comes_again_is_recognised() {
        let (inboxes, agent) = (Inboxes::default(), AgentId::parse("a").unwrap());
        [1, 2, 1, 2, 3].into_iter().for_each(|id| inboxes.put(&agent, letter(id, 10)));
        assert_eq!(ids(&inboxes), ["1", "2", "3"]);
    }
}
