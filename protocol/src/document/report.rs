//! Where problems are collected: all of them, each with its place, but never an unbounded list.

use std::collections::HashSet;

use crate::api::{ErrorCode, Problem};
use crate::document::yaml::{Place, Refused};

/// More problems than this are only counted.
const PROBLEMS_MAX: usize = 200;
/// Distinct messages that are remembered.
const SAID_MAX: usize = 10_000;
/// Comparisons that all did-you-mean searches of one document may make together.
const COMPARISONS_MAX: usize = 200_000;

/// Problems and warnings of one document.
pub(super) struct Report {
    file: Option<String>,
    /// The files that there are problems in, in the order in which they were entered.
    files: Vec<Option<String>>,
    /// What the sub-epics that were read so far cost.
    pub nested: usize,
    strict: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// What was said already: a mistake in `defaults` is not repeated for every task.
    said: HashSet<(usize, u32, u32, ErrorCode, String)>,
    uncounted: usize,
    found: usize,
    comparisons: usize,
}

impl Report {
    /// An empty one. With `strict`, warnings are problems.
    pub(super) fn new(file: Option<String>, strict: bool) -> Self {
        Self {
            files: vec![file.clone()],
            file,
            nested: 0,
            strict,
            problems: Vec::new(),
            warnings: Vec::new(),
            said: HashSet::new(),
            uncounted: 0,
            found: 0,
            comparisons: COMPARISONS_MAX,
        }
    }

    /// From here on it is about another file; gives the one before.
    pub(super) fn enter(&mut self, file: Option<String>) -> Option<String> {
        if !self.files.contains(&file) {
            self.files.push(file.clone());
        }
        std::mem::replace(&mut self.file, file)
    }

    fn position(&self, file: &Option<String>) -> usize {
        self.files.iter().position(|known| known == file).unwrap_or(0)
    }

    /// How often something was wrong, repetitions included.
    pub(super) fn count(&self) -> usize {
        self.found
    }

    /// True if further problems are only counted, so that they need no text.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    pub(super) fn error(&mut self, place: Place, code: ErrorCode, message: impl Into<String>) {
        self.push(place, code, message.into(), None);
    }

    pub(super) fn error_hint(&mut self, place: Place, code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) {
        self.push(place, code, message.into(), Some(hint.into()));
    }

    /// The usual one: a value of the wrong shape.
    pub(super) fn wrong(&mut self, place: Place, message: impl Into<String>) {
        self.push(place, ErrorCode::EpicType, message.into(), None);
    }

    pub(super) fn refused(&mut self, refused: Refused) {
        self.push(refused.place, refused.code, refused.message, refused.hint.map(str::to_owned));
    }

    /// Something that is allowed but probably not meant.
    pub(super) fn warn(&mut self, place: Place, code: ErrorCode, message: impl Into<String>, hint: Option<String>) {
        let message = message.into();
        if self.strict {
            self.push(place, code, message, hint);
        } else if self.warnings.len() < PROBLEMS_MAX && self.is_news(place, code, &message, hint.as_deref()) {
            let problem = self.problem(place, code, message, hint);
            self.warnings.push(problem);
        }
    }

    /// False if the same was said at the same place. The hint may name another task that a file is wrong for.
    fn is_news(&mut self, place: Place, code: ErrorCode, message: &str, hint: Option<&str>) -> bool {
        let file = self.position(&self.file);
        let text = format!("{message}\n{}", hint.unwrap_or_default());
        self.said.len() >= SAID_MAX || self.said.insert((file, place.line, place.column, code, text))
    }

    fn problem(&self, place: Place, code: ErrorCode, message: String, hint: Option<String>) -> Problem {
        Problem { file: self.file.clone(), line: place.line, column: place.column, code, message, hint }
    }

    fn push(&mut self, place: Place, code: ErrorCode, message: String, hint: Option<String>) {
        self.found += 1;
        if !self.is_news(place, code, &message, hint.as_deref()) {
            return;
        }
        if self.problems.len() < PROBLEMS_MAX {
            let problem = self.problem(place, code, message, hint);
            self.problems.push(problem);
        } else {
            self.uncounted += 1;
        }
    }

    /// The nearest of `candidates`, as a hint. Bounded over the whole document.
    pub(super) fn suggest<'c>(&mut self, wrong: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
        if wrong.len() > crate::ids::ID_LENGTH_MAX {
            return None;
        }
        let mut best: Option<(f64, &str)> = None;
        for candidate in candidates {
            if self.comparisons == 0 {
                break;
            }
            self.comparisons -= 1;
            let likeness = strsim::jaro_winkler(wrong, candidate);
            if likeness >= 0.75 && best.is_none_or(|(most, _)| likeness > most) {
                best = Some((likeness, candidate));
            }
        }
        best.map(|(_, candidate)| format!("did you mean `{candidate}`?"))
    }

    /// Problems and warnings in the order of the files and of their text.
    pub(super) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        let (mut problems, mut warnings) = (std::mem::take(&mut self.problems), std::mem::take(&mut self.warnings));
        problems.sort_by_key(|problem| (self.position(&problem.file), problem.line, problem.column));
        warnings.sort_by_key(|problem| (self.position(&problem.file), problem.line, problem.column));
        if self.uncounted > 0 {
            let code = ErrorCode::EpicLimit;
            let message = format!("and {} more problems", self.uncounted);
            let problem = Problem { file: self.file, line: 0, column: 0, code, message, hint: None };
            problems.push(problem);
        }
        (problems, warnings)
    }
}

/// A user's text for a message: cut, and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(80).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}
