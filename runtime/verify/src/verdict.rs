//! The answer: one result per law, with the journal positions that prove a violation.

use amphi_protocol::ids::{CommitIndex, EpicId};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Most positions that are kept as evidence of one law.
pub const EVIDENCE_MAX: usize = 32;

macro_rules! laws {
    ($($(#[$doc:meta])* $law:ident,)*) => {
        /// The laws of the interface, in its order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Law { $($(#[$doc])* $law,)* }

        impl Law {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$law,)*];

            /// `S1`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$law => stringify!($law),)* }
            }
        }
    };
}

laws! {
    /// Every acknowledged submission is in the journal.
    S1,
    /// One epoch per position, epochs only grow, nothing of an older one after a newer began.
    S2,
    /// The journal is whole, so that replaying it gives the live state.
    S3,
    /// At most one open attempt per run.
    S4,
    /// An ended run stays ended.
    S5,
    /// A task starts only when its needs are satisfied.
    S6,
    /// A writer holds a resource alone.
    S7,
    /// Fencing tokens only grow, nothing reported under an older one counts.
    S8,
    /// A `retry: 0` task is started at most once.
    S9,
    /// The locks of an ended attempt are free in the same commit.
    S10,
    /// Conflicting lock requests are granted in the order they came.
    S11,
    /// The next attempt goes to another agent where one exists.
    S12,
    /// Each input is applied exactly once.
    S13,
    /// An attempt runs only where the role and skills are.
    S14,
    /// No message of node A counts as node B's.
    S15,
    /// No secret leaves.
    S16,
    /// No write outside the workspace.
    S17,
    /// The graph is acyclic.
    S18,
    /// No denied policy and no undecided gate was passed.
    S19,
    /// A Manager leads.
    L1,
    /// Every accepted epic ends, or waits for a person and says so.
    L2,
    /// A ready task is assigned.
    L3,
    /// A stuck agent is replaced.
    L4,
    /// A lock waiter is served.
    L5,
    /// A cancel stops all processes.
    L6,
    /// A poison task is not retried for ever.
    L7,
    /// Queues drain.
    L8,
}

impl Law {
    /// False if a journal alone cannot tell.
    fn is_checkable(self) -> bool {
        !matches!(self, Self::S16 | Self::S17 | Self::L1 | Self::L3 | Self::L4 | Self::L5 | Self::L6 | Self::L8)
    }
}

/// What is said about a law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LawResult {
    /// It was put to the test and held.
    Holds,
    /// It was broken.
    Violated,
    /// Its situation never occurred.
    NotExercised,
    /// A journal alone cannot tell.
    NotCheckable,
}

impl LawResult {
    /// `not_exercised`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Violated => "violated",
            Self::NotExercised => "not_exercised",
            Self::NotCheckable => "not_checkable",
        }
    }
}

/// One law and what was found about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LawVerdict {
    /// The law.
    pub law: Law,
    /// What was found.
    pub result: LawResult,
    /// How often its situation occurred.
    pub checked: u64,
    /// Journal indexes of the violations, the first [`EVIDENCE_MAX`] of them.
    pub evidence: Vec<CommitIndex>,
}

/// The verdict on a journal. As JSON it is the body of `epic verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The epic that was asked about; all of them if there is none.
    pub epic: Option<EpicId>,
    /// No law is violated.
    pub ok: bool,
    /// Index of the first record read, 0 if there was none.
    pub from: CommitIndex,
    /// Index of the last record read, 0 if there was none.
    pub to: CommitIndex,
    /// SHA-256 of the last record's bytes, in hex: the head of the chain.
    pub hash: String,
    /// All laws in the order of the interface.
    pub laws: Vec<LawVerdict>,
}

impl Verdict {
    /// The laws that were violated.
    pub fn violated(&self) -> Vec<Law> {
        self.laws.iter().filter(|row| row.result == LawResult::Violated).map(|row| row.law).collect()
    }
}

impl Serialize for LawVerdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("LawVerdict", 4)?;
        object.serialize_field("law", self.law.as_str())?;
        object.serialize_field("result", self.result.as_str())?;
        object.serialize_field("checked", &self.checked)?;
        object.serialize_field("evidence", &self.evidence)?;
        object.end()
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Verdict", 6)?;
        object.serialize_field("epic", &self.epic)?;
        object.serialize_field("ok", &self.ok)?;
        object.serialize_field("from", &self.from)?;
        object.serialize_field("to", &self.to)?;
        object.serialize_field("hash", &self.hash)?;
        object.serialize_field("laws", &self.laws)?;
        object.end()
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Only what concerns this epic, or the whole shard, is counted.
    pub focus: Option<EpicId>,
    /// Index of the record under judgement.
    pub at: CommitIndex,
    /// What was before the first record is not known.
    pub only_the_chain: bool,
    rows: std::collections::BTreeMap<Law, Row>,
}

#[derive(Debug, Default)]
struct Row {
    checked: u64,
    evidence: Vec<CommitIndex>,
    violated: bool,
}

impl Findings {
    /// Nothing found yet.
    pub fn about(focus: Option<EpicId>) -> Self {
        Self { focus, ..Self::default() }
    }

    /// The law's situation occurred between `epics` (none: in the shard); it was broken unless `holds`. Returns `holds`.
    pub fn check(&mut self, law: Law, epics: &[&EpicId], holds: bool) -> bool {
        let concerned = match &self.focus {
            Some(focus) if !epics.is_empty() => epics.contains(&focus),
            _ => true,
        };
        if concerned {
            let row = self.rows.entry(law).or_default();
            row.checked += 1;
            if !holds {
                row.violated = true;
                if row.evidence.last() != Some(&self.at) && row.evidence.len() < EVIDENCE_MAX {
                    row.evidence.push(self.at);
                }
            }
        }
        holds
    }

    /// One row per law.
    pub fn into_laws(mut self) -> Vec<LawVerdict> {
        let only_the_chain = self.only_the_chain;
        let judge = |&law: &Law| {
            let row = self.rows.remove(&law).unwrap_or_default();
            let checkable = law.is_checkable() && (!only_the_chain || matches!(law, Law::S2 | Law::S3));
            let result = match (checkable, row.violated, row.checked) {
                (false, ..) => LawResult::NotCheckable,
                (true, true, _) => LawResult::Violated,
                (true, false, 0) => LawResult::NotExercised,
                (true, false, _) => LawResult::Holds,
            };
            LawVerdict { law, result, checked: row.checked, evidence: row.evidence }
        };
        Law::ALL.iter().map(judge).collect()
    }
}
