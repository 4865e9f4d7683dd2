//! Line by line through an export: decodes, keeps the chain, hands every input and decision on, and closes each commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphi_protocol::document::EpicSpec;
use amphi_protocol::ids::{AgentId, CommitIndex, EpicId, IncidentId, ProjectId, SubmitKey, Timestamp, Token};
use amphi_protocol::journal::{IncidentKind, Input, Record, RecordError};

use crate::chain::Chain;
use crate::cluster::{Cluster, InstanceKey};
use crate::effects::Effects;
use crate::export::{ExportLine, LineFault};
use crate::locks::LockTable;
use crate::model::{EpicModel, Stage};
use crate::outside::Outside;
use crate::upkeep::Keeping;
use crate::verdict::{Findings, Law, Verdict};

/// Why a text is no exported journal. `line` counts from 1.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no line at all.
    #[error("the export is empty")]
    Empty,
    /// The line is no export line.
    #[error("line {line} is no line of an exported journal")]
    Line {
        /// The line.
        line: u64,
        /// What is wrong with it.
        #[source]
        source: LineFault,
    },
    /// The first line, and only the first, is the header.
    #[error("line {line}: the header belongs in the first line and nowhere else")]
    Header {
        /// The line.
        line: u64,
    },
    /// Something follows the closing line.
    #[error("line {line} follows the end of the export")]
    AfterEnd {
        /// The line.
        line: u64,
    },
    /// The record cannot be read.
    #[error("line {line} holds no journal record of this build")]
    Record {
        /// The line.
        line: u64,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The record contradicts its line or itself.
    #[error("line {line}: {what}")]
    Inconsistent {
        /// The line.
        line: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A specification is needed that was not exported.
    #[error("line {line} needs the specification {hash}, which the export does not hold")]
    MissingDocument {
        /// The line.
        line: u64,
        /// Its SHA-256 in hex.
        hash: String,
    },
    /// A specification that no build would have accepted.
    #[error("line {line} holds a specification that cannot be judged: {what}")]
    Specification {
        /// The line.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Judges an exported journal. With `epic` (or an epic in the header) only what concerns that epic, or the whole shard, counts.
///
/// Blank lines are skipped. A journal that breaks a law is a verdict; an error means that there was no journal to judge.
pub fn check_lines<L: AsRef<str>>(lines: impl IntoIterator<Item = L>, epic: Option<&EpicId>) -> Result<Verdict, VerifyError> {
    let mut checker = Checker::new(epic.cloned());
    for line in lines {
        checker.line(line.as_ref())?;
    }
    checker.finish()
}

/// The same as [`check_lines`], for who has one line at a time.
#[derive(Debug, Default)]
pub struct Checker {
    pub(crate) findings: Findings,
    pub(crate) cluster: Cluster,
    pub(crate) locks: LockTable,
    pub(crate) outside: Outside,
    pub(crate) effects: Effects,
    pub(crate) epics: Vec<EpicModel>,
    /// `None` for an epic whose graph has a cycle: nothing else can be said about it.
    pub(crate) positions: BTreeMap<EpicId, Option<usize>>,
    pub(crate) keys: BTreeSet<(ProjectId, SubmitKey)>,
    pub(crate) incidents: BTreeMap<IncidentId, (InstanceKey, IncidentKind)>,
    pub(crate) documents: BTreeMap<String, Arc<EpicSpec>>,
    pub(crate) keeping: Keeping,
    pub(crate) last_token: Option<Token>,
    pub(crate) now: Timestamp,
    pub(crate) line: u64,
    /// Attempts whose node is gone; with the commit they must have ended. Instance, run, attempt.
    pub(crate) lost: Vec<(InstanceKey, u32, u32)>,
    /// Instances whose outcome is unknown; with the commit somebody must have been asked.
    pub(crate) unasked: Vec<InstanceKey>,
    /// Instances whose undo failed; with the commit somebody must have been told.
    pub(crate) untold: Vec<InstanceKey>,
    /// What is pinned, by agent; some of it may have been used up since.
    pub(crate) pins: BTreeMap<AgentId, BTreeSet<InstanceKey>>,
    /// Epics that ended in this commit and that a task opened.
    pub(crate) heirs: Vec<usize>,
    chain: Chain,
    /// History before the first record is over.
    cut: bool,
    header_seen: bool,
    end: Option<(CommitIndex, String)>,
}

impl Checker {
    /// Judges everything, or what concerns `epic`.
    pub fn new(epic: Option<EpicId>) -> Self {
        Self { findings: Findings::about(epic), ..Self::default() }
    }

    /// Takes the next line. After an error the checker must not be used any more.
    pub fn line(&mut self, line: &str) -> Result<(), VerifyError> {
        self.line += 1;
        if line.trim().is_empty() {
            return Ok(());
        }
        let number = self.line;
        let decoded = ExportLine::decode(line).map_err(|source| VerifyError::Line { line: number, source })?;
        if matches!(decoded, ExportLine::Header(_)) == self.header_seen {
            return Err(VerifyError::Header { line: number });
        }
        if self.end.is_some() {
            return Err(VerifyError::AfterEnd { line: number });
        }
        match decoded {
            ExportLine::Header(header) => {
                self.header_seen = true;
                self.findings.focus = self.findings.focus.take().or(header.epic);
                self.chain.expect_shard(header.shard);
                self.cut = header.from.is_some_and(|from| from.0 > 1);
                if let Some(from) = header.from {
                    self.chain.begin_at(from);
                }
                Ok(())
            }
            ExportLine::Document { hash, json } => self.document(hash, &json),
            ExportLine::Record { index, record } => self.record(index, record.as_bytes()),
            ExportLine::End { index, hash } => {
                self.end = Some((index, hash));
                Ok(())
            }
        }
    }

    /// The verdict on what was read.
    pub fn finish(mut self) -> Result<Verdict, VerifyError> {
        if !self.header_seen {
            return Err(VerifyError::Empty);
        }
        if let Some((index, hash)) = self.end.take() {
            self.findings.check(Law::S3, &[], index == self.chain.last && hash == self.chain.hash);
        }
        if self.cut {
            self.findings.only_the_chain = true;
        } else {
            self.judge_focus();
            self.judge_ends();
        }
        let focus = self.findings.focus.clone();
        let laws = self.findings.into_laws();
        let mut verdict = Verdict { epic: focus, ok: false, from: self.chain.first, to: self.chain.last, hash: self.chain.hash, laws };
        verdict.ok = verdict.violated().is_empty();
        Ok(verdict)
    }

    fn document(&mut self, hash: String, json: &str) -> Result<(), VerifyError> {
        if Record::hash(json.as_bytes()) != hash {
            return Err(self.inconsistent("the specification does not have the hash under which it stands"));
        }
        let spec = serde_json::from_str(json).map_err(|source| VerifyError::Line { line: self.line, source: LineFault::Json(source) })?;
        self.documents.insert(hash, Arc::new(spec));
        Ok(())
    }

    fn record(&mut self, index: CommitIndex, bytes: &[u8]) -> Result<(), VerifyError> {
        let record = Record::decode(bytes).map_err(|source| VerifyError::Record { line: self.line, source })?;
        if record.index != index {
            return Err(self.inconsistent("the record has another index than its line"));
        }
        if record.inputs.len() != record.decisions.len() {
            return Err(self.inconsistent("the record does not hold one list of decisions per input"));
        }
        if !self.chain.is_of_shard(record.shard) {
            return Err(self.inconsistent("the record belongs to another shard"));
        }
        self.findings.at = record.index;
        self.now = record.now_ms;
        let hash = Record::hash(bytes);
        self.keeping.read(record.index, &hash);
        self.chain.link(&record, hash, &mut self.findings);
        if self.cut {
            // Who holds what and who lives was decided before the first record; nothing can be said of what follows from it.
            return Ok(());
        }
        for (input, decisions) in record.inputs.iter().zip(&record.decisions) {
            // Without a decision an input changed nothing, so nothing can be wrong with having taken it in.
            let excused = !decisions.is_empty() && self.judge_input(input);
            for decision in decisions {
                self.judge_decision(input, decision, excused)?;
            }
            if let Input::Attempt(report) = input {
                self.remember_end(report);
            }
        }
        self.close_commit();
        Ok(())
    }

    pub(crate) fn inconsistent(&self, what: &'static str) -> VerifyError {
        VerifyError::Inconsistent { line: self.line, what }
    }

    /// What must be true only when a commit is complete.
    fn close_commit(&mut self) {
        for ((position, i), run, attempt) in std::mem::take(&mut self.lost) {
            let id = self.epics[position].id.clone();
            let left = self.open(position, i).is_some_and(|open| (open.run, open.attempt) == (run, attempt));
            self.findings.check(Law::S10, &[&id], !left);
            if left {
                self.give_back((position, i));
                let instance = &mut self.epics[position].instances[i as usize];
                instance.written_off = Some((run, attempt));
                instance.stage = Stage::Idle;
            }
        }
        for (position, i) in std::mem::take(&mut self.unasked) {
            let epic = &self.epics[position];
            let waits = matches!(epic.instances[i as usize].stage, Stage::Unknown);
            let asked = self.incidents.values().any(|about| *about == ((position, i), IncidentKind::UnknownOutcome));
            self.findings.check(Law::L2, &[&epic.id], !waits || asked);
        }
        self.judge_pins();
        self.judge_heirs();
        for (position, _) in std::mem::take(&mut self.untold) {
            self.findings.check(Law::L2, &[&self.epics[position].id], false);
        }
    }

    /// The epic that was asked about has to be there.
    fn judge_focus(&mut self) {
        if let Some(focus) = self.findings.focus.clone()
            && !self.positions.contains_key(&focus)
        {
            self.findings.check(Law::S1, &[&focus], false);
        }
    }

    /// Every accepted epic ends, or waits for a person; one that still runs says nothing.
    fn judge_ends(&mut self) {
        for epic in &self.epics {
            let waits = epic.instances.iter().any(|instance| matches!(instance.stage, Stage::Unknown));
            if epic.ended.is_some() || waits {
                self.findings.check(Law::L2, &[&epic.id], true);
            } else if epic.all_ended() && !epic.unsure {
                self.findings.check(Law::L2, &[&epic.id], false);
            }
        }
    }
}
