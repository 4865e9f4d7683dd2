//! A Manager that does not lead yet: it follows the journal, so that it can lead at once, and goes to the journal's very end before it
//! asks for a term. It answers nobody and orders nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{Journal, ObjectStore};
use amphi_protocol::event::Event;
use amphi_protocol::journal::Record;
use bytes::Bytes;
use futures::StreamExt as _;
use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::boot::{BootError, Booted, EVENTS_KEPT, decode};
use super::campaign::Campaign;
use super::{ManagerMessage, ManagerState, Time};

/// Records that may wait in the Manager's mailbox.
const WAITING_MAX: usize = 256;
/// Pause after the journal's end could not be read.
const PAUSE: Duration = Duration::from_millis(100);

/// A record that was read behind the seat's tail.
pub struct Followed {
    /// Where it stands.
    pub sequence: u64,
    /// As it is stored.
    pub bytes: Bytes,
    /// What it says.
    pub record: Record,
    /// Room for the next one, given back when this one was applied.
    _room: OwnedSemaphorePermit,
}

/// The events that the stream of public events may not have yet: only the leader publishes.
#[derive(Default)]
pub(super) struct Unpublished(VecDeque<Event>);

impl Unpublished {
    fn keep(&mut self, events: Vec<Event>) {
        self.0.extend(events);
        let surplus = self.0.len().saturating_sub(EVENTS_KEPT);
        self.0.drain(..surplus);
    }

    pub fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.0).into()
    }
}

impl ManagerState {
    pub(super) fn booted(
        &mut self,
        myself: &ActorRef<ManagerMessage>,
        booted: Result<Booted, BootError>,
    ) -> Result<(), ActorProcessingErr> {
        let Booted { seat, events } = booted?;
        self.unpublished.keep(events);
        let after = seat.tail().0;
        // Nobody may have led for long: what went by counts by the wall clock.
        self.time = Time::from(seat.state().now.max(self.arguments.clock.now()));
        self.seat = Some(seat);
        let arguments = &self.arguments;
        let follow = follow(arguments.journal.clone(), arguments.objects.clone(), after, myself.clone());
        self.reading = Some(AbortOnDropHandle::new(tokio::spawn(follow)));
        let campaign =
            Campaign::new(arguments.candidacy.clone(), arguments.bus.clone(), arguments.shard, arguments.node.as_str(), self.term.clone());
        self.campaign = Some(AbortOnDropHandle::new(tokio::spawn(campaign.run(myself.clone()))));
        Ok(())
    }

    pub(super) fn followed(&mut self, followed: Result<Followed, BootError>) -> Result<(), ActorProcessingErr> {
        let Followed { sequence, bytes, record, _room } = followed?;
        let Some(seat) = self.seat.as_mut().filter(|seat| !seat.is_leading() && seat.is_settled()) else { return Ok(()) };
        // Read twice: while following, and again on the way to the end.
        if sequence <= seat.tail().0 {
            return Ok(());
        }
        self.unpublished.keep(seat.follow(sequence, &bytes, &record)?);
        // The leader's time, and from here on our own monotonic clock: what this machine's wall clock says does not matter any more.
        self.time = Time::from(seat.state().now);
        let index = seat.state().index.0;
        self.arguments.memory.remember(self.arguments.shard, index, seat.tail().1);
        Ok(())
    }

    /// The lease is ours. What the journal holds beyond our tail is read first; the term begins behind it.
    pub(super) fn elected(&mut self, myself: &ActorRef<ManagerMessage>) {
        let Some(seat) = &self.seat else { return };
        let (journal, objects) = (self.arguments.journal.clone(), self.arguments.objects.clone());
        self.reading = Some(AbortOnDropHandle::new(tokio::spawn(catch_up(journal, objects, seat.tail().0, myself.clone()))));
    }

    pub(super) fn caught_up(&mut self) {
        self.reading = None;
        let Some(seat) = self.seat.as_mut().filter(|seat| !seat.is_leading() && seat.is_settled()) else { return };
        seat.lead();
    }
}

/// Hands over every record behind `after`, for as long as the Manager lives.
async fn follow(journal: Arc<dyn Journal>, objects: Arc<dyn ObjectStore>, mut after: u64, manager: ActorRef<ManagerMessage>) {
    let room = Arc::new(Semaphore::new(WAITING_MAX));
    loop {
        let mut records = journal.follow(after);
        while let Some(next) = records.next().await {
            let handed = match next {
                Ok(stored) => hand_over(&manager, &room, &*objects, stored).await,
                // The server may be away for a while; what is damaged shows when the end is read.
                Err(error) if !error.damaged => {
                    tracing::debug!(%error, "the journal is followed later");
                    break;
                }
                Err(error) => Err(error.into()),
            };
            match handed {
                Ok(sequence) => after = sequence,
                Err(error) => return give_up(&manager, error),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hands over what the journal holds behind `after`, then says that this was its end.
async fn catch_up(journal: Arc<dyn Journal>, objects: Arc<dyn ObjectStore>, mut after: u64, manager: ActorRef<ManagerMessage>) {
    let room = Arc::new(Semaphore::new(WAITING_MAX));
    'again: loop {
        let mut records = journal.read(after);
        while let Some(next) = records.next().await {
            let handed = match next {
                Ok(stored) => hand_over(&manager, &room, &*objects, stored).await,
                Err(error) if !error.damaged => {
                    tracing::warn!(%error, "the journal's end cannot be read yet");
                    tokio::time::sleep(PAUSE).await;
                    continue 'again;
                }
                Err(error) => Err(error.into()),
            };
            match handed {
                Ok(sequence) => after = sequence,
                Err(error) => return give_up(&manager, error),
            }
        }
        let _gone = manager.cast(ManagerMessage::CaughtUp);
        return;
    }
}

async fn hand_over(
    manager: &ActorRef<ManagerMessage>,
    room: &Arc<Semaphore>,
    objects: &dyn ObjectStore,
    (sequence, bytes): (u64, Bytes),
) -> Result<u64, BootError> {
    let record = decode(sequence, &bytes, objects).await?;
    if let Ok(room) = room.clone().acquire_owned().await {
        let followed = Followed { sequence, bytes, record, _room: room };
        let _gone = manager.cast(ManagerMessage::Followed(Box::new(Ok(followed))));
    }
    Ok(sequence)
}

fn give_up(manager: &ActorRef<ManagerMessage>, error: BootError) {
    tracing::error!(error = &error as &(dyn std::error::Error + 'static), "the journal cannot be followed");
    let _gone = manager.cast(ManagerMessage::Followed(Box::new(Err(error))));
}
