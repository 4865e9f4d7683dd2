//! Effects outside: processes write down what they are about to do, do it for real, and say what became of it, or die between. Whoever
//! is concerned knows the truth and is asked by the next attempt, sometimes in vain.

use amphi_protocol::document::Work;
use amphi_protocol::ids::AttemptRef;
use amphi_protocol::journal::effect::is_ledger_tool;
use amphi_protocol::journal::{AttemptNews, EffectEnd, EffectIntent, KnownEffect, Outcome};
use amphi_protocol::node::{Assignment, Job};

use super::world::{Cause, Event, World};

/// The one effect of a run.
const EFFECT: &str = "post";

/// What an attempt is to bring about.
#[derive(Debug, Clone)]
pub(super) struct Outward {
    pub known: Option<KnownEffect>,
    askable: bool,
}

impl Outward {
    pub fn of(assignment: &Assignment) -> Option<Self> {
        let job: Job = serde_json::from_str(&assignment.job_json).expect("a Manager sends jobs");
        match &job.work {
            Work::Tool { tool, with } if is_ledger_tool(tool) => {
                let askable = with["askable"].as_bool().unwrap_or_default();
                Some(Self { known: job.effects.get(EFFECT).cloned(), askable })
            }
            _ => None,
        }
    }
}

impl World {
    pub fn process_intends(&mut self, pid: u32) {
        let askable = self.processes.get(pid).and_then(|process| process.effect.as_ref()).is_some_and(|effect| effect.askable);
        let intent = EffectIntent { effect: EFFECT.to_owned(), tool: "http.post".to_owned(), askable, about: "POST".to_owned() };
        self.process_reports(pid, AttemptNews::Intend(intent));
    }

    /// Through its node, if that is there; a stopped one hears it later.
    fn process_reports(&mut self, pid: u32, what: AttemptNews) -> bool {
        let Some(process) = self.processes.get(pid) else { return false };
        let (node, life, attempt, token) = (process.node, process.life, process.attempt.clone(), process.token);
        let there = self.nodes[node].is_up_in(life);
        if there {
            self.report(node, &attempt, token, what);
        }
        there
    }

    /// The intent is on record.
    pub fn may_act(&mut self, node: usize, attempt: &AttemptRef) {
        let life = self.nodes[node].life;
        if let Some(pid) = self.processes.of(attempt, life) {
            let delay = self.rng.between(1, 60);
            self.after(delay, Event::ProcessActs { pid });
        }
    }

    pub fn process_asks(&mut self, pid: u32) {
        let Some(process) = self.processes.get(pid) else { return };
        let done = self.observer.happened(&process.attempt).unwrap_or_default();
        let end = if self.rng.chance(25) {
            self.tally.seen("effect.in_vain");
            EffectEnd::Unknown { why: "no answer".to_owned() }
        } else {
            self.tally.seen("effect.asked");
            if done { EffectEnd::Done { outputs: Default::default() } } else { EffectEnd::NotDone { why: "it is not there".to_owned() } }
        };
        let goes_on = matches!(end, EffectEnd::NotDone { .. });
        self.process_tells(pid, &end);
        if goes_on {
            self.process_intends(pid);
        }
    }

    pub fn process_acts(&mut self, pid: u32) {
        let Some(process) = self.processes.get(pid) else { return };
        let attempt = process.attempt.clone();
        let end = match self.rng.below(100) {
            0..7 => EffectEnd::NotDone { why: "refused".to_owned() },
            other => {
                self.observer.acts(&attempt, self.time);
                self.noticed();
                if other < 15 {
                    self.tally.seen("effect.unheard");
                    EffectEnd::Unknown { why: "no answer".to_owned() }
                } else {
                    EffectEnd::Done { outputs: Default::default() }
                }
            }
        };
        let delay = self.rng.between(1, 80);
        self.after(delay, Event::ProcessTells { pid, end });
    }

    pub fn process_tells(&mut self, pid: u32, end: &EffectEnd) {
        // Now and then what comes after the effect fails, so that another attempt finds it done.
        let fails_after = self.rng.chance(12);
        let outcome = match end {
            EffectEnd::Done { .. } if fails_after => Some(Outcome::AgentLost),
            EffectEnd::Done { .. } => Some(Outcome::Succeeded),
            EffectEnd::Unknown { .. } => Some(Outcome::Exit),
            // It was asked for, and is done now.
            EffectEnd::NotDone { why } if why == "it is not there" => None,
            EffectEnd::NotDone { .. } => Some(Outcome::Exit),
        };
        let told = self.process_reports(pid, AttemptNews::Effect { effect: EFFECT.to_owned(), end: end.clone() });
        if let Some(outcome) = outcome.filter(|_| told) {
            let delay = self.rng.between(1, 60);
            self.after(delay, Event::ProcessEnds { pid, cause: Cause::Itself(outcome) });
        }
    }
}
