//! Inputs: whose word is it, about what, and has it been taken before (S8, S13, S15).
//!
//! An input with a fault of its own excuses the decisions that follow from it, so that one broken law is not reported as several.

use std::hash::{DefaultHasher, Hash, Hasher};

use amphi_protocol::ids::AgentId;
use amphi_protocol::journal::{AttemptNews, AttemptReport, Input};

use crate::checker::Checker;
use crate::model::Stage;
use crate::verdict::Law;

impl Checker {
    /// Judges an input that led to decisions; true if it should not have been taken in.
    pub(crate) fn judge_input(&mut self, input: &Input) -> bool {
        match input {
            Input::Attempt(report) => self.judge_report(report),
            Input::Agent(report) => {
                let speaks = self.cluster.life(&report.node) == Some(report.incarnation);
                // An agent that its node did not present is unknown, not another node's.
                let own = self.cluster.node_of(&report.agent).is_none_or(|node| *node == report.node);
                !self.findings.check(Law::S15, &[], speaks && own)
            }
            Input::Staff(report) => {
                let speaks = self.cluster.life(&report.node) == Some(report.incarnation);
                let own = |agent: &AgentId| self.cluster.node_of(agent).is_none_or(|node| *node == report.node);
                let own = report.removed.iter().all(own);
                !self.findings.check(Law::S15, &[], speaks && own)
            }
            Input::Join(info) => {
                let newer = self.cluster.life(&info.node).is_none_or(|life| life <= info.incarnation);
                !self.findings.check(Law::S15, &[], newer)
            }
            Input::Lead { .. }
            | Input::Submit(_)
            | Input::CancelEpic { .. }
            | Input::PauseEpic { .. }
            | Input::ResumeEpic { .. }
            | Input::RetryEpic { .. }
            | Input::SkipTask { .. }
            | Input::CancelTask { .. }
            | Input::AssignTask { .. }
            | Input::RetryTask { .. }
            | Input::AckIncident { .. }
            | Input::ResolveIncident { .. }
            | Input::LoseNode { .. }
            | Input::Silent { .. }
            | Input::Tick
            | Input::Upkeep(_)
            | Input::Signal { .. }
            | Input::AcquireLock { .. }
            | Input::RenewLock { .. }
            | Input::ReleaseLock { .. }
            | Input::Hold { .. } => false,
        }
    }

    fn judge_report(&mut self, report: &AttemptReport) -> bool {
        let about = &report.attempt;
        let Some((position, i)) = self.find(about) else { return false };
        let epic = &self.epics[position];
        let instance = &epic.instances[i as usize];
        let speaks = self.cluster.life(&report.node) == Some(report.incarnation);
        if let Stage::Open(open) = &instance.stage
            && (open.run, open.attempt) == (about.run, about.attempt)
        {
            let own = (&open.node, open.incarnation) == (&report.node, report.incarnation);
            let by_right = self.findings.check(Law::S15, &[&epic.id], speaks && own);
            let under_token = self.findings.check(Law::S8, &[&epic.id], open.token == report.token);
            if matches!(report.what, AttemptNews::Ended(_)) {
                self.findings.check(Law::S13, &[&epic.id], true);
            }
            return !(by_right && under_token);
        }
        if instance.end_seen == Some((about.run, about.attempt, digest(report))) {
            return !self.findings.check(Law::S13, &[&epic.id], false);
        }
        !self.findings.check(Law::S15, &[&epic.id], speaks)
    }

    /// Remembers the report of an end, to know it when it comes again.
    pub(crate) fn remember_end(&mut self, report: &AttemptReport) {
        if let (AttemptNews::Ended(_), Some((position, i))) = (&report.what, self.find(&report.attempt)) {
            let seen = (report.attempt.run, report.attempt.attempt, digest(report));
            self.epics[position].instances[i as usize].end_seen = Some(seen);
        }
    }
}

fn digest(report: &AttemptReport) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&report.what).expect("a report has only string keys and finite numbers").hash(&mut hasher);
    hasher.finish()
}
