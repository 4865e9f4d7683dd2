//! A standby: a seat that follows the journal at its own pace, and may be the next to lead. What it has followed must be what a Manager
//! has that read everything anew.

use amphi_coordination::laws::Violation;
use amphi_coordination::seat::Seat;
use amphi_protocol::ids::NodeId;

use super::world::World;

impl World {
    /// The standby reads a few records, all there are, or nothing. Behind a trim it begins anew.
    pub fn standby_follows(&mut self) {
        let seat = match self.standby.take() {
            Some(seat) if !self.is_behind_a_trim(&seat) => Ok(seat),
            Some(_) | None => self.begun_anew(),
        };
        let Ok(mut seat) = seat.map_err(|violation| self.violated(&violation)) else { return };
        let behind = self.journal.len() - seat.tail().0;
        let upto = seat.tail().0 + if self.rng.chance(50) { behind } else { self.rng.below(behind + 1) };
        match self.follow_to(&mut seat, upto) {
            Ok(()) => self.standby = Some(seat),
            Err(words) => self.fail("S3", words),
        }
    }

    fn is_behind_a_trim(&mut self, seat: &Seat) -> bool {
        let behind = seat.tail().0 + 1 < self.journal.first;
        if behind {
            self.tally.seen("standby.behind_a_trim");
        }
        behind
    }

    fn begun_anew(&mut self) -> Result<Seat, Violation> {
        let id = self.id();
        self.restored(NodeId::parse(&format!("manager-{id}")).expect("the id is valid"))
    }

    fn follow_to(&self, seat: &mut Seat, upto: u64) -> Result<(), String> {
        while seat.tail().0 < upto {
            let position = seat.tail().0;
            let (bytes, record) = &self.journal.records[position as usize];
            seat.follow(position + 1, bytes, record).map_err(|error| format!("a standby cannot follow: {error}"))?;
        }
        Ok(())
    }

    /// The standby as the next to lead, if there is one that has not fallen behind a trim: it goes on from where it is.
    pub fn standby_stands_up(&mut self) -> Option<Seat> {
        let seat = self.standby.take()?;
        if self.is_behind_a_trim(&seat) {
            return None;
        }
        self.tally.seen("standby.leads");
        Some(seat)
    }

    /// At the end the standby has the live state.
    pub fn check_standby(&mut self, live: &str) -> Result<(), Violation> {
        let Some(mut seat) = self.standby.take() else { return Ok(()) };
        if self.is_behind_a_trim(&seat) {
            seat = self.begun_anew()?;
        }
        let violation = |words: String| Violation { law: "S3", words };
        self.follow_to(&mut seat, self.journal.len()).map_err(violation)?;
        if seat.state().digest() == live { Ok(()) } else { Err(violation("a standby has another state than the leader".to_owned())) }
    }
}
