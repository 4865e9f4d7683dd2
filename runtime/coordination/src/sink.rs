//! Where public events go while decisions are applied. Counting costs nothing; building an event is left out where nobody looks.

use amphi_protocol::event::{Event, EventType};
use amphi_protocol::ids::{AgentId, EpicId, EventSeq, NodeId, ShardId, Timestamp};
use serde_json::{Map, Value};

/// Collects events or only counts them.
#[derive(Debug, Default)]
pub struct EventSink {
    collected: Option<Vec<Event>>,
}

impl EventSink {
    /// Keeps every event.
    pub fn collecting() -> Self {
        Self { collected: Some(Vec::new()) }
    }

    /// Keeps none.
    pub fn counting() -> Self {
        Self { collected: None }
    }

    /// What was kept since the last call.
    pub fn take(&mut self) -> Vec<Event> {
        self.collected.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn is_collecting(&self) -> bool {
        self.collected.is_some()
    }

    pub(crate) fn push(&mut self, event: Event) {
        if let Some(collected) = &mut self.collected {
            collected.push(event);
        }
    }
}

/// The parts of an event that its maker knows.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    pub epic: Option<EpicId>,
    pub task: Option<String>,
    pub task_token: Option<String>,
    pub run: Option<u32>,
    pub attempt: Option<u32>,
    pub agent: Option<AgentId>,
    pub node: Option<NodeId>,
}

pub(crate) fn event(shard: ShardId, seq: EventSeq, now: Timestamp, kind: EventType, subject: Subject, data: Map<String, Value>) -> Event {
    Event {
        shard,
        seq,
        ts: now.to_rfc3339(),
        epic: subject.epic,
        task: subject.task,
        run: subject.run,
        attempt: subject.attempt,
        agent: subject.agent,
        node: subject.node,
        kind,
        data,
        task_token: subject.task_token,
    }
}

/// `data! { "a": x, … }` as the map that events carry.
macro_rules! data {
    ($($key:literal : $value:expr),* $(,)?) => {{
        #[allow(unused_mut, reason = "an empty map is not changed")]
        let mut map = serde_json::Map::new();
        $( map.insert($key.to_owned(), serde_json::json!($value)); )*
        map
    }};
}
pub(crate) use data;
