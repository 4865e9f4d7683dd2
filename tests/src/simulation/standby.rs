//! A standby: a seat that follows the journal at its own pace, and may be the next to lead. What it has followed must be what a Manager
//! has that read everything anew.

use amphi_coordination::seat::Seat;
use amphi_protocol::ids::NodeId;

use super::world::World;

impl World {
    /// The standby reads a few records, all there are, or nothing. Behind a trim it begins anew.
    pub fn standby_follows(&mut self) {
        let seat = match self.standby.take() {
            Some(seat) if seat.tail().0 + 1 >= self.journal.first => Ok(seat),
            Some(_) => {
                self.tally.seen("standby.behind_a_trim");
                self.begun_anew()
            }
            None => self.begun_anew(),
        };
        let Ok(mut seat) = seat.map_err(|violation| self.violated(&violation)) else { return };
        let behind = self.journal.len() - seat.tail().0;
        let upto = seat.tail().0 + if self.rng.chance(50) { behind } else { self.rng.below(behind + 1) };
        match self.follow_to(&mut seat, upto) {
            Ok(()) => self.standby = Some(seat),
            Err(words) => self.fail("S3", words),
        }
    }

    fn begun_anew(&mut self) -> Result<Seat, amphi_coordination::laws::Violation> {
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
        if seat.tail().0 + 1 < self.journal.first {
            self.tally.seen("standby.behind_a_trim");
            return None;
        }
        self.tally.seen("standby.leads");
        Some(seat)
    }

    /// At the end the standby has the live state.
    pub fn check_standby(&mut self, live: &str) -> Result<(), amphi_coordination::laws::Violation> {
        let Some(mut seat) = self.standby.take().filter(|seat| seat.tail().0 + 1 >= self.journal.first) else { return Ok(()) };
        let violation = |words: String| amphi_coordination::laws::Violation { law: "S3", words };
        self.follow_to(&mut seat, self.journal.len()).map_err(violation)?;
        if seat.state().digest() == live { Ok(()) } else { Err(violation("a standby has another state than the leader".to_owned())) }
    }
}
